package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stack is the merged view of read-only trees, as overlayfs would show them, without a mount: a name is that of the highest tree which
// has it; a whiteout hides it; directories of one name merge down to an opaque one, or to what is no directory.
//
// The root of a tree can be opaque as well, which overlayfs itself does not see: a snapshot has no trees below such a one.
//
// It works by descriptors of directories and single components, and follows no symbolic link, whatever a tree holds.
type Stack struct{ root *Dir }

// OpenStack opens the trees at dirs, highest first.
func OpenStack(dirs []string) (*Stack, error) {
	s := &Stack{root: &Dir{}}
	for _, d := range slices.Backward(dirs) {
		if err := s.Push(d); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Push puts the tree at dir on top of the others.
func (s *Stack) Push(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open tree %s: %w", dir, err)
	}
	if IsOpaque(fd) {
		s.root.Close() // what is below is hidden
	}
	s.root.fds = slices.Insert(s.root.fds, 0, fd)
	return nil
}

// Close lets the trees go.
func (s *Stack) Close() error { s.root.Close(); return nil }

// Root is the merged root directory. It belongs to the stack.
func (s *Stack) Root() *Dir { return s.root }

// Dir is one directory of a merged view: the directories of that name, highest first.
type Dir struct{ fds []int }

// Top is the descriptor of the highest of them, whose owner, mode and attributes the merged directory shows.
func (d *Dir) Top() int { return d.fds[0] }

// Close lets the directory go.
func (d *Dir) Close() {
	for _, fd := range d.fds {
		unix.Close(fd)
	}
	d.fds = nil
}

// IsWhiteout says whether an inode is overlayfs' mark for a deleted name: a character device 0/0.
func IsWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

var opaqueXattrs = [...]string{"trusted.overlay.opaque", "user.overlay.opaque"}

// IsOpaque says whether an open directory hides what is below it.
func IsOpaque(fd int) bool {
	var b [2]byte
	for _, name := range opaqueXattrs {
		if n, err := unix.Fgetxattr(fd, name, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

// lookup finds name in the merged directory, and the tree that shows it.
func (d *Dir) lookup(name string) (unix.Stat_t, int, error) {
	var st unix.Stat_t
	for i, fd := range d.fds {
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return st, 0, err
		}
		if IsWhiteout(&st) {
			break
		}
		return st, i, nil
	}
	return st, 0, fs.ErrNotExist
}

// Lookup finds name in the merged directory. A name that is not there, or is hidden, is fs.ErrNotExist.
func (d *Dir) Lookup(name string) (unix.Stat_t, error) {
	st, _, err := d.lookup(name)
	return st, err
}

// Enter opens the merged directory name. It returns unix.ENOTDIR for what is none.
func (d *Dir) Enter(name string) (*Dir, error) {
	st, at, err := d.lookup(name)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, unix.ENOTDIR
	}
	sub := &Dir{}
	for _, fd := range d.fds[at:] {
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
			continue
		} else if err != nil {
			sub.Close()
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			break
		}
		child, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			sub.Close()
			return nil, err
		}
		sub.fds = append(sub.fds, child)
		if IsOpaque(child) {
			break
		}
	}
	return sub, nil
}

// Names lists the merged directory, unsorted.
func (d *Dir) Names() ([]string, error) {
	var names []string
	seen := map[string]bool{}
	for _, fd := range d.fds {
		list, err := ReadNames(fd)
		if err != nil {
			return nil, err
		}
		for _, name := range list {
			if seen[name] {
				continue
			}
			seen[name] = true
			if _, err := d.Lookup(name); err == nil {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// ReadNames lists the names in an open directory, whatever was read of it before.
func ReadNames(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

// at finds a clean, relative, slash-separated path ("." is the root), calls fn with the directory that holds it, the tree that shows
// it and its last component, and closes what it opened.
func (s *Stack) at(name string, fn func(fd int, base string, st unix.Stat_t) error) error {
	if name == "." {
		var st unix.Stat_t
		if len(s.root.fds) == 0 {
			return fs.ErrNotExist
		}
		if err := unix.Fstat(s.root.fds[0], &st); err != nil {
			return err
		}
		return fn(s.root.fds[0], ".", st)
	}
	dir := s.root
	parent, base := path.Split(name)
	for _, part := range strings.Split(strings.Trim(parent, "/"), "/") {
		if part == "" {
			continue
		}
		sub, err := dir.Enter(part)
		if dir != s.root {
			dir.Close()
		}
		if err != nil {
			return err
		}
		dir = sub
	}
	if dir != s.root {
		defer dir.Close()
	}
	st, i, err := dir.lookup(base)
	if err != nil {
		return err
	}
	return fn(dir.fds[i], base, st)
}

// Lookup returns what is at a path; fs.ErrNotExist where nothing is, unix.ENOTDIR where a parent is no directory.
func (s *Stack) Lookup(name string) (st unix.Stat_t, err error) {
	err = s.at(name, func(_ int, _ string, found unix.Stat_t) error { st = found; return nil })
	return st, err
}

// Readlink returns the target of the symbolic link at a path.
func (s *Stack) Readlink(name string) (target string, err error) {
	err = s.at(name, func(fd int, base string, _ unix.Stat_t) error {
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, base, b)
		if err == nil {
			target = string(b[:n])
		}
		return err
	})
	return target, err
}

// Xattrs returns the extended attributes at a path, but for overlayfs' own.
func (s *Stack) Xattrs(name string) (xattrs map[string][]byte, err error) {
	err = s.at(name, func(fd int, base string, _ unix.Stat_t) error {
		// No call reads attributes relative to a directory on every kernel we support; the magic link names exactly this directory.
		xattrs, err = pathXattrs("/proc/self/fd/" + strconv.Itoa(fd) + "/" + base)
		return err
	})
	return xattrs, err
}

// Open opens the regular file at a path for reading.
func (s *Stack) Open(name string) (f *os.File, err error) {
	err = s.at(name, func(fd int, base string, st unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return unix.EINVAL
		}
		// What a container writes to may be a fifo by now, which would wait for a writer.
		n, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Fstat(n, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			unix.Close(n)
			return errors.Join(err, unix.EINVAL)
		}
		f = os.NewFile(uintptr(n), name)
		return nil
	})
	return f, err
}
