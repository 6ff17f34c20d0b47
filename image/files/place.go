package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Place is a path in a tree of files.
type Place struct {
	Root *os.File // the root directory of a container or an image; nil for the host's files
	Path string   // below a Root it is relative to that, with or without a slash before it
	Live bool     // a container that runs: it writes while we look
}

// where is a place's path, read.
type where struct {
	path       string // without a slash at its end; "" for the root
	slash, dot bool   // it ended in a slash, or in "/."
}

func (p Place) where() (where, error) {
	if p.Path == "" {
		return where{}, invalid("an empty path")
	}
	if strings.IndexByte(p.Path, 0) >= 0 {
		return where{}, invalid("a path with a zero byte")
	}
	w := where{dot: p.Path == "." || strings.HasSuffix(p.Path, "/."), slash: strings.HasSuffix(p.Path, "/")}
	if p.Root != nil {
		w.path = strings.TrimPrefix(path.Clean("/"+p.Path), "/")
		return w, nil
	}
	w.path = strings.TrimRight(strings.TrimSuffix(p.Path, "."), "/")
	if !w.dot {
		w.path = strings.TrimRight(p.Path, "/")
	}
	switch {
	case w.path == "" && strings.HasPrefix(p.Path, "/"):
		w.path = "/"
	case w.path == "":
		w.path = "."
	case path.Base(w.path) == "..": // it has a name of its own, too
		real, err := filepath.EvalSymlinks(w.path)
		if err == nil {
			real, err = filepath.Abs(real)
		}
		if err != nil {
			return w, bare(err)
		}
		w.path = real
	}
	return w, nil
}

// open opens a path of the place's tree.
func (p Place) open(name string, flags int) (*os.File, error) {
	if name == "" {
		name = "."
	}
	if p.Root == nil {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	return openat2(p.Root, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

func openat2(dir *os.File, name string, flags int, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		// EAGAIN: something was renamed or mounted, anywhere, while ".." was being looked at.
		case err != unix.EINTR && (err != unix.EAGAIN || try == 1000):
			return nil, err
		}
	}
}

// found is a name in an open directory.
type found struct {
	dir     *os.File
	name    string // "." for the directory itself
	st      unix.Stat_t
	missing bool
}

func (f *found) close() {
	if f.dir != nil {
		f.dir.Close()
	}
}

func (f *found) is(kind uint32) bool { return !f.missing && f.st.Mode&unix.S_IFMT == kind }

const maxLinks = 40 // as many symbolic links as the kernel follows in one name

// errNoParent says that the directory is not there in which a name was looked for.
var errNoParent = fmt.Errorf("%w", fs.ErrNotExist)

// find finds a path; with follow a link at its end is followed, also to where nothing is yet.
func (p Place) find(name string, follow bool) (found, error) {
	for range maxLinks {
		f := found{name: path.Base(name)}
		above := path.Dir(name)
		if name == "" || f.name == "." || f.name == ".." || f.name == "/" {
			f.name, above = ".", name
		}
		var err error
		if f.dir, err = p.open(above, unix.O_PATH|unix.O_DIRECTORY); errors.Is(err, unix.ENOENT) {
			return f, errNoParent
		} else if err != nil {
			return f, err
		}
		err = unix.Fstatat(int(f.dir.Fd()), f.name, &f.st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			f.missing, err = true, nil
		}
		if err != nil || !follow || !f.is(unix.S_IFLNK) {
			if err != nil {
				f.close()
			}
			return f, err
		}
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(f.dir.Fd()), f.name, target)
		f.close()
		if err != nil {
			return found{}, err
		}
		if name = string(target[:n]); n > 0 && name[0] != '/' {
			name = above + "/" + name // not cleaned: what ".." means is for the kernel to say
		}
		name = strings.TrimRight(name, "/")
	}
	return found{}, unix.ELOOP
}

// source is what is to be copied.
type source struct {
	found
	base     string // what it is called where it is copied to
	contents bool   // not the directory, but what is in it
}

func (p Place) source(follow bool) (source, error) {
	w, err := p.where()
	if err != nil {
		return source{}, err
	}
	f, err := p.find(w.path, follow || w.slash || w.dot)
	if err == nil && f.missing {
		f.close()
		err = fs.ErrNotExist
	}
	if err != nil {
		return source{}, fmt.Errorf("%s: %w", p.Path, plain(err))
	}
	s := source{found: f, base: path.Base(w.path)}
	switch {
	case f.is(unix.S_IFDIR):
		s.contents = w.dot || w.path == "" || w.path == "/" || w.path == "."
	case w.slash || w.dot:
		err = unix.ENOTDIR
	case f.is(unix.S_IFSOCK):
		err = errors.New("a socket, which cannot be copied")
	}
	if err != nil {
		s.close()
		return source{}, fmt.Errorf("%s: %w", p.Path, err)
	}
	return s, nil
}

// plain says ENOENT in the words of the kernel, whatever it came as.
func plain(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return unix.ENOENT
	}
	return err
}

// bare is an error without the path that it happened at.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// ErrInvalid says that what was asked for cannot be, whatever is there.
var ErrInvalid = errors.New("invalid")

type invalidError struct{ text string }

func (e *invalidError) Error() string { return e.text }
func (e *invalidError) Unwrap() error { return ErrInvalid }

func invalid(format string, a ...any) error { return &invalidError{fmt.Sprintf(format, a...)} }

// isKernels says whether an open file is of a file system that the kernel makes up: its files have no size, and mean something only where
// they are.
func isKernels(f *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return false
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
		unix.BINFMTFS_MAGIC, mqueueMagic, configfsMagic:
		return true
	}
	return false
}

const mqueueMagic, configfsMagic = 0x19800202, 0x62656570 // ipc/mqueue.c, fs/configfs/mount.c
