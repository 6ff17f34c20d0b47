package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CopyOptions say what becomes of a tree in a copy.
type CopyOptions struct {
	IDs      *IDs         // whose its owners are; nil for owners as they are
	NotAfter time.Time    // a later modification time becomes this one; zero for none
	Warn     func(string) // told what was left out; may be nil
}

// Copy makes dir/fs a copy of the layer's tree at fs, with its whiteouts and opaque directories, and without what no layer carries. Content
// is shared where the filesystem can (ioctl_ficlone(2)), else it is copied in the kernel, and holes stay holes.
//
// The tree may be written to meanwhile. Then the copy has of each file what was there when its turn came: what vanishes before is left out,
// and nothing is half a name; but files that belong together may be of different moments.
func Copy(ctx context.Context, fs, dir *os.File, opt CopyOptions) error {
	warnings := &fewWarnings{warn: opt.Warn}
	opt.Warn = warnings.say
	defer warnings.end()
	if err := unix.Mkdirat(int(dir.Fd()), "fs", 0o700); err != nil {
		return fmt.Errorf("make tree: %w", err)
	}
	c := &copier{ctx: ctx, opt: opt, links: map[[2]uint64]string{}}
	var err error
	if c.root, err = openIn(dir, "fs", "fs", unix.O_DIRECTORY); err != nil {
		return err
	}
	defer c.root.Close()
	if _, err := ownRoot(int(c.root.Fd())); err != nil {
		return fmt.Errorf("make tree: %w", err)
	}
	from, err := openIn(fs, ".", ".", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer from.Close()
	return c.dir(from, c.root, ".")
}

type copier struct {
	ctx     context.Context
	opt     CopyOptions
	root    *os.File
	links   map[[2]uint64]string // the first name of each file that has several
	noClone bool                 // the filesystem does not share content
	buf     []byte
}

// errChanged says that a name is not what it was a moment ago.
var errChanged = errors.New("it changes faster than it can be read")

// named is an error that says which file it is about.
type named struct{ error }

func (n named) Unwrap() error { return n.error }

// dir fills the directory to with what is in from, and then gives it its attributes.
func (c *copier) dir(from, to *os.File, at string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return fmt.Errorf("read %q: %w", at, err)
	}
	xattrs, err := readXattrs(from, at, nil)
	if err != nil {
		return err
	}
	opaque := isOpaque(from)
	names, err := from.Readdirnames(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) { // removed meanwhile
		return fmt.Errorf("read directory %q: %w", at, err)
	}
	slices.Sort(names)
	for _, name := range names {
		full := path.Join(at, name)
		err := errChanged
		for try := 0; try < 10 && err == errChanged; try++ {
			err = c.entry(from, to, name, full)
		}
		if err != nil && c.ctx.Err() == nil && !errors.As(err, &named{}) {
			err = named{fmt.Errorf("copy %q: %w", full, err)}
		}
		if err != nil {
			return err
		}
	}
	if opaque {
		if err := unix.Fsetxattr(int(to.Fd()), opaqueXattr, []byte("y"), 0); err != nil {
			return fmt.Errorf("mark directory %q opaque: %w", at, err)
		}
	}
	if err := c.attributes(to, ".", &st, xattrs); err != nil {
		return fmt.Errorf("copy %q: %w", at, err)
	}
	return nil
}

// entry copies one name. It is errChanged where the name has become another thing while it was looked at.
func (c *copier) entry(from, to *os.File, name, at string) (err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
		return nil
	} else if err != nil {
		return err
	}
	kind := kindOf(&st)
	if kind == TypeDir {
		sub, err := openIn(from, name, at, unix.O_DIRECTORY)
		if err != nil {
			return changed(err)
		}
		defer sub.Close()
		if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
			return err
		}
		dst, err := openIn(to, name, at, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer dst.Close()
		return c.dir(sub, dst, at)
	}
	if kind == typeSocket {
		c.opt.Warn(at + ": a socket, which a tar cannot carry, was left out")
		return nil
	}
	if id := [2]uint64{uint64(st.Dev), st.Ino}; st.Nlink > 1 && kind != TypeWhiteout {
		if first, ok := c.links[id]; ok {
			return c.link(first, to, name)
		}
		defer func() {
			if err == nil { // else the name may become another file's
				c.links[id] = at
			}
		}()
	}
	switch kind {
	case TypeFile:
		return c.file(from, to, name, at, &st)
	case TypeWhiteout:
		if err := unix.Mknodat(int(to.Fd()), name, unix.S_IFCHR, 0); err != nil {
			return err
		}
		return setTime(int(to.Fd()), name, time.Unix(0, 0))
	case TypeSymlink:
		target := make([]byte, unix.PathMax)
		n, rerr := unix.Readlinkat(int(from.Fd()), name, target)
		if rerr != nil {
			return changed(rerr)
		}
		err = unix.Symlinkat(string(target[:n]), int(to.Fd()), name)
	default:
		err = unix.Mknodat(int(to.Fd()), name, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	xattrs, err := readXattrsPath("/proc/self/fd/"+strconv.Itoa(int(from.Fd()))+"/"+name, at, nil)
	if err != nil && !errors.Is(err, unix.ENOENT) { // it is gone, and had none that mattered: nobody can open it now
		return err
	}
	return c.attributes(to, name, &st, xattrs)
}

// changed is errChanged for the errors of a name that is another thing by now.
func changed(err error) error {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EINVAL, unix.ENXIO} {
		if errors.Is(err, e) {
			return errChanged
		}
	}
	return err
}

// link makes one more name of a file that was copied. Names can be longer than the kernel takes at once.
func (c *copier) link(first string, to *os.File, name string) error {
	dir := int(c.root.Fd())
	parts := strings.Split(first, "/")
	for i, part := range parts[:len(parts)-1] {
		fd, err := unix.Openat(dir, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if i > 0 {
			unix.Close(dir)
		}
		if err != nil {
			return err
		}
		dir = fd
	}
	if len(parts) > 1 {
		defer unix.Close(dir)
	}
	return unix.Linkat(dir, parts[len(parts)-1], int(to.Fd()), name, 0)
}

func (c *copier) file(from, to *os.File, name, at string, st *unix.Stat_t) error {
	src, err := openIn(from, name, at, 0)
	if err != nil {
		return changed(err)
	}
	defer src.Close()
	was := st.Ino
	if err := unix.Fstat(int(src.Fd()), st); err != nil {
		return err
	}
	if st.Ino != was || kindOf(st) != TypeFile {
		return errChanged
	}
	xattrs, err := readXattrs(src, at, nil)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(int(to.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := c.content(int(src.Fd()), fd, st); err != nil {
		return err
	}
	return c.attributes(to, name, st, xattrs)
}

// content copies a file's content.
func (c *copier) content(from, to int, st *unix.Stat_t) error {
	if st.Size == 0 {
		return nil
	}
	if !c.noClone {
		err := unix.IoctlFileClone(to, from)
		if err == nil {
			return nil
		}
		if err != unix.EOPNOTSUPP && err != unix.EXDEV && err != unix.EINVAL && err != unix.ENOTTY {
			return err
		}
		c.noClone = true
	}
	for at := int64(0); at < st.Size; {
		end := st.Size
		if st.Blocks*512 < st.Size { // there are holes
			data, err := unix.Seek(from, at, unix.SEEK_DATA)
			if err == unix.ENXIO {
				break // the rest is one
			}
			if err != nil {
				return err
			}
			if end, err = unix.Seek(from, data, unix.SEEK_HOLE); err == unix.ENXIO {
				break // it has become shorter
			} else if err != nil {
				return err
			}
			at, end = data, min(end, st.Size)
		}
		n, err := c.part(from, to, at, end)
		if err != nil {
			return err
		}
		if at += n; n == 0 {
			break // it has become shorter
		}
	}
	return unix.Ftruncate(to, st.Size)
}

// part copies from at up to end, and says how much of it there was.
func (c *copier) part(from, to int, at, end int64) (n int64, err error) {
	for at+n < end {
		if err := c.ctx.Err(); err != nil {
			return n, err
		}
		in, out := at+n, at+n
		m, err := unix.CopyFileRange(from, &in, to, &out, int(min(end-at-n, 64<<20)), 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EXDEV || err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS:
			if c.buf == nil {
				c.buf = make([]byte, 256<<10)
			}
			if m, err = unix.Pread(from, c.buf[:min(int64(len(c.buf)), end-at-n)], at+n); err == nil {
				err = pwriteAll(to, at+n, c.buf[:m])
			}
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += int64(m)
	}
	return n, nil
}

// attributes gives a name in a directory, "." for itself, all that a file has but its content.
func (c *copier) attributes(in *os.File, name string, st *unix.Stat_t, xattrs map[string]string) error {
	if err := c.opt.IDs.inLayer(st, xattrs); err != nil {
		return err
	}
	if err := unix.Fchownat(int(in.Fd()), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	full := "/proc/self/fd/" + strconv.Itoa(int(in.Fd())) + "/" + name
	for attr, value := range xattrs {
		if machines(attr) {
			continue
		}
		if err := unix.Lsetxattr(full, attr, []byte(value), 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(int(in.Fd()), name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return setTime(int(in.Fd()), name, notAfter(time.Unix(st.Mtim.Sec, st.Mtim.Nsec), c.opt.NotAfter))
}
