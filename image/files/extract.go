package files

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// extractor makes the files of a tar in a directory.
type extractor struct {
	ctx  context.Context
	dir  *os.File
	warn func(string)

	all     bool   // owners, modes and attributes are as the tar says
	host    bool   // or the caller's, without what was given to another owner; else they are root's
	foreign bool   // the tar is not ours: it may lack directories, and names may lead over links that are in the tree, as in a container
	place   Place  // of a foreign tar: the tree
	at      string // and where dir is in it

	size   int64  // bytes of files so far
	parent opened // the directory that came last
	open   []entered
	buf    []byte
}

// opened is an open directory, by its name in the tar.
type opened struct {
	name string
	f    *os.File
}

// entered is a directory whose mode and times wait for what is made in it.
type entered struct {
	opened
	h *tar.Header
}

const (
	paxXattr   = "SCHILY.xattr."
	maxEntries = 10_000_000
)

func (x *extractor) extract(r io.Reader) error {
	defer x.close()
	x.buf = make([]byte, 256<<10)
	tr := tar.NewReader(bufio.NewReaderSize(r, 64<<10))
	for n := 0; ; n++ {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return x.leave("")
		}
		switch {
		case errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("it is no whole tar: %w", err)
		case err != nil:
			return err
		case n >= maxEntries:
			return invalid("more than %d files", maxEntries)
		}
		name, err := cleanName(h.Name)
		if err == nil {
			err = x.entry(name, h, tr)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

func (x *extractor) close() {
	if x.parent.f != nil {
		x.parent.f.Close()
	}
	for _, d := range x.open {
		d.f.Close()
	}
}

// cleanName makes a name relative to the directory that is extracted into: what would lead out of it is clamped, as tar and docker do.
func cleanName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 || len(name) > 64<<10 {
		return "", invalid("no name of a file")
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		return ".", nil
	}
	return clean, nil
}

func (x *extractor) entry(name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if err := x.leave(name); err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return invalid("the directory itself is something else")
		}
		return nil // it was there before, and stays as it is
	}
	parent, err := x.parentOf(name)
	if err != nil {
		return err
	}
	if int64(h.Uid) < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) < 0 || int64(h.Gid) >= math.MaxUint32 {
		return invalid("an owner of %d:%d", h.Uid, h.Gid)
	}
	base := path.Base(name)
	mode := uint32(h.Mode) & 0o777
	switch h.Typeflag {
	case tar.TypeDir:
		return x.enter(parent, base, name, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return x.file(parent, base, h, content)
	case tar.TypeSymlink:
		if h.Linkname == "" {
			return invalid("a link to nothing")
		}
		return x.put(parent, base, func(as string) error {
			if err := unix.Symlinkat(h.Linkname, int(parent.Fd()), as); err != nil {
				return err
			}
			if err := x.own(parent, as, h); err != nil {
				return err
			}
			return setTimes(int(parent.Fd()), as, h, unix.AT_SYMLINK_NOFOLLOW)
		})
	case tar.TypeLink:
		return x.link(parent, base, h)
	case tar.TypeChar, tar.TypeBlock:
		if x.host {
			x.warn(name + ": a device, which was left out; -a copies it, too")
			return nil
		}
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
			return invalid("a device %d:%d", h.Devmajor, h.Devminor)
		}
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return x.node(parent, base, h, kind|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeFifo:
		return x.node(parent, base, h, unix.S_IFIFO|mode, 0)
	}
	return invalid("an entry of type %q", h.Typeflag)
}

// parentOf opens the directory that an entry is made in.
func (x *extractor) parentOf(name string) (*os.File, error) {
	above := path.Dir(name)
	if above == "." {
		return x.dir, nil
	}
	for i := len(x.open) - 1; i >= 0; i-- {
		if x.open[i].name == above {
			return x.open[i].f, nil
		}
	}
	if x.parent.f != nil && x.parent.name == above {
		return x.parent.f, nil
	}
	f, err := x.find(above)
	if errors.Is(err, unix.ENOENT) && x.foreign {
		f, err = x.invent(above)
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	if x.parent.f != nil {
		x.parent.f.Close()
	}
	x.parent = opened{above, f}
	return f, nil
}

// find opens a directory that is there.
func (x *extractor) find(name string) (*os.File, error) {
	if x.foreign {
		return x.place.open(x.at+"/"+name, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	return openat2(x.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// invent makes a directory that a foreign tar has no entry for, and what is missing above it.
func (x *extractor) invent(name string) (*os.File, error) {
	parts := strings.Split(name, "/")
	if len(parts) > 4096 {
		return nil, invalid("%d directories deep", len(parts))
	}
	for i := range parts {
		at := strings.Join(parts[:i+1], "/")
		f, err := x.find(at)
		if errors.Is(err, unix.ENOENT) {
			above := x.dir
			if i > 0 {
				if above, err = x.find(path.Dir(at)); err != nil {
					return nil, err
				}
			}
			if err = unix.Mkdirat(int(above.Fd()), parts[i], 0o755); err == nil || err == unix.EEXIST {
				f, err = x.find(at)
			}
			if above != x.dir {
				above.Close()
			}
			if err == nil {
				err = errors.Join(unix.Fchown(int(f.Fd()), 0, 0), unix.Fchmod(int(f.Fd()), 0o755)) // whatever umask and setgid bit
			}
		}
		if err != nil || i == len(parts)-1 {
			return f, err
		}
		f.Close()
	}
	return nil, unix.ENOENT
}

// enter makes a directory, or merges with one that is there.
func (x *extractor) enter(parent *os.File, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(int(parent.Fd()), base, 0o700)
	if err != nil && err != unix.EEXIST {
		return err
	}
	f, err := openat2(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return invalid("a directory, where there is a file: it is not overwritten")
	}
	if err != nil {
		return err
	}
	if len(x.open) > 4096 {
		f.Close()
		return invalid("more than 4096 directories deep")
	}
	x.open = append(x.open, entered{opened{name, f}, h})
	return nil
}

// leave ends the directories that do not hold what comes next: nothing is made in them any more that would change their times.
func (x *extractor) leave(next string) error {
	for len(x.open) > 0 {
		d := x.open[len(x.open)-1]
		if next != "" && strings.HasPrefix(next, d.name+"/") {
			return nil
		}
		x.open = x.open[:len(x.open)-1]
		err := x.attributes(d.f, d.h)
		d.f.Close()
		if err != nil {
			return fmt.Errorf("%q: %w", d.name, err)
		}
	}
	return nil
}

// file writes a regular file. What was there stays until it is whole, and of one that does not become whole nothing stays.
func (x *extractor) file(parent *os.File, base string, h *tar.Header, content io.Reader) error {
	// Asked before a byte is written: a sparse file of exabytes takes a few hundred in a tar.
	var room unix.Statfs_t
	if h.Size > int64(len(x.buf)) && unix.Fstatfs(int(parent.Fd()), &room) == nil && uint64(h.Size) > room.Bavail*uint64(room.Bsize) {
		return unix.ENOSPC
	}
	return x.put(parent, base, func(as string) error {
		fd, err := unix.Openat(int(parent.Fd()), as, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), as)
		defer f.Close()
		err = x.write(f, content, h.Size)
		if err == nil {
			err = x.attributes(f, h)
		}
		if err != nil {
			unix.Unlinkat(int(parent.Fd()), as, 0)
		}
		return err
	})
}

// write copies a content. Whole buffers of zeroes become holes.
func (x *extractor) write(f *os.File, content io.Reader, size int64) error {
	for at := int64(0); at < size; {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(content, x.buf[:min(int64(len(x.buf)), size-at)])
		if err != nil {
			return fmt.Errorf("it ends early: %w", err)
		}
		if n < len(x.buf) || !isZero(x.buf) {
			if _, err := f.WriteAt(x.buf[:n], at); err != nil {
				return bare(err)
			}
		}
		at += int64(n)
		x.size += int64(n)
	}
	return bare(f.Truncate(size))
}

func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// put makes something that is no directory under a name. What has the name already is replaced in one step, but a directory.
func (x *extractor) put(parent *os.File, base string, make func(as string) error) error {
	err := make(base)
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return invalid("a file, where there is a directory: it is not overwritten")
	}
	as := ".layerctl-" + rand.Text()
	if err := make(as); err != nil {
		return err
	}
	err = unix.Renameat(int(parent.Fd()), as, int(parent.Fd()), base)
	if err == unix.EBUSY { // a file is mounted there, as a container's /etc/hosts is: it is written to
		err = overwrite(parent, as, base)
	}
	if err != nil {
		unix.Unlinkat(int(parent.Fd()), as, 0)
	}
	return err
}

// overwrite writes the content of a regular file into another one, and takes the first away.
func overwrite(parent *os.File, from, to string) error {
	src, err := openat2(parent, from, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, unix.RESOLVE_BENEATH)
	if err != nil {
		return unix.EBUSY
	}
	defer src.Close()
	dst, err := openat2(parent, to, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	for _, f := range []*os.File{src, dst} {
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return unix.EBUSY
		}
	}
	if err := dst.Truncate(0); err != nil {
		return bare(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		return bare(err)
	}
	return unix.Unlinkat(int(parent.Fd()), from, 0)
}

// link makes a hard link to what the tar brought before, or to what is in the directory.
func (x *extractor) link(parent *os.File, base string, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil || target == "." || h.Linkname == "" {
		return invalid("a hard link to %.80q", h.Linkname)
	}
	above := x.dir
	if dir := path.Dir(target); dir != "." {
		if above, err = x.find(dir); err != nil {
			return fmt.Errorf("link to %q: %w", target, err)
		}
		defer above.Close()
	}
	return x.put(parent, base, func(as string) error {
		err := unix.Linkat(int(above.Fd()), path.Base(target), int(parent.Fd()), as, 0)
		if err == unix.ENOENT && !x.foreign {
			x.warn(h.Name + ": a hard link to what was left out, and left out like that")
			return nil
		}
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("link to %q: %w", target, err)
		}
		return err
	})
}

// node makes a device or a FIFO.
func (x *extractor) node(parent *os.File, base string, h *tar.Header, mode uint32, dev int) error {
	return x.put(parent, base, func(as string) error {
		if err := unix.Mknodat(int(parent.Fd()), as, mode, dev); err != nil {
			return err
		}
		// By a descriptor, which is still of what was made when somebody has put a link in its place.
		f, err := openat2(parent, as, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
		if err != nil {
			return err
		}
		defer f.Close()
		return x.attributes(f, h)
	})
}

// owner is whom an entry belongs to, and whether it keeps what hangs on that: setuid and setgid, capabilities.
func (x *extractor) owner(h *tar.Header) (uid, gid int, setuid, setgid bool) {
	switch {
	case x.all:
		return h.Uid, h.Gid, true, true
	case x.host:
		return -1, -1, false, false // whoever makes it, and the group as the directory has it
	}
	return 0, 0, h.Uid == 0, h.Gid == 0
}

// own gives a name in a directory its owner.
func (x *extractor) own(parent *os.File, name string, h *tar.Header) error {
	uid, gid, _, _ := x.owner(h)
	return unix.Fchownat(int(parent.Fd()), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

// attributes gives an open file, which may be open for nothing but its name (O_PATH) and is no link, its owner, attributes, mode and
// time.
func (x *extractor) attributes(f *os.File, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return errors.New("somebody has put a link in its place")
	}
	uid, gid, setuid, setgid := x.owner(h)
	if uid != -1 && (st.Uid != uint32(uid) || st.Gid != uint32(gid)) {
		if err := unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	self := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !x.keeps(name, setuid) {
			continue
		}
		switch err := unix.Setxattr(self, name, []byte(value), 0); err {
		case nil:
		case unix.ENOTSUP, unix.EPERM:
			x.warn(h.Name + ": attribute " + name + " was left out: " + err.Error())
		default:
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	mode := uint32(h.Mode) & 0o7777
	if !setuid {
		mode &^= unix.S_ISUID
	}
	if !setgid {
		mode &^= unix.S_ISGID
	}
	if err := unix.Chmod(self, mode); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return setTimes(int(f.Fd()), "", h, unix.AT_EMPTY_PATH)
}

// keeps says whether an extended attribute is copied. What overlayfs says of its own files never is.
func (x *extractor) keeps(name string, trusted bool) bool {
	switch {
	case name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "security.") && name != "security.capability":
		return false // what SELinux and its like say of a file is a machine's
	case x.all || strings.HasPrefix(name, "user."):
		return true
	}
	return trusted && name == "security.capability"
}

func setTimes(fd int, name string, h *tar.Header, flags int) error {
	access := h.AccessTime
	if access.IsZero() {
		access = h.ModTime
	}
	stamp := func(t time.Time) unix.Timespec { return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())} }
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{stamp(access), stamp(h.ModTime)}, flags); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
