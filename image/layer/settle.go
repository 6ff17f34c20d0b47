package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Below is the merged view of the layers under one layer (snapshot.Stack is one). Paths are relative and clean, "." is the root. No
// symbolic link is followed: a name below one is unix.ENOTDIR, and what is missing is fs.ErrNotExist.
type Below interface {
	Lookup(path string) (unix.Stat_t, error)
	Readlink(path string) (string, error)
	Xattrs(path string) (map[string][]byte, error)
	Open(path string) (*os.File, error)
}

// Settlement makes a layer right for the layers below it, where it does not stand alone:
//
//   - a directory that the layer uses and does not bring takes owner, mode, time and attributes of the one below (otherwise a layer
//     that adds /tmp/x would turn /tmp into 0755 root);
//   - where below there is a symbolic link to a directory instead, what the layer has in it moves to where the link leads in the
//     merged root, as containerd and Docker unpack it;
//   - a hard link to a file below becomes a copy of it;
//   - a whiteout of nothing goes (overlayfs would show it in a directory that merges with nothing).
//
// It is data: its digest names what it does, so that chains which agree share the tree.
type Settlement struct{ actions []action }

type action struct {
	Do      string            `json:"do"` // attributes, move, copy or drop
	Path    string            `json:"path"`
	To      string            `json:"to,omitempty"`
	Mode    uint32            `json:"mode,omitempty"`
	UID     uint32            `json:"uid,omitempty"`
	GID     uint32            `json:"gid,omitempty"`
	Sec     int64             `json:"sec,omitempty"`
	Nsec    int64             `json:"nsec,omitempty"`
	Xattrs  map[string][]byte `json:"xattrs,omitempty"`
	Content string            `json:"content,omitempty"`
	kind    uint32
}

// Digest names the settlement; it is "" where nothing is to be done.
func (s *Settlement) Digest() string {
	if len(s.actions) == 0 {
		return ""
	}
	b, err := json.Marshal(s.actions) // maps are marshalled in order of their keys
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// PlanSettlement reads the needs of the layer unpacked at dir (a tree's directory: fs, index, needs) and says what they come to over
// below. The needs stay the same whatever was settled already, so any tree of the layer will do.
func PlanSettlement(dir string, below Below) (*Settlement, error) {
	s := &Settlement{}
	n, err := readNeeds(dir)
	if err != nil || n.count() == 0 {
		return s, err
	}
	index, err := readIndex(filepath.Join(dir, "index"))
	if err != nil {
		return nil, err
	}
	moved := map[string]string{}
	landing := func(p string) string {
		for dir := p; dir != "."; dir = path.Dir(dir) {
			if to, ok := moved[dir]; ok {
				return path.Join(to, strings.TrimPrefix(p[len(dir):], "/"))
			}
		}
		return p
	}
	for _, p := range n.Parents {
		at := landing(p)
		st, err := below.Lookup(at)
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at %q below: %w", at, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if at == p {
				err = s.attributes(below, p, &st)
			}
		case unix.S_IFLNK:
			var to string
			if to, err = resolveBelow(below, at); err == nil && to != "" {
				moved[p] = to
				s.actions = append(s.actions, action{Do: "move", Path: p, To: to})
				err = s.parentsOf(below, to, index, n)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	for _, p := range n.Whiteouts {
		if _, err := below.Lookup(landing(p)); missing(err) || index.underOpaque(p) {
			s.actions = append(s.actions, action{Do: "drop", Path: landing(p)})
		} else if err != nil {
			return nil, fmt.Errorf("look at %q below: %w", p, err)
		}
	}
	for _, l := range n.Links {
		if err := s.copyOf(below, landing(l[0]), l[1]); err != nil {
			return nil, err
		}
	}
	sort.SliceStable(s.actions, func(i, j int) bool {
		a, b := s.actions[i], s.actions[j]
		return a.Do < b.Do || a.Do == b.Do && a.Path < b.Path
	})
	return s, nil
}

func readNeeds(dir string) (n needs, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "needs"))
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, fmt.Errorf("read needs: %w", err)
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("read needs: %w: %w", ErrMalformed, err)
	}
	return n, nil
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

func (s *Settlement) attributes(below Below, p string, st *unix.Stat_t) error {
	for _, a := range s.actions {
		if a.Do == "attributes" && a.Path == p {
			return nil
		}
	}
	xattrs, err := below.Xattrs(p)
	if err != nil {
		return fmt.Errorf("read attributes of %q below: %w", p, err)
	}
	s.actions = append(s.actions, action{Do: "attributes", Path: p, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Xattrs: xattrs})
	return nil
}

// parentsOf gives the directories on the way to where something moves the attributes that they have below, unless the layer brings them.
func (s *Settlement) parentsOf(below Below, to string, index entryMap, n needs) error {
	invented := map[string]bool{}
	for _, p := range n.Parents {
		invented[p] = true
	}
	parts := strings.Split(to, "/")
	for i := range parts {
		p := strings.Join(parts[:i+1], "/")
		if _, ok := index[p]; ok && !invented[p] {
			continue
		}
		st, err := below.Lookup(p)
		if err != nil {
			return fmt.Errorf("look at %q below: %w", p, err)
		}
		if err := s.attributes(below, p, &st); err != nil {
			return err
		}
	}
	return nil
}

// resolveBelow follows a symbolic link within the merged root, and the links on its way. The answer is "" where it leads to no directory.
func resolveBelow(below Below, p string) (string, error) {
	at := "."
	rest := strings.Split(p, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		st, err := below.Lookup(next)
		if missing(err) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("look at %q below: %w", next, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			at = next
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return "", nil
			}
			target, err := below.Readlink(next)
			if err != nil {
				return "", fmt.Errorf("read link %q below: %w", next, err)
			}
			if strings.HasPrefix(target, "/") {
				at = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
		default:
			return "", nil
		}
	}
	if at == "." {
		return "", nil
	}
	return at, nil
}

// copyOf plans the copy of a file below that the layer names by a hard link.
func (s *Settlement) copyOf(below Below, name, target string) error {
	dir, err := resolveBelow(below, path.Dir(target))
	if err != nil {
		return err
	}
	target = path.Join(dir, path.Base(target))
	st, err := below.Lookup(target)
	if missing(err) {
		return fmt.Errorf("%q: a hard link to %q, which is in no layer: %w", name, target, ErrMalformed)
	}
	if err != nil {
		return fmt.Errorf("look at %q below: %w", target, err)
	}
	a := action{Do: "copy", Path: name, To: target, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, kind: st.Mode & unix.S_IFMT}
	switch a.kind {
	case unix.S_IFREG:
		f, err := below.Open(target)
		if err != nil {
			return fmt.Errorf("read %q below: %w", target, err)
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return fmt.Errorf("read %q below: %w", target, err)
		}
		a.Content = hex.EncodeToString(sum.Sum(nil))
	case unix.S_IFLNK:
		if a.Content, err = below.Readlink(target); err != nil {
			return fmt.Errorf("read link %q below: %w", target, err)
		}
	default:
		return fmt.Errorf("%q: a hard link to %q below, which is no file: %w", name, target, ErrUnsupported)
	}
	if a.Xattrs, err = below.Xattrs(target); err != nil {
		return fmt.Errorf("read attributes of %q below: %w", target, err)
	}
	s.actions = append(s.actions, a)
	return nil
}

// entryMap is an index by path.
type entryMap map[string]Entry

func readIndex(file string) (entryMap, error) {
	x, err := OpenIndex(file)
	if err != nil {
		return nil, err
	}
	m := entryMap{}
	for e, err := range x.All() {
		if err != nil {
			return nil, err
		}
		m[e.Path] = e
	}
	return m, nil
}

// underOpaque says whether a directory of the layer above the path hides everything below.
func (m entryMap) underOpaque(p string) bool {
	for p != "." {
		p = path.Dir(p)
		if m[p].Type == TypeOpaque {
			return true
		}
	}
	return false
}

// Execute changes the tree at dir, which nobody else may use yet, and its index.
func (s *Settlement) Execute(dir string, below Below) error {
	if len(s.actions) == 0 {
		return nil
	}
	root, err := os.OpenRoot(filepath.Join(dir, "fs"))
	if err != nil {
		return fmt.Errorf("settle layer: %w", err)
	}
	defer root.Close()
	index, err := readIndex(filepath.Join(dir, "index"))
	if err != nil {
		return err
	}
	n, err := readNeeds(dir)
	if err != nil {
		return err
	}
	for _, a := range s.actions {
		// Where something moves to, the layer has directories now that it did not bring: whoever plans from this tree must know.
		for p := a.To; a.Do == "move" && p != "."; p = path.Dir(p) {
			if _, ok := index[p]; !ok && !slices.Contains(n.Parents, p) {
				n.Parents = append(n.Parents, p)
			}
		}
	}
	sort.Strings(n.Parents)
	// Moves first: the other actions name paths as they are after them. Attributes last, for making an entry changes its directory's time.
	for _, do := range []string{"move", "drop", "copy", "attributes"} {
		for _, a := range s.actions {
			if a.Do != do {
				continue
			}
			if err := a.execute(root, index, below); err != nil {
				return fmt.Errorf("settle %q: %w", a.Path, err)
			}
		}
	}
	if err := restoreTimes(root, index); err != nil {
		return err
	}
	entries := make([]Entry, 0, len(index))
	for _, e := range index {
		entries = append(entries, e)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := n.write(d); err != nil {
		return err
	}
	return writeAt(d, "index", func(w io.Writer) error { return writeIndex(w, entries) })
}

func (a action) execute(root *os.Root, index entryMap, below Below) error {
	switch a.Do {
	case "move":
		return move(root, index, a.Path, a.To)
	case "drop":
		delete(index, a.Path)
		err := root.Remove(a.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	case "copy":
		return a.copy(root, index, below)
	}
	e := index[a.Path]
	if e.Path == "" {
		e = Entry{Path: a.Path, Type: TypeDir}
	}
	a.apply(&e)
	index[a.Path] = e
	return a.set(root)
}

func (a action) apply(e *Entry) {
	e.Mode, e.UID, e.GID, e.ModTime = a.Mode, a.UID, a.GID, time.Unix(a.Sec, a.Nsec)
	e.Xattrs = nil
	for name, value := range a.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = string(value)
	}
}

// set gives what is at a path the action's attributes. os.Root keeps the name inside the tree.
func (a action) set(root *os.Root) error {
	parent, err := root.Open(path.Dir(a.Path))
	if err != nil {
		return err
	}
	defer parent.Close()
	fd, base := int(parent.Fd()), path.Base(a.Path)
	if err := unix.Fchownat(fd, base, int(a.UID), int(a.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if a.kind != unix.S_IFLNK {
		if err := unix.Fchmodat(fd, base, a.Mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for name, value := range a.Xattrs {
		if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", fd, base), name, value, 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return utimens(fd, base, time.Unix(a.Sec, a.Nsec))
}

func (a action) copy(root *os.Root, index entryMap, below Below) error {
	e := Entry{Path: a.Path}
	a.apply(&e)
	root.Remove(a.Path)
	if a.kind == unix.S_IFLNK {
		e.Type, e.Link = TypeSymlink, a.Content
		if err := root.Symlink(a.Content, a.Path); err != nil {
			return err
		}
	} else {
		from, err := below.Open(a.To)
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := root.OpenFile(a.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
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
	index[a.Path] = e
	return a.set(root)
}

// move takes what is in a directory of the layer to where a link below leads; directories merge, and of two files the one that was
// written under the link's name stays.
func move(root *os.Root, index entryMap, from, to string) error {
	if err := root.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for p := to; p != "."; p = path.Dir(p) {
		if _, ok := index[p]; !ok {
			index[p] = Entry{Path: p, Type: TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
		}
	}
	d, err := root.Open(from)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		a, b := path.Join(from, name), path.Join(to, name)
		sa, err := root.Lstat(a)
		if err != nil {
			return err
		}
		if sb, err := root.Lstat(b); err == nil {
			if sa.IsDir() && sb.IsDir() {
				if e, ok := index[a]; ok {
					e.Path = b
					index[b] = e
				}
				if err := move(root, index, a, b); err != nil {
					return err
				}
				continue
			}
			if err := root.RemoveAll(b); err != nil {
				return err
			}
			renameIndex(index, b, "")
		}
		if err := root.Rename(a, b); err != nil {
			return err
		}
		renameIndex(index, a, b)
	}
	delete(index, from)
	return root.Remove(from)
}

// renameIndex moves the entries at and below a path, or forgets them with to "".
func renameIndex(index entryMap, from, to string) {
	for p, e := range index {
		if p != from && !strings.HasPrefix(p, from+"/") {
			continue
		}
		delete(index, p)
		if to != "" {
			e.Path = to + p[len(from):]
			index[e.Path] = e
		}
	}
	if to == "" {
		return
	}
	for p, e := range index {
		if e.Type == TypeHardlink && (e.Link == from || strings.HasPrefix(e.Link, from+"/")) {
			e.Link = to + e.Link[len(from):]
			index[p] = e
		}
	}
}

// restoreTimes sets the directories' times again, deepest first: settling changed names in some of them.
func restoreTimes(root *os.Root, index entryMap) error {
	for _, e := range index {
		if e.Type != TypeDir && e.Type != TypeOpaque {
			continue
		}
		d, err := root.Open(e.Path)
		if err != nil {
			return fmt.Errorf("settle %q: %w", e.Path, err)
		}
		err = utimens(int(d.Fd()), ".", e.ModTime)
		d.Close()
		if err != nil {
			return fmt.Errorf("settle %q: %w", e.Path, err)
		}
	}
	return nil
}
