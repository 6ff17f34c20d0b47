package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

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
//   - a hard link to a file below becomes a copy of it, and more links to it are names of the copy;
//   - a whiteout of nothing goes (overlayfs would show it in a directory that merges with nothing).
//
// It is data: its digest names what it does, so that chains which agree share the tree.
type Settlement struct{ actions []action }

type action struct {
	Do       string // move, drop, copy, link or attributes; done in this order
	Path, To string
	Mode     uint32
	UID, GID uint32
	Sec      int64
	Nsec     int64
	Xattrs   map[string][]byte
	Content  string // of a copy: the digest, or the target of a symbolic link
	kind     uint32
}

// same says whether two actions do the same.
func (a action) same(b action) bool {
	one, two := Settlement{[]action{a}}, Settlement{[]action{b}}
	return one.Digest() == two.Digest()
}

// Digest names the settlement; it is "" where nothing is to be done.
func (s *Settlement) Digest() string {
	if len(s.actions) == 0 {
		return ""
	}
	sum := sha256.New()
	for _, a := range s.actions {
		// Quoted, names of any bytes are told from each other.
		fmt.Fprintf(sum, "%s %q %q %o %d:%d %d.%d %q %o", a.Do, a.Path, a.To, a.Mode, a.UID, a.GID, a.Sec, a.Nsec, a.Content, a.kind)
		for _, name := range slices.Sorted(maps.Keys(a.Xattrs)) {
			fmt.Fprintf(sum, " %q=%q", name, a.Xattrs[name])
		}
		fmt.Fprintln(sum)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// PlanSettlement reads the needs of the layer unpacked at dir (a tree's directory: fs, index, needs) and says what they come to over
// below. The answer is the same whatever was settled already, so any tree of the layer will do.
func PlanSettlement(dir string, below Below) (*Settlement, error) {
	n, err := readNeeds(dir)
	if err != nil || n.count() == 0 {
		return &Settlement{}, err
	}
	// What the layer itself says, before anything was moved.
	index, err := OpenIndex(filepath.Join(dir, "unsettled"))
	if errors.Is(err, fs.ErrNotExist) {
		index, err = OpenIndex(filepath.Join(dir, "index"))
	}
	if err != nil {
		return nil, err
	}
	defer index.Close()
	p := &planner{below: below, index: index, invented: map[string]bool{}, opaque: map[string]bool{}, moved: map[string]string{},
		copied: map[string]string{}, given: map[string]bool{}}
	for e, err := range index.All() {
		if err != nil {
			return nil, err
		}
		if e.Type == TypeOpaque {
			p.opaque[e.Path] = true
			if err := n.grow(len(e.Path)); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range n.Parents {
		p.invented[string(name)] = true
	}
	for _, name := range n.Parents {
		if err := p.parent(string(name)); err != nil {
			return nil, err
		}
	}
	for _, name := range n.Whiteouts {
		at := p.landing(string(name))
		if _, err := below.Lookup(at); missing(err) || p.underOpaque(string(name)) || p.underOpaque(at) {
			p.add(action{Do: "drop", Path: at})
		} else if err != nil {
			return nil, fmt.Errorf("look at %q below: %w", at, err)
		}
	}
	for _, l := range n.Links {
		if err := p.link(p.landing(string(l[0])), string(l[1])); err != nil {
			return nil, err
		}
	}
	// Moves first, each where the ones before it left its directory; the others name paths as they are then. Attributes come last, for
	// making an entry changes its directory's time.
	slices.SortStableFunc(p.actions, func(a, b action) int {
		if c := slices.Index(order, a.Do) - slices.Index(order, b.Do); c != 0 || a.Do == "move" {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	return &Settlement{p.actions}, nil
}

var order = []string{"move", "drop", "copy", "link", "attributes"}

// planner makes a settlement.
type planner struct {
	below    Below
	index    *Index            // the layer's own
	invented map[string]bool   // directories in it that the layer does not bring
	opaque   map[string]bool   // directories in it that hide what is below
	moved    map[string]string // directories of the layer that are links below, and where those lead
	copied   map[string]string // files below, and the first name that the layer gives them
	given    map[string]bool   // directories that take their attributes from below
	actions  []action
}

func (p *planner) add(a action) { p.actions = append(p.actions, a) }

// landing is where a name of the layer lies after the moves.
func (p *planner) landing(name string) string {
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if to, ok := p.moved[dir]; ok {
			return path.Join(to, strings.TrimPrefix(name[len(dir):], "/"))
		}
	}
	return name
}

// parent settles a directory that the layer uses and does not bring.
func (p *planner) parent(name string) error {
	at := p.landing(name)
	if p.underOpaque(name) || p.underOpaque(at) {
		return nil // nothing of that name is below any more
	}
	st, err := p.below.Lookup(at)
	if missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q below: %w", at, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if _, ok, err := p.brings(at); err != nil || ok {
			return err
		}
		return p.attributes(at, &st)
	case unix.S_IFLNK:
		to, ok, err := p.resolve(at, true)
		if err != nil || !ok {
			return err
		}
		p.moved[name] = to
		p.add(action{Do: "move", Path: at, To: to})
		return p.parentsOf(to)
	}
	return nil
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

func (p *planner) attributes(name string, st *unix.Stat_t) error {
	if p.given[name] {
		return nil
	}
	p.given[name] = true
	xattrs, err := p.below.Xattrs(name)
	if err != nil {
		return fmt.Errorf("read attributes of %q below: %w", name, err)
	}
	p.add(action{Do: "attributes", Path: name, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Xattrs: xattrs})
	return nil
}

// underOpaque says whether a directory of the layer above the path hides everything below.
func (p *planner) underOpaque(name string) bool {
	for name != "." {
		name = path.Dir(name)
		if p.opaque[name] {
			return true
		}
	}
	return false
}

// brings finds what the layer itself has under a name; ok is false where it has nothing, or only uses a directory of that name.
func (p *planner) brings(name string) (e Entry, ok bool, err error) {
	if p.invented[name] {
		return e, false, nil
	}
	e, err = p.index.Lookup(name)
	if errors.Is(err, fs.ErrNotExist) {
		return e, false, nil
	}
	return e, err == nil, err
}

// parentsOf gives the directories on the way to where something moves the attributes that they have below, unless the layer brings them.
func (p *planner) parentsOf(to string) error {
	parts := strings.Split(to, "/")
	for i := range parts {
		name := strings.Join(parts[:i+1], "/")
		if _, ok, err := p.brings(name); err != nil {
			return err
		} else if ok {
			continue
		}
		st, err := p.below.Lookup(name)
		if err != nil {
			return fmt.Errorf("look at %q below: %w", name, err)
		}
		if err := p.attributes(name, &st); err != nil {
			return err
		}
	}
	return nil
}

// look finds a name in the merged root: what the layer brings, else what is below. covered says whether the layer hides what is below.
func (p *planner) look(name string, covered bool) (kind uint32, link string, err error) {
	if e, ok, err := p.brings(name); err != nil {
		return 0, "", err
	} else if ok {
		switch e.Type {
		case TypeDir, TypeOpaque:
			return unix.S_IFDIR, "", nil
		case TypeSymlink:
			return unix.S_IFLNK, e.Link, nil
		case TypeWhiteout:
			return 0, "", fs.ErrNotExist
		}
		return unix.S_IFREG, "", nil
	}
	if covered {
		return 0, "", fs.ErrNotExist
	}
	st, err := p.below.Lookup(name)
	if err != nil {
		return 0, "", err
	}
	if kind = st.Mode & unix.S_IFMT; kind == unix.S_IFLNK {
		link, err = p.below.Readlink(name)
	}
	return kind, link, err
}

// resolve finds the directory that a name means in the merged root, and follows links on its way there, within that root. With opaque,
// directories of the layer that hide what is below do so. ok is false where it is no directory.
func (p *planner) resolve(name string, opaque bool) (at string, ok bool, err error) {
	at = "."
	rest := strings.Split(name, "/")
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
		kind, target, err := p.look(next, opaque && p.underOpaque(next))
		if missing(err) {
			return "", false, nil
		}
		if err != nil {
			return "", false, fmt.Errorf("look at %q below: %w", next, err)
		}
		switch kind {
		case unix.S_IFDIR:
			at = next
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return "", false, nil
			}
			if strings.HasPrefix(target, "/") {
				at = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
		default:
			return "", false, nil
		}
	}
	return at, true, nil
}

// link settles a hard link to what the layer did not have when it was unpacked: it is a copy of a file below, or one more name of a copy,
// or of a file of the layer that only a link below leads to.
func (p *planner) link(name, target string) error {
	dir, ok, err := p.resolve(path.Dir(target), false)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%q: a hard link to %q, which is in no layer: %w", name, target, ErrMalformed)
	}
	target = path.Join(dir, path.Base(target))
	if e, ok, err := p.brings(target); err != nil {
		return err
	} else if ok && e.Type != TypeWhiteout && e.Type != TypeDir && e.Type != TypeOpaque {
		if to := p.landing(target); to != name { // else it is a name of the same file already
			p.add(action{Do: "link", Path: name, To: to})
		}
		return nil
	}
	if first, ok := p.copied[target]; ok && first == name {
		return nil
	} else if ok {
		p.add(action{Do: "link", Path: name, To: first})
		return nil
	}
	st, err := p.below.Lookup(target)
	if missing(err) {
		return fmt.Errorf("%q: a hard link to %q, which is in no layer: %w", name, target, ErrMalformed)
	}
	if err != nil {
		return fmt.Errorf("look at %q below: %w", target, err)
	}
	a := action{Do: "copy", Path: name, To: target, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, kind: st.Mode & unix.S_IFMT}
	switch a.kind {
	case unix.S_IFREG:
		f, err := p.below.Open(target)
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
		if a.Content, err = p.below.Readlink(target); err != nil {
			return fmt.Errorf("read link %q below: %w", target, err)
		}
	default:
		return fmt.Errorf("%q: a hard link to %q below, which is no file: %w", name, target, ErrUnsupported)
	}
	if a.Xattrs, err = p.below.Xattrs(target); err != nil {
		return fmt.Errorf("read attributes of %q below: %w", target, err)
	}
	p.copied[target] = name
	p.add(a)
	return nil
}
