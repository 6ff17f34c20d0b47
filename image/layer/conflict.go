package layer

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Conflict is a path at which layers would not change in other layers what they change in those that they were made on.
type Conflict struct {
	Path string // begins with a slash
	Why  string
}

// Conflicts yields, in order, where layers, lowest first, which were made on old, would not make the same change in next:
//
//   - what they change, replace, hide or delete is not in next, or is another there (type, owner, mode, content, attributes; not times);
//   - what they add is in next already;
//   - a directory in which they change something is none in next, or has another owner, mode or attributes, and they bring those of old.
//
// What is in next as the layers leave it is no conflict. taken says of each layer the directories that it does not bring
// itself, and takes from below as they are there.
func Conflicts(ctx context.Context, layers []*Tree, taken []map[string]bool, old, next *diff.Stack) iter.Seq2[Conflict, error] {
	return func(yield func(Conflict, error) bool) {
		var indexes []*Index // highest first
		for _, t := range slices.Backward(layers) {
			indexes = append(indexes, t.Index)
		}
		pull, stop := iter.Pull2(combined(indexes))
		defer stop()
		m, err, more := pull()
		// The entries on the way to where we are, and which of them or above hides all that is below its name.
		type above struct{ path, hidden string }
		var way []above
		for d, derr := range diff.Compare(ctx, old, next, diff.Options{NoTimes: true}) {
			if err = errors.Join(err, derr); err != nil {
				yield(Conflict{}, err)
				return
			}
			at := pathOf(d)
			for more && comparePaths(m.Path, at) < 0 {
				for len(way) > 0 && !isBelow(m.Path, way[len(way)-1].path) {
					way = way[:len(way)-1]
				}
				here := above{path: m.Path}
				if len(way) > 0 {
					here.hidden = way[len(way)-1].hidden
				}
				if m.Type != TypeDir && here.hidden == "" {
					here.hidden = m.Path
				}
				way = append(way, here)
				if m, err, more = pull(); err != nil {
					yield(Conflict{}, err)
					return
				}
			}
			for len(way) > 0 && !isBelow(at, way[len(way)-1].path) {
				way = way[:len(way)-1]
			}
			why := ""
			switch {
			case len(way) > 0 && way[len(way)-1].hidden != "":
				why = "it is hidden with /" + way[len(way)-1].hidden + ", and " + differs(d)
			case more && m.Path == at:
				if why, err = meets(&m, indexes[m.from], taken[len(layers)-1-m.from], d); err != nil {
					yield(Conflict{}, err)
					return
				}
			}
			if why != "" && !yield(Conflict{d.Path, why}, nil) {
				return
			}
		}
	}
}

// pathOf is the path of a change as an entry has it.
func pathOf(d diff.Change) string {
	if d.New != nil {
		return d.New.Path
	}
	return d.Old.Path
}

func isBelow(name, dir string) bool { return dir == "." || strings.HasPrefix(name, dir+"/") }

// differs says what is different at a path.
func differs(d diff.Change) string {
	switch d.Kind {
	case diff.Added:
		return "only the new base has it"
	case diff.Deleted:
		return "only the old base has it"
	}
	return "in the new base it differs: " + strings.Join(d.Differs.Names(), ", ")
}

// meets says why what layers do at a path is not the same where the bases differ at it; "" for no reason.
func meets(m *change, x *Index, taken map[string]bool, d diff.Change) (string, error) {
	e := m.Entry
	if e.Type == TypeHardlink {
		of, err := x.Lookup(e.Link)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err == nil {
			of.Path = e.Path
			e = of
		}
	}
	isDir := e.Type == TypeDir
	switch {
	case e.Type == TypeWhiteout && d.Old == nil:
		return "it was added and deleted again, and " + differs(d), nil
	case e.Type == TypeWhiteout:
		return "it is deleted, and " + differs(d), nil
	case d.New == nil && isDir:
		return "something in it is changed, and " + differs(d), nil
	case d.New == nil:
		return "it is changed, and " + differs(d), nil
	}
	if isDir && d.New.IsDir() && taken[e.Path] {
		return "", nil // it will be as it is there
	}
	if e.Type != TypeOpaque && diff.Differ(&e, d.New)&^diff.FieldTime == 0 {
		return "", nil
	}
	switch {
	case d.Old == nil:
		return "it is added, and " + differs(d), nil
	case isDir && d.New.IsDir():
		return "it is brought as the old base has it, and " + differs(d), nil
	case isDir:
		return "something in it is changed, and " + differs(d), nil
	}
	return "it is changed, and " + differs(d), nil
}

// Taken are the directories of a settled layer that have owner, mode, time and attributes from below, by the settlement that was done
// and the layer's needs.
func (s *Settlement) Taken(dir string) (map[string]bool, error) {
	n, err := readNeeds(dir)
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, name := range n.Parents {
		taken[string(name)] = true
	}
	for _, a := range s.actions {
		if a.Do == "attributes" {
			taken[a.Path] = true
		}
	}
	return taken, nil
}

// Differs lists the paths for which two settlements of one layer do something else, but for the attributes that directories take and for
// times: what is copied from below, where a link below leads, and which whiteouts hide something.
func (s *Settlement) Differs(o *Settlement) []string {
	does := func(s *Settlement) map[string]action {
		m := map[string]action{}
		for _, a := range s.actions {
			if a.Do == "attributes" {
				continue
			}
			a.Sec, a.Nsec = 0, 0
			m[a.Do+" "+a.Path] = a
		}
		return m
	}
	mine, others := does(s), does(o)
	var paths []string
	for key, a := range mine {
		if b, ok := others[key]; !ok || !a.same(b) {
			paths = append(paths, "/"+a.Path)
		}
	}
	for key, b := range others {
		if _, ok := mine[key]; !ok {
			paths = append(paths, "/"+b.Path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
