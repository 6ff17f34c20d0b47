package explore

import (
	"context"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// Image is an image to be looked at.
type Image struct {
	Name   string
	Layers []Layer // lowest first
	View   View
}

// Layer is what is told of a layer.
type Layer struct {
	DiffID   string
	Command  string // that made it, in one line
	Size     int64  // of its files
	Created  time.Time
	SharedBy []string
}

// View is what is asked of an image; image.View has it.
type View interface {
	// Upto is the lowest n layers as one view.
	Upto(n int) *diff.Stack
	// Blame says what each layer does at a path, lowest first.
	Blame(path string) ([]image.Blame, error)
}

// scope is what of the images a tree shows.
type scope struct {
	mode  mode
	image int
	layer int // of change and upto; 0 is the lowest
}

type mode int

const (
	whole   mode = iota // everything that an image shows
	change              // what a layer changes in those below it
	upto                // what the layers up to one show, with what that one changes
	compare             // what the second image changes in the first
)

// item is one name on its way into a tree.
type item struct {
	path     string
	typ      byte
	kind     diff.Kind // 0 for none
	differs  diff.Fields
	layer    int // whose entry it is; -1 where nobody has said
	old, new int64
	link     string
	partial  bool // its directory was listed, what is below it is still to come
}

func itemOf(e *diff.Entry, layer int) item {
	it := item{path: e.Path, typ: e.Type, layer: layer, link: e.Link}
	if e.Type == diff.TypeFile {
		it.new = e.Size
	}
	return it
}

func itemOfChange(c *diff.Change) item {
	e := c.New
	if e == nil {
		e = c.Old
	}
	it := item{path: diff.Clean(c.Path), typ: e.Type, kind: c.Kind, differs: c.Differs, layer: -1, link: e.Link}
	if c.Old != nil && c.Old.Type == diff.TypeFile {
		it.old = c.Old.Size
	}
	if c.New != nil && c.New.Type == diff.TypeFile {
		it.new = c.New.Size
	}
	return it
}

// stream yields all of a scope, in the order of diff.ComparePaths; of upto the changes come first, and then the view, once more from the
// beginning.
func stream(ctx context.Context, images []Image, s scope) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		v := images[s.image].View
		var changes iter.Seq2[diff.Change, error]
		var all *diff.Stack
		switch s.mode {
		case whole:
			all = v.Upto(len(images[s.image].Layers))
		case change:
			changes = diff.Compare(ctx, v.Upto(s.layer), v.Upto(s.layer+1), diff.Options{})
		case upto:
			changes = diff.Compare(ctx, v.Upto(s.layer), v.Upto(s.layer+1), diff.Options{})
			all = v.Upto(s.layer + 1)
		case compare:
			a, b := images[0], images[1]
			changes = diff.Compare(ctx, a.View.Upto(len(a.Layers)), b.View.Upto(len(b.Layers)), diff.Options{})
		}
		if changes != nil {
			for c, err := range changes {
				if err != nil {
					yield(item{}, err)
					return
				}
				if !yield(itemOfChange(&c), nil) {
					return
				}
			}
		}
		if all == nil {
			return
		}
		for f, err := range all.Merged() {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(item{}, err)
				return
			}
			if !yield(itemOf(&f.Entry, f.Layer), nil) {
				return
			}
		}
	}
}

// list is what is directly in a directory of a view, by overlayfs' rules. Of what is below those names nothing is read, so that it takes
// no longer in a large image than in a small one.
func list(view *diff.Stack, dir string) ([]item, error) {
	var items []item
	seen := map[string]bool{}
	layers := view.Layers()
	for n := len(layers) - 1; n >= 0; n-- {
		last, err := listLayer(layers[n], n, dir, seen, &items)
		if err != nil {
			return nil, err
		}
		if last {
			break
		}
	}
	slices.SortFunc(items, func(a, b item) int { return diff.ComparePaths(a.path, b.path) })
	return items, nil
}

// listLayer adds what one layer has in a directory that no layer above has said anything about. last is true where it hides those below.
func listLayer(l diff.Layer, n int, dir string, seen map[string]bool, items *[]item) (last bool, err error) {
	c := l.Cursor()
	defer c.Close()
	for _, at := range append(diff.Parents(dir), dir) {
		if !c.Seek(at) || string(c.Path()) != at {
			return last, c.Err()
		}
		switch c.Type() {
		case diff.TypeDir:
		case diff.TypeOpaque:
			last = true
		default:
			return true, nil
		}
	}
	for ok := c.Next(); ok && diff.Within(c.Path(), dir); {
		name := string(c.Path())
		if !seen[name] {
			seen[name] = true
			if c.Type() != diff.TypeWhiteout {
				e, err := c.Entry()
				if err != nil {
					return last, err
				}
				if e.IsDir() {
					e.Type = diff.TypeDir
				}
				it := itemOf(&e, n)
				it.partial = e.IsDir()
				*items = append(*items, it)
			}
		}
		// No path has a zero byte, so this is the first that is behind everything below name.
		ok = c.Seek(name + "\x01")
	}
	return last, c.Err()
}

// open opens the content of the file at a path as a scope shows it, or as it was before.
func open(images []Image, s scope, path string, old bool) (*os.File, error) {
	return views(images, s, old).Open(path)
}

// views is the view whose files a scope shows: the older one or the newer one, where it shows a change.
func views(images []Image, s scope, old bool) *diff.Stack {
	img := images[s.image]
	n := len(img.Layers)
	switch s.mode {
	case change, upto:
		n = s.layer + 1
		if old {
			n = s.layer
		}
	case compare:
		img = images[1]
		if old {
			img = images[0]
		}
		n = len(img.Layers)
	}
	return img.View.Upto(n)
}
