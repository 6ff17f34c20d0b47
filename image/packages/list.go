package packages

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// List reads what is installed in a view, and which of its layers each package came with: the lowest from which on every layer's
// database has it in this version. Packages come by name. Where a database of the view cannot be read the error says so, and the list
// holds the others'.
func List(view *diff.Stack) ([]Package, error) {
	brought, err := databases(view.Layers())
	if err != nil {
		return nil, err
	}
	var visible []string // in any layer, and in the view
	for _, paths := range brought {
		for _, p := range paths {
			if slices.Contains(visible, p) {
				continue
			}
			if _, err := view.Lookup(p); err == nil {
				visible = append(visible, p)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	slices.Sort(visible)
	list, err := read(view.Open, visible)
	o := newOrigins(list)
	for n, paths := range slices.Backward(brought) {
		for len(paths) > 0 {
			// All of one manager at once; a file a package is not the whole list.
			m, part := database(paths[0]), isPart(paths[0])
			end := 1
			for end < len(paths) && database(paths[end]) == m && isPart(paths[end]) == part {
				end++
			}
			had, _ := read(view.Layers()[n].Open, paths[:end]) // what a lower layer has that does not parse, a higher one may have mended
			o.layer(n, m, had, part)
			paths = paths[end:]
		}
	}
	return list, err
}

// databases finds the databases that each layer brings as regular files, in the order of diff.ComparePaths.
func databases(layers []diff.Layer) ([][]string, error) {
	wanted := append(fixed(), dpkgParts)
	slices.SortFunc(wanted, diff.ComparePaths)
	brought := make([][]string, len(layers))
	for n, l := range layers {
		c := l.Cursor()
		defer c.Close()
		take := func() {
			if p := string(c.Path()); database(p) != "" && (c.Type() == diff.TypeFile || c.Type() == diff.TypeHardlink) {
				brought[n] = append(brought[n], p)
			}
		}
		for _, p := range wanted {
			if !c.Seek(p) {
				break
			}
			if p != dpkgParts {
				if string(c.Path()) == p {
					take()
				}
				continue
			}
			for more := true; more && diff.Within(c.Path(), p); more = c.Next() {
				take()
			}
			if c.Err() != nil {
				break
			}
		}
		if err := c.Err(); err != nil {
			return nil, err
		}
		if len(brought[n]) > maxPackages {
			brought[n] = brought[n][:maxPackages]
		}
	}
	return brought, nil
}

// origins finds the layer of each package, told of the layers from the highest down.
type origins struct {
	list []Package
	gone []bool // a layer's database lacks it: what lies below does not count
}

func newOrigins(list []Package) *origins { return &origins{list, make([]bool, len(list))} }

// layer is told what a layer's database of one manager has; part says that these are files of a package each; such a file stays
// what it is until a higher layer has another.
func (o *origins) layer(n int, m Manager, had []Package, part bool) {
	type key struct{ name, arch, version string }
	has := make(map[key]bool, len(had))
	named := make(map[string]bool, len(had))
	for _, p := range had {
		named[p.Name] = true
		has[key{p.Name, p.Arch, p.Version}] = true
	}
	for i := range o.list {
		p := &o.list[i]
		if p.Manager != m || p.part != part || o.gone[i] {
			continue
		}
		if has[key{p.Name, p.Arch, p.Version}] {
			p.Layer = n
		} else if !part || named[p.Name] {
			o.gone[i] = true
		}
	}
}
