package diff

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// Dir is a directory as a view, walked by descriptors and single components: no link in it is followed. Nothing of it is read but what
// Open is asked for, so its entries have no digest of their content.
func Dir(root string) *Stack { return NewStack(&tree{root: root}) }

// UpperLayer is an overlay's upper as a layer: its whiteouts and opaque directories hide what is below.
func UpperLayer(root string) Layer { return &tree{root: root, overlay: true} }

// Merged is an overlay as a view: its upper over its lowers, highest first, all of them walked.
func Merged(upper string, lowers ...string) *Stack {
	var layers []Layer
	for _, dir := range slices.Backward(lowers) {
		layers = append(layers, UpperLayer(dir))
	}
	return NewStack(append(layers, UpperLayer(upper))...)
}

// tree is a directory that is walked.
type tree struct {
	root    string
	overlay bool // whiteouts and opaque directories mean what they do to overlayfs
}

// ID is the directory's name: what lies there is what lies there.
func (t *tree) ID() string {
	if t.overlay {
		return "overlay " + t.root
	}
	return "directory " + t.root
}

// Open opens a regular file of the directory.
func (t *tree) Open(path string) (*os.File, error) {
	s, err := snapshot.OpenStack([]string{t.root})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Open(path)
}

// Cursor walks the directory. What vanishes meanwhile, as in a container that runs, is taken for not there.
func (t *tree) Cursor() Cursor { return &walk{tree: t} }

// walk is a walk of a tree: the directories that lead to the entry of the moment are open, the last of them with its names.
type walk struct {
	tree *tree
	open []walked
	path []byte
	st   unix.Stat_t
	kind byte
	dir  bool // the entry is a directory that is still to be opened
	last bool // it was the last one
	err  error
}

// walked is an open directory and what is left of its names.
type walked struct {
	fd    int
	names []string
	path  int // the length of its path, with the slash that follows
}

// Inode is what the cursor of a directory knows of an entry besides: the number of its inode, and of that one's names.
type Inode interface{ Inode() (number, names uint64) }

func (w *walk) Inode() (number, names uint64) { return w.st.Ino, uint64(w.st.Nlink) }

func (w *walk) Path() []byte { return w.path }
func (w *walk) Type() byte   { return w.kind }
func (w *walk) Err() error   { return w.err }

func (w *walk) Close() {
	for _, d := range w.open {
		unix.Close(d.fd)
	}
	w.open, w.last = nil, true
}

func (w *walk) fail(what string, err error) bool {
	w.err = fmt.Errorf("%s %q in %s: %w", what, w.path, w.tree.root, err)
	return false
}

func (w *walk) Next() bool { return w.next(true) }

// next goes to the next entry, into the one of the moment if that is a directory and enter is true.
func (w *walk) next(enter bool) bool {
	if w.last || w.err != nil {
		return false
	}
	if w.path == nil {
		w.path = []byte(".")
		fd, err := unix.Open(w.tree.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Fstat(fd, &w.st)
		}
		if err != nil {
			return w.fail("open", err)
		}
		w.open = append(w.open, walked{fd: fd})
		w.kind, w.dir = w.kindOf(fd), true
		return true
	}
	if w.dir && enter {
		if err := w.enter(); err != nil {
			return w.fail("read", err)
		}
	} else if w.dir && string(w.path) == "." {
		return false
	}
	w.dir = false
	for len(w.open) > 0 {
		d := &w.open[len(w.open)-1]
		if len(d.names) == 0 {
			unix.Close(d.fd)
			w.open = w.open[:len(w.open)-1]
			continue
		}
		name := d.names[0]
		d.names = d.names[1:]
		w.path = append(w.path[:d.path], name...)
		err := unix.Fstatat(d.fd, name, &w.st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return w.fail("look at", err)
		}
		w.kind = w.kindOf(-1)
		if w.kind == TypeDir {
			w.dir = true
			if w.tree.overlay && w.opaque(d.fd, name) {
				w.kind = TypeOpaque
			}
		}
		return true
	}
	w.last = true
	return false
}

// enter opens the directory of the moment and reads its names.
func (w *walk) enter() error {
	d := &w.open[len(w.open)-1]
	length := 0
	if string(w.path) != "." {
		fd, err := unix.Openat(d.fd, string(w.path[d.path:]), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			return nil // another thing by now
		}
		if err != nil {
			return err
		}
		w.path = append(w.path, '/')
		length = len(w.path)
		w.open = append(w.open, walked{fd: fd})
		d = &w.open[len(w.open)-1]
	}
	names, err := snapshot.ReadNames(d.fd)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	slices.Sort(names)
	d.names, d.path = names, length
	return nil
}

func (w *walk) opaque(fd int, name string) bool {
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(sub)
	return snapshot.IsOpaque(sub)
}

// kindOf is the type of what was looked at; fd is the root's, to ask whether that is opaque.
func (w *walk) kindOf(fd int) byte {
	switch w.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return TypeFile
	case unix.S_IFDIR:
		if fd >= 0 && w.tree.overlay && snapshot.IsOpaque(fd) {
			return TypeOpaque
		}
		return TypeDir
	case unix.S_IFLNK:
		return TypeSymlink
	case unix.S_IFCHR:
		if w.tree.overlay && snapshot.IsWhiteout(&w.st) {
			return TypeWhiteout
		}
		return TypeChar
	case unix.S_IFBLK:
		return TypeBlock
	case unix.S_IFIFO:
		return TypeFifo
	}
	return TypeSocket
}

// Seek goes over directories that do not lead to path without opening them.
func (w *walk) Seek(path string) bool {
	if w.path == nil && !w.next(true) {
		return false
	}
	for !w.last && w.err == nil && comparePaths(w.path, path) < 0 {
		lead := within(path, w.path)
		if lead && w.dir {
			if err := w.enter(); err != nil {
				return w.fail("read", err)
			}
			w.dir = false
			d := &w.open[len(w.open)-1]
			name, _, _ := strings.Cut(path[d.path:], "/")
			n, _ := slices.BinarySearch(d.names, name)
			d.names = d.names[n:]
		}
		w.next(lead)
	}
	return !w.last && w.err == nil
}

// Entry describes what the walk stands at. An attribute or link of a file that vanished is taken for not there.
func (w *walk) Entry() (Entry, error) {
	e := Entry{Path: string(w.path), Type: w.kind, Mode: w.st.Mode & 0o7777, UID: w.st.Uid, GID: w.st.Gid,
		ModTime: time.Unix(w.st.Mtim.Sec, w.st.Mtim.Nsec)}
	if w.kind == TypeWhiteout {
		return Entry{Path: e.Path, Type: w.kind}, nil
	}
	d := w.open[len(w.open)-1]
	name := "."
	if e.Path != "." {
		name = e.Path[d.path:]
	}
	switch w.kind {
	case TypeFile:
		e.Size = w.st.Size
	case TypeChar, TypeBlock:
		e.Dev = w.st.Rdev
	case TypeSymlink:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(d.fd, name, b)
		if err != nil && err != unix.ENOENT && err != unix.EINVAL {
			w.fail("read the link", err)
			return e, w.err
		}
		e.Link = string(b[:max(n, 0)])
	}
	xattrs, err := snapshot.ReadXattrs("/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + name)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODATA) {
		w.fail("read the attributes of", err)
		return e, w.err
	}
	for name := range xattrs {
		// What the machine's security modules say of a file is not the file's.
		if strings.HasPrefix(name, "security.") && name != "security.capability" {
			delete(xattrs, name)
		}
	}
	if len(xattrs) > 0 {
		e.Xattrs = xattrs
	}
	return e, nil
}
