package layer

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writer makes the tree of a layer. It is used by one goroutine at a time, and remembers no entry: what a later one of the same name must
// know is asked of the tree itself, and the index comes out of a log of what was done.
type writer struct {
	root     int
	holds    int // the directory that holds fs
	opt      Options
	clock    clock
	log      sorter
	dirs     map[string]openDir // directories by where they lie, at most maxOpenDirs
	large    string             // where the large file that came last lies; its digest follows it
	links    links
	failed   error
	xattrOff bool
	ended    bool // all entries are made
	result   Result
}

// openDir is a directory and where it really lies: a name may lead through links of the layer.
type openDir struct {
	fd   int
	real string
}

const (
	maxOpenDirs = 64
	maxLinks    = 40 // as many symbolic links as the kernel follows in one name
)

func newWriter(dir *os.File, opt Options) (*writer, error) {
	if err := unix.Mkdirat(int(dir.Fd()), "fs", 0o755); err != nil {
		return nil, fmt.Errorf("make tree: %w", err)
	}
	root, err := unix.Openat(int(dir.Fd()), "fs", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	times, err := ownRoot(root)
	if err != nil {
		unix.Close(root)
		return nil, fmt.Errorf("make tree: %w", err)
	}
	w := &writer{root: root, holds: int(dir.Fd()), opt: opt, clock: times, log: sorter{dir: int(dir.Fd())}, dirs: map[string]openDir{}}
	w.links.first = map[uint64]uint64{}
	return w, w.log.add(markInvented, Entry{Path: ".", Type: TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)})
}

// ownRoot takes from the tree's root what it has of the directory that the store lies in: a group by a setgid bit, an ACL for whatever is
// made in it, a mode by our caller's umask.
func ownRoot(root int) (clock, error) {
	for _, name := range []string{aclAccess, aclDefault} {
		if err := unix.Fremovexattr(root, name); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return clock{}, fmt.Errorf("remove attribute %s: %w", name, err)
		}
	}
	if err := unix.Fchown(root, os.Geteuid(), os.Getegid()); err != nil {
		return clock{}, fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(root, 0o755); err != nil {
		return clock{}, fmt.Errorf("set mode: %w", err)
	}
	return newClock(root)
}

func (w *writer) close() {
	w.forgetBelow(-1)
	w.log.close()
	w.links.close()
	unix.Close(w.root)
}

// run does ops until the channel closes. After a failure it only drains, and stops the reader.
func (w *writer) run(ops <-chan op, cancel context.CancelFunc) error {
	for o := range ops {
		if w.failed == nil {
			if err := w.do(o); err != nil {
				w.failed = err
				cancel()
			}
		}
		if o.pieces != nil {
			for range o.pieces { // a failed write leaves some
			}
		}
		o.arena.release()
	}
	return w.failed
}

func (w *writer) do(o op) error {
	if o.entry.Type == 0 { // the digest of the large file before it
		return w.log.add(markContent, Entry{Path: w.large, Type: TypeFile, Content: o.entry.Content})
	}
	e := o.entry
	if err := w.place(&e, o); err != nil {
		if err == unix.ENOSPC || err == unix.EDQUOT {
			return fmt.Errorf("write %q: %w", e.Path, err)
		}
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	return nil
}

// place makes one entry. e.Path becomes the path where it lies.
func (w *writer) place(e *Entry, o op) error {
	e.ModTime = w.clock.keep(e.ModTime)
	if e.Path == "." {
		return w.placeRoot(e)
	}
	if e.Type == TypeOpaque {
		d, err := w.dir(e.Path)
		if err != nil {
			return err
		}
		return w.makeOpaque(d)
	}
	parent, err := w.dir(path.Dir(e.Path))
	if err != nil {
		return err
	}
	base := path.Base(e.Path)
	e.Path = path.Join(parent.real, base)
	if len(e.Path) >= maxPath {
		return fmt.Errorf("lies at a path of %d bytes: %w", len(e.Path), ErrLimit)
	}
	switch e.Type {
	case TypeWhiteout:
		return w.placeWhiteout(parent.fd, base, e)
	case TypeHardlink:
		return w.placeLink(e, o)
	case TypeDir:
		return w.placeDir(parent.fd, base, e)
	}
	for {
		switch e.Type {
		case TypeFile:
			err = w.writeFile(parent.fd, base, e, o)
		case TypeSymlink:
			err = unix.Symlinkat(e.Link, parent.fd, base)
		case TypeChar:
			err = unix.Mknodat(parent.fd, base, unix.S_IFCHR|e.Mode&0o777, int(e.Dev))
		case TypeBlock:
			err = unix.Mknodat(parent.fd, base, unix.S_IFBLK|e.Mode&0o777, int(e.Dev))
		case TypeFifo:
			err = unix.Mknodat(parent.fd, base, unix.S_IFIFO|e.Mode&0o777, 0)
		}
		if err != unix.EEXIST {
			break
		}
		if err := w.replace(parent.fd, base); err != nil {
			return err
		}
	}
	if err == nil && e.Type != TypeFile {
		err = w.setAttributes(parent.fd, base, e)
	}
	if err != nil {
		return err
	}
	w.large = e.Path
	return w.log.add(markEntry, *e)
}

func (w *writer) placeRoot(e *Entry) error {
	switch e.Type {
	case TypeOpaque:
		return w.makeOpaque(openDir{w.root, "."})
	case TypeDir:
		if err := w.setAttributes(w.root, ".", e); err != nil {
			return err
		}
		return w.log.add(markEntry, *e)
	}
	return fmt.Errorf("the root is no directory: %w", ErrMalformed)
}

// placeDir makes a directory, or gives one that is there already the later attributes. A directory in the place of something else is
// opaque: whatever the layers below have under its name went when that something took the name.
func (w *writer) placeDir(parent int, base string, e *Entry) error {
	covers := false
	err := unix.Mkdirat(parent, base, 0o700)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if covers = st.Mode&unix.S_IFMT != unix.S_IFDIR; covers {
			if err := w.replace(parent, base); err != nil {
				return err
			}
			err = unix.Mkdirat(parent, base, 0o700)
		} else {
			err = nil
		}
	}
	if err == nil {
		err = w.setAttributes(parent, base, e)
	}
	if err != nil {
		return err
	}
	if err := w.log.add(markEntry, *e); err != nil || !covers {
		return err
	}
	d, err := w.dir(e.Path)
	if err != nil {
		return err
	}
	return w.makeOpaque(d)
}

// placeWhiteout hides a name of the layers below. What this layer itself brings under that name stays, whichever comes first.
func (w *writer) placeWhiteout(parent int, base string, e *Entry) error {
	err := unix.Mknodat(parent, base, unix.S_IFCHR, 0)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		d, err := w.dir(e.Path)
		if err != nil {
			return err
		}
		if err := w.log.add(markOwn, Entry{Path: e.Path}); err != nil { // nothing of that name is below any more
			return err
		}
		return w.makeOpaque(d)
	}
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	e.Mode, e.ModTime = 0, time.Unix(0, 0)
	if err := setTime(parent, base, e.ModTime); err != nil {
		return err
	}
	return w.log.add(markEntry, *e)
}

func (w *writer) makeOpaque(d openDir) error {
	name := "trusted.overlay.opaque"
	if w.opt.UserXattr {
		name = "user.overlay.opaque"
	}
	if err := unix.Fsetxattr(d.fd, name, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory opaque: %w", err)
	}
	return w.log.add(markOpaque, Entry{Path: d.real})
}

// replace takes away what an earlier entry made under a name.
func (w *writer) replace(parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		// The parent's descriptor must stay; the others may lie in what goes.
		w.forgetBelow(parent)
		if w.links.made {
			w.links.odd = true // perhaps of a file in it
		}
		return removeAllAt(parent, base)
	case unix.S_IFLNK:
		w.forgetBelow(parent)
	}
	if st.Nlink > 1 {
		w.links.odd = true
	}
	return unix.Unlinkat(parent, base, 0)
}

func (w *writer) forgetBelow(keep int) {
	for name, d := range w.dirs {
		if d.fd != keep {
			unix.Close(d.fd)
			delete(w.dirs, name)
		}
	}
}

// dir opens the directory that a clean, relative name means in this layer, one component at a time. Links that the layer planted on
// the way are read and followed here, inside the tree, and never by the kernel; directories that are missing are invented.
func (w *writer) dir(name string) (openDir, error) { return w.open(name, w.ended) }

// findDir is dir for one that may be missing: it returns unix.ENOENT and invents nothing.
func (w *writer) findDir(name string) (openDir, error) { return w.open(name, true) }

func (w *writer) open(name string, find bool) (openDir, error) {
	if name == "." {
		return openDir{w.root, "."}, nil
	}
	if d, ok := w.dirs[name]; ok {
		return d, nil
	}
	// From the deepest directory on the way that is open; most likely that is the parent.
	at, rest := openDir{w.root, "."}, name
	for p := path.Dir(name); p != "."; p = path.Dir(p) {
		if d, ok := w.dirs[p]; ok {
			at, rest = d, name[len(p)+1:]
			break
		}
	}
	return w.walk(at, strings.Split(rest, "/"), 0, find)
}

// walk goes down from a directory by components that may hold "..".
func (w *writer) walk(at openDir, parts []string, links int, find bool) (openDir, error) {
	for i, part := range parts {
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			d, err := w.dir(path.Dir(at.real))
			if err != nil {
				return openDir{}, err
			}
			at = d
			continue
		}
		real := path.Join(at.real, part)
		if d, ok := w.dirs[real]; ok && d.real == real {
			at = d
			continue
		}
		fd, err := unix.Openat(at.fd, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT && find {
			return openDir{}, unix.ENOENT
		}
		if err == unix.ENOENT {
			if len(real) >= maxPath {
				return openDir{}, fmt.Errorf("lies at a path of %d bytes: %w", len(real), ErrLimit)
			}
			if err := unix.Mkdirat(at.fd, part, 0o755); err != nil {
				return openDir{}, err
			}
			if err := w.log.add(markInvented, Entry{Path: real, Type: TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
				return openDir{}, err
			}
			if fd, err = unix.Openat(at.fd, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
				err = unix.Fchmod(fd, 0o755) // whatever our caller's umask is
			}
		}
		if err == unix.ENOTDIR || err == unix.ELOOP {
			target := make([]byte, unix.PathMax)
			n, lerr := unix.Readlinkat(at.fd, part, target)
			if lerr != nil {
				var st unix.Stat_t
				if unix.Fstatat(at.fd, part, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
					if find {
						return openDir{}, unix.ENOENT
					}
					// A whiteout, and now something in a directory of that name: the directory takes its place, and hides what is below.
					if err := w.replace(at.fd, part); err != nil {
						return openDir{}, err
					}
					d, err := w.walk(at, []string{part}, links, find)
					if err == nil {
						err = w.log.add(markOwn, Entry{Path: real})
					}
					if err == nil {
						err = w.makeOpaque(d)
					}
					if err != nil {
						return openDir{}, err
					}
					at = d
					continue
				}
				return openDir{}, fmt.Errorf("%q, on the way, is no directory: %w", real, ErrMalformed)
			}
			if links++; links > maxLinks {
				return openDir{}, fmt.Errorf("%q: more than %d symbolic links on the way: %w", real, maxLinks, ErrMalformed)
			}
			rest := append(strings.Split(string(target[:n]), "/"), parts[i+1:]...)
			if target[0] == '/' {
				at = openDir{w.root, "."}
			}
			return w.walk(at, rest, links, find)
		}
		if err != nil {
			return openDir{}, fmt.Errorf("open directory %q: %w", real, err)
		}
		at = w.remember(real, fd, at.fd)
	}
	return at, nil
}

// remember keeps a directory open, and closes the others when there are too many; keep is still in use.
func (w *writer) remember(real string, fd, keep int) openDir {
	if len(w.dirs) >= maxOpenDirs {
		w.forgetBelow(keep)
	}
	d := openDir{fd, real}
	w.dirs[real] = d
	return d
}

// finish makes the hard links that had to wait, gives the directories what must come last (making their entries changed their times),
// and writes index and needs.
func (w *writer) finish(dir *os.File) error {
	var n needs
	if err := w.lateLinks(&n); err != nil {
		return err
	}
	w.ended = true
	if err := w.writeIndex(dir, func(e *Entry, invented bool) error {
		switch {
		case invented:
			return n.note(&n.Parents, e.Path)
		case e.Type == TypeWhiteout:
			return n.note(&n.Whiteouts, e.Path)
		}
		return nil
	}); err != nil {
		return err
	}
	slices.Sort(n.Parents)
	slices.Sort(n.Whiteouts)
	w.result.Needs = n.count()
	return n.write(dir)
}

// writeIndex makes the index of the log, calls also with each entry of it, and sets late what must come late.
func (w *writer) writeIndex(dir *os.File, also func(e *Entry, invented bool) error) error {
	err := writeAt(dir, "index", func(out io.Writer) error {
		x, err := newIndexWriter(out)
		if err != nil {
			return err
		}
		if err := fold(w.log.sorted(), func(e *Entry, invented bool) error {
			if e.Type == TypeDir || e.Type == TypeOpaque {
				d, err := w.dir(e.Path)
				if err == nil {
					err = w.setLate(d.fd, e)
				}
				if err != nil {
					return fmt.Errorf("%q: %w", e.Path, err)
				}
			}
			if err := also(e, invented); err != nil {
				return err
			}
			w.result.count(e)
			return x.add(e)
		}); err != nil {
			return err
		}
		return x.end()
	})
	if err == nil && w.links.odd {
		err = w.relink(dir)
	}
	return err
}

func (r *Result) count(e *Entry) {
	if e.Type != TypeHardlink {
		r.Inodes++
		r.Size += e.Size
	}
}
