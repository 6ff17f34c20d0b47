package layer

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writer makes the tree of a layer. It is used by one goroutine at a time.
type writer struct {
	root     int
	opt      Options
	dirs     map[string]openDir // directories by their names in the layer, at most maxOpenDirs open
	entries  []Entry
	at       map[string]int  // entry by the path where it lies
	invented map[string]bool // directories that the layer has not brought (yet)
	opaque   map[string]bool
	hidden   map[string]bool // names that a whiteout of this layer hides, whether or not something took their place
	links    []op            // hard links whose target was not there yet
	dead     int             // entries that were replaced
	failed   error
	needed   int
	xattrOff bool
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
	w := &writer{root: root, opt: opt, dirs: map[string]openDir{}, at: map[string]int{}, invented: map[string]bool{".": true},
		opaque: map[string]bool{}, hidden: map[string]bool{}}
	w.record(Entry{Path: ".", Type: TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)})
	return w, nil
}

func (w *writer) close() {
	w.forget()
	unix.Close(w.root)
}

// forget closes every directory: after a directory was removed or replaced, what was known of names below it may be wrong.
func (w *writer) forget() {
	for name, d := range w.dirs {
		unix.Close(d.fd)
		delete(w.dirs, name)
	}
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

// record notes an entry where it lies; one that lay there before is gone.
func (w *writer) record(e Entry) {
	if i, ok := w.at[e.Path]; ok {
		w.entries[i].Type = 0
		w.dead++
	}
	w.at[e.Path] = len(w.entries)
	w.entries = append(w.entries, e)
}

// drop forgets the entry at a path and all that lay below it.
func (w *writer) drop(name string, isDir bool) {
	if i, ok := w.at[name]; ok {
		w.entries[i].Type = 0
		w.dead++
		delete(w.at, name)
	}
	delete(w.invented, name)
	delete(w.opaque, name)
	if !isDir {
		return
	}
	for p, i := range w.at {
		if strings.HasPrefix(p, name+"/") {
			w.entries[i].Type = 0
			w.dead++
			delete(w.at, p)
			delete(w.invented, p)
			delete(w.opaque, p)
		}
	}
}

func (w *writer) do(o op) error {
	if o.entry.Type == 0 { // the digest of the large file before it
		if i, ok := w.at[w.lastFile(o.entry.Path)]; ok {
			w.entries[i].Content = o.entry.Content
		}
		return nil
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

// lastFile is where the file that the tar calls name lies.
func (w *writer) lastFile(name string) string {
	d, err := w.dir(path.Dir(name))
	if err != nil {
		return name
	}
	return path.Join(d.real, path.Base(name))
}

// place makes one entry. e.Path becomes the path where it lies.
func (w *writer) place(e *Entry, o op) error {
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
	switch e.Type {
	case TypeWhiteout:
		return w.placeWhiteout(parent.fd, base, e)
	case TypeHardlink:
		return w.placeLink(base, e, o)
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
		if err := w.replace(parent.fd, base, e.Path); err != nil {
			return err
		}
	}
	if err == nil && e.Type != TypeFile {
		err = w.setAttributes(parent.fd, base, e)
	}
	if err != nil {
		return err
	}
	w.record(*e)
	return nil
}

func (w *writer) placeRoot(e *Entry) error {
	delete(w.invented, ".")
	switch e.Type {
	case TypeOpaque:
		return w.makeOpaque(openDir{w.root, "."})
	case TypeDir:
		if err := w.setAttributes(w.root, ".", e); err != nil {
			return err
		}
		w.record(*e)
		return nil
	}
	return fmt.Errorf("the root is no directory: %w", ErrMalformed)
}

func (w *writer) placeDir(parent int, base string, e *Entry) error {
	err := unix.Mkdirat(parent, base, e.Mode&0o777)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = nil // the same directory again: the later attributes count
		} else {
			if err := w.replace(parent, base, e.Path); err != nil {
				return err
			}
			err = unix.Mkdirat(parent, base, e.Mode&0o777)
		}
	}
	if err == nil {
		err = w.setAttributes(parent, base, e)
	}
	if err != nil {
		return err
	}
	delete(w.invented, e.Path)
	w.record(*e)
	if w.hidden[e.Path] && !w.opaque[e.Path] {
		// The layer deletes what is below and brings a directory of that name: nothing below shows through.
		d, err := w.dir(e.Path)
		if err != nil {
			return err
		}
		return w.makeOpaque(d)
	}
	return nil
}

// placeWhiteout hides a name of the layers below. What this layer itself brings under that name stays, whichever comes first.
func (w *writer) placeWhiteout(parent int, base string, e *Entry) error {
	w.hidden[e.Path] = true
	err := unix.Mknodat(parent, base, unix.S_IFCHR, 0)
	if err == unix.EEXIST {
		if i, ok := w.at[e.Path]; ok && w.entries[i].Type == TypeDir {
			d, err := w.dir(e.Path)
			if err != nil {
				return err
			}
			return w.makeOpaque(d)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	e.Mode, e.ModTime = 0, time.Unix(0, 0)
	if err := setTime(parent, base, e.ModTime); err != nil {
		return err
	}
	w.record(*e)
	return nil
}

func (w *writer) makeOpaque(d openDir) error {
	if w.opaque[d.real] {
		return nil
	}
	name := "trusted.overlay.opaque"
	if w.opt.UserXattr {
		name = "user.overlay.opaque"
	}
	if err := unix.Fsetxattr(d.fd, name, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory opaque: %w", err)
	}
	w.opaque[d.real] = true
	return nil
}

// placeLink makes a hard link. A target that is not in the layer (yet) is looked for again at the end.
func (w *writer) placeLink(base string, e *Entry, o op) error {
	target, err := w.dir(path.Dir(o.target))
	if err != nil {
		return err
	}
	tbase := path.Base(o.target)
	e.Link = path.Join(target.real, tbase)
	if e.Link == e.Path {
		return nil
	}
	if i, ok := w.at[e.Link]; !ok || w.entries[i].Type == TypeWhiteout {
		w.links = append(w.links, o)
		return nil
	} else if w.entries[i].Type == TypeDir {
		return fmt.Errorf("a hard link to the directory %q: %w", e.Link, ErrMalformed)
	} else if w.entries[i].Type == TypeHardlink {
		e.Link = w.entries[i].Link // all names of one file say the same one
		if e.Link == e.Path {
			return nil
		}
	}
	for {
		// Opening the one directory may close the other; both are then opened again.
		parent, err := w.dir(path.Dir(o.entry.Path))
		if err != nil {
			return err
		}
		if target, err = w.dir(path.Dir(o.target)); err != nil {
			return err
		}
		if parent, err = w.dir(path.Dir(o.entry.Path)); err != nil {
			return err
		}
		err = unix.Linkat(target.fd, tbase, parent.fd, base, 0)
		if err == nil {
			w.record(*e)
			return nil
		}
		if err != unix.EEXIST {
			return fmt.Errorf("hard link to %q: %w", o.target, err)
		}
		if err := w.replace(parent.fd, base, e.Path); err != nil {
			return err
		}
	}
}

// replace takes away what an earlier entry made under a name.
func (w *writer) replace(parent int, base, real string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		w.drop(real, false)
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			defer w.forgetBelow(parent)
		}
		return unix.Unlinkat(parent, base, 0)
	}
	// The parent's descriptor must stay; the others may lie in what goes.
	defer w.forgetBelow(parent)
	w.drop(real, true)
	return removeAllAt(parent, base)
}

func (w *writer) forgetBelow(keep int) {
	for name, d := range w.dirs {
		if d.fd != keep {
			unix.Close(d.fd)
			delete(w.dirs, name)
		}
	}
}

// removeAllAt deletes a directory of the tree with all that is in it.
func removeAllAt(parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(fd, name, 0)
		if err == unix.EISDIR {
			err = removeAllAt(fd, name)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}

// dir opens the directory that a clean, relative name means in this layer, one component at a time. Links that the layer planted on
// the way are read and followed here, inside the tree, and never by the kernel; directories that are missing are invented.
func (w *writer) dir(name string) (openDir, error) {
	if name == "." {
		return openDir{w.root, "."}, nil
	}
	if d, ok := w.dirs[name]; ok {
		return d, nil
	}
	// From the parent, which is most likely open, only one component is left.
	at, err := w.dir(path.Dir(name))
	if err != nil {
		return openDir{}, err
	}
	return w.walk(at, []string{path.Base(name)}, 0)
}

// walk goes down from a directory by components that may hold "..".
func (w *writer) walk(at openDir, parts []string, links int) (openDir, error) {
	for i, part := range parts {
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			d, err := w.dir(path.Dir(at.real))
			if at.real == "." {
				d, err = openDir{w.root, "."}, nil
			}
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
		if err == unix.ENOENT {
			if err := unix.Mkdirat(at.fd, part, 0o755); err != nil {
				return openDir{}, err
			}
			w.invented[real] = true
			w.record(Entry{Path: real, Type: TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)})
			fd, err = unix.Openat(at.fd, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
		if err == unix.ENOTDIR || err == unix.ELOOP {
			target := make([]byte, unix.PathMax)
			n, lerr := unix.Readlinkat(at.fd, part, target)
			if lerr != nil {
				var st unix.Stat_t
				if unix.Fstatat(at.fd, part, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
					// A whiteout, and now something in a directory of that name: the directory takes its place, and hides what is below.
					if err := w.replace(at.fd, part, real); err != nil {
						return openDir{}, err
					}
					d, err := w.walk(at, []string{part}, links)
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
			return w.walk(at, rest, links)
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

// finish makes the late hard links, sets the directories' times, which making their entries changed, and writes index and needs.
func (w *writer) finish(dir *os.File) error {
	var n needs
	late := w.links
	w.links = nil
	for _, o := range late {
		if err := w.do(o); err != nil {
			return err
		}
	}
	for _, o := range w.links {
		n.Links = append(n.Links, [2]string{o.entry.Path, o.target})
	}
	var kept []Entry
	for i := range w.entries {
		if w.entries[i].Type != 0 {
			kept = append(kept, w.entries[i])
		}
	}
	w.entries = kept
	for i := len(w.entries) - 1; i >= 0; i-- {
		e := &w.entries[i]
		switch e.Type {
		case TypeDir:
			d, err := w.dir(e.Path)
			if err != nil {
				return err
			}
			if err := utimens(d.fd, ".", e.ModTime); err != nil {
				return fmt.Errorf("%q: %w", e.Path, err)
			}
			if w.opaque[e.Path] {
				e.Type = TypeOpaque
			}
		case TypeWhiteout:
			n.Whiteouts = append(n.Whiteouts, e.Path)
		}
	}
	for p := range w.invented {
		n.Parents = append(n.Parents, p)
	}
	sort.Strings(n.Parents)
	sort.Strings(n.Whiteouts)
	if err := n.write(dir); err != nil {
		return err
	}
	w.needed = n.count()
	return writeAt(dir, "index", func(out io.Writer) error { return writeIndex(out, w.entries) })
}

func (w *writer) result() Result {
	res := Result{Needs: w.needed}
	for i := range w.entries {
		if w.entries[i].Type != TypeHardlink {
			res.Inodes++
			res.Size += w.entries[i].Size
		}
	}
	return res
}
