package layer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settling is a settlement being executed on one tree.
type settling struct {
	root     *os.Root
	index    *Index // as it was
	log      sorter // makes the new one
	invented map[string]bool
	moves    []action
	dropped  map[string]bool
	changed  bool // names, and not only attributes
	odd      bool // hard links must be looked at again
}

// The numbers of records: what a later step says of a path counts.
const (
	stepMove = 1 << 40 // the first move; what lay elsewhere before it has lower ones
	stepLast = 1 << 62
)

// Execute changes the tree at dir, which nobody else may use yet, and its index. Where names change it keeps the layer's own index as the
// file "unsettled".
func (s *Settlement) Execute(dir string, below Below) error {
	if len(s.actions) == 0 {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("settle layer: %w", err)
	}
	defer d.Close()
	root, err := os.OpenRoot(filepath.Join(dir, "fs"))
	if err != nil {
		return fmt.Errorf("settle layer: %w", err)
	}
	defer root.Close()
	index, err := OpenIndex(filepath.Join(dir, "index"))
	if err != nil {
		return err
	}
	defer index.Close()
	n, err := readNeeds(dir)
	if err != nil {
		return err
	}
	do := &settling{root: root, index: index, log: sorter{dir: int(d.Fd())}, invented: map[string]bool{}, dropped: map[string]bool{}}
	defer do.log.close()
	for _, p := range n.Parents {
		do.invented[string(p)] = true
	}
	do.log.seq = stepLast
	for _, a := range s.actions {
		do.changed = do.changed || a.Do != "attributes"
		if err := do.action(a, below); errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
			// One of its names takes the place of a directory in which others lie.
			return fmt.Errorf("settle %q: %w: %w", a.Path, ErrMalformed, err)
		} else if err != nil {
			return fmt.Errorf("settle %q: %w", a.Path, err)
		}
	}
	if err := do.entries(); err != nil {
		return err
	}
	return do.finish(d)
}

func (do *settling) action(a action, below Below) error {
	switch a.Do {
	case "move":
		do.moves = append(do.moves, a)
		return do.move(a.Path, a.To)
	case "drop":
		do.dropped[a.Path] = true
		if err := do.root.Remove(a.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case "copy":
		return do.copy(a, below)
	case "link":
		if err := do.root.RemoveAll(a.Path); err != nil {
			return err
		}
		if err := do.root.Link(a.To, a.Path); err != nil {
			return err
		}
		do.odd = true
		return do.log.add(markEntry, Entry{Path: a.Path, Type: TypeHardlink, Link: a.To, Mode: a.Mode, ModTime: time.Unix(a.Sec, a.Nsec)})
	}
	e := a.entry()
	e.Type = TypeDir
	if err := do.log.add(markInvented, e); err != nil {
		return err
	}
	if err := do.log.add(markAttributes, e); err != nil {
		return err
	}
	return give(do.root, &e)
}

// entry is what the action makes.
func (a action) entry() Entry {
	e := Entry{Path: a.Path, Mode: a.Mode, UID: a.UID, GID: a.GID, ModTime: time.Unix(a.Sec, a.Nsec)}
	for name, value := range a.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = string(value)
	}
	return e
}

// give gives what is at a path the attributes of an entry. os.Root keeps the name inside the tree.
func give(root *os.Root, e *Entry) error {
	parent, err := root.Open(path.Dir(e.Path))
	if err != nil {
		return err
	}
	defer parent.Close()
	fd, base := int(parent.Fd()), path.Base(e.Path)
	if err := unix.Fchownat(fd, base, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	full := fmt.Sprintf("/proc/self/fd/%d/%s", fd, base)
	for _, name := range []string{aclAccess, aclDefault} {
		if _, ok := e.Xattrs[name]; !ok && e.Type != TypeSymlink {
			// One that it has is its directory's, which handed it down.
			if err := unix.Lremovexattr(full, name); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
				return fmt.Errorf("remove attribute %s: %w", name, err)
			}
		}
	}
	for name, value := range e.Xattrs {
		if err := unix.Lsetxattr(full, name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	if e.Type != TypeSymlink {
		if err := unix.Fchmodat(fd, base, e.Mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return utimens(fd, base, e.ModTime)
}

func (do *settling) copy(a action, below Below) error {
	e := a.entry()
	if _, err := do.root.Lstat(a.Path); err == nil {
		do.odd = true // it may have been a file of several names
	}
	if err := do.root.RemoveAll(a.Path); err != nil {
		return err
	}
	if a.kind == unix.S_IFLNK {
		e.Type, e.Link = TypeSymlink, a.Content
		if err := do.root.Symlink(a.Content, a.Path); err != nil {
			return err
		}
	} else {
		from, err := below.Open(a.To)
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := do.root.OpenFile(a.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		sum := sha256.New()
		e.Type = TypeFile
		e.Size, err = io.Copy(to, io.TeeReader(from, sum))
		if cerr := to.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		copy(e.Content[:], sum.Sum(nil))
	}
	if err := do.log.add(markEntry, e); err != nil {
		return err
	}
	return give(do.root, &e)
}

// aside is where a directory lies while what is in it moves, which may be to where it lay itself. No layer can have the name.
const aside = whMeta + "settling"

// move takes what is in a directory of the layer to where a link below leads; directories merge, and of two files the one that was
// written under the link's name stays.
func (do *settling) move(from, to string) error {
	if err := do.root.Rename(from, aside); err != nil {
		return err
	}
	if err := do.root.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := do.carryOpaque(aside, to); err != nil {
		return err
	}
	return do.merge(aside, from, to)
}

// carryOpaque makes a directory opaque where another, which merges into it, is.
func (do *settling) carryOpaque(from, to string) error {
	d, err := do.root.Open(from)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		var b [2]byte
		if n, err := unix.Fgetxattr(int(d.Fd()), name, b[:]); err != nil || n != 1 || b[0] != 'y' {
			continue
		}
		into, err := do.root.Open(to)
		if err != nil {
			return err
		}
		err = unix.Fsetxattr(int(into.Fd()), name, b[:1], 0)
		into.Close()
		if err != nil {
			return fmt.Errorf("mark directory opaque: %w", err)
		}
	}
	return nil
}

// merge moves what is in the directory at, which lay at from, into the directory to, and deletes it.
func (do *settling) merge(at, from, to string) error {
	d, err := do.root.Open(at)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		a, b := path.Join(at, name), path.Join(to, name)
		sa, err := do.root.Lstat(a)
		if err != nil {
			return err
		}
		if sb, err := do.root.Lstat(b); err == nil {
			if sa.IsDir() && sb.IsDir() {
				was := path.Join(from, name)
				if !do.invented[was] {
					e, err := do.index.Lookup(was)
					if err != nil {
						return err
					}
					e.Path, e.Type = b, TypeDir
					if err := give(do.root, &e); err != nil {
						return err
					}
				}
				if err := do.carryOpaque(a, b); err != nil {
					return err
				}
				if err := do.merge(a, was, b); err != nil {
					return err
				}
				continue
			}
			do.odd = true
			if err := do.root.RemoveAll(b); err != nil {
				return err
			}
		}
		if err := do.root.Rename(a, b); err != nil {
			return err
		}
	}
	return do.root.Remove(at)
}

// landing is where the moves took a path, and the number of the last that did, or 0.
func (do *settling) landing(name string) (string, uint64) {
	last := 0
	for i, m := range do.moves {
		if name == m.Path {
			name, last = m.To, i+1
		} else if rest, ok := strings.CutPrefix(name, m.Path+"/"); ok {
			name, last = path.Join(m.To, rest), i+1
		}
	}
	return name, uint64(last)
}

// entries puts the old index into the log, as it is after the moves.
func (do *settling) entries() error {
	last := do.log.seq
	n := uint64(0)
	for e, err := range do.index.All() {
		if err != nil {
			return err
		}
		was := e.Path
		at, move := do.landing(was)
		if do.dropped[at] && e.Type == TypeWhiteout {
			continue
		}
		n += 2
		do.log.seq = stepMove*move + n
		opaque := e.Type == TypeOpaque
		if opaque {
			e.Type = TypeDir
		}
		m := markEntry
		if do.invented[was] {
			m = markInvented
		}
		e.Path = at
		if e.Type == TypeHardlink {
			e.Link, _ = do.landing(e.Link)
		}
		if err := do.log.add(m, e); err != nil {
			return err
		}
		if opaque {
			if err := do.log.add(markOpaque, Entry{Path: at}); err != nil {
				return err
			}
		}
	}
	do.log.seq = last
	return nil
}

// finish writes the new index, and sets the directories' times again: settling changed names in some of them.
func (do *settling) finish(dir *os.File) error {
	fd, err := unix.Openat(int(dir.Fd()), "fs", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("settle layer: %w", err)
	}
	w := &writer{root: fd, holds: int(dir.Fd()), log: do.log, dirs: map[string]openDir{}, ended: true, opt: Options{Warn: func(string) {}}}
	do.log.runs = nil // they are the writer's now
	defer w.close()
	if do.changed {
		// Whoever plans from this tree must know how the layer was.
		if err := unix.Renameat(w.holds, "index", w.holds, "unsettled"); err != nil {
			return fmt.Errorf("settle layer: %w", err)
		}
	} else if err := unix.Unlinkat(w.holds, "index", 0); err != nil { // it is being read
		return fmt.Errorf("settle layer: %w", err)
	}
	w.links.odd = do.odd
	return w.writeIndex(dir, func(*Entry, bool) error { return nil })
}
