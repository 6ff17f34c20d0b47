package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// View is an image, or a part of one, looked into: its layers as one stack, read from their indexes. Close lets them go.
type View struct {
	*diff.Stack
	Image  Image // whose layers they are; zero for what is none
	Layers []LayerView

	staging *snapshot.Staging // of a tarball: it is discarded by Close
	lease   snapshot.Lease    // the trees stay, whoever removes the image meanwhile
}

// LayerView is one layer of a View, lowest first.
type LayerView struct {
	Layer
	CreatedBy string    // the command that made it, as the image's history has it
	Created   time.Time // when, by the history
	Comment   string
	Dir       string // holds its tree, fs, and its index
	Index     *layer.Index
}

// Look opens the image that ref names to be looked into. Of its files nothing is read.
func (s *Store) Look(ctx context.Context, ref string) (*View, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	v, err := s.look(ctx, img)
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", ref, err)
	}
	return v, nil
}

func (s *Store) look(ctx context.Context, img Image) (*View, error) {
	v, err := viewOf(img)
	if err != nil {
		return nil, err
	}
	trees, err := s.treesOf(ctx, img)
	if err != nil {
		return nil, err
	}
	return v, s.open(ctx, v, trees)
}

// describe is the view of an image whose indexes are not opened: there is nothing to see in it but what the rows and the config say.
func (s *Store) describe(ctx context.Context, ref string) (*View, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	return viewOf(img)
}

// viewOf joins an image's layers and the steps of its history that made them.
func viewOf(img Image) (*View, error) {
	cfg, err := parseConfig(img)
	if err != nil {
		return nil, err
	}
	v := &View{Image: img}
	steps := cfg.History
	for _, l := range img.Layers {
		lv := LayerView{Layer: l}
		for len(steps) > 0 && steps[0].EmptyLayer {
			steps = steps[1:]
		}
		if len(steps) > 0 {
			lv.CreatedBy, lv.Created, lv.Comment = steps[0].CreatedBy, parseTime(steps[0].Created), steps[0].Comment
			steps = steps[1:]
		}
		v.Layers = append(v.Layers, lv)
	}
	return v, nil
}

// ErrDamaged says of a layer that its index is damaged and cannot be made again from its tree: `check --repair` unpacks it anew.
var ErrDamaged = errors.New("it cannot be made again of the layer's tree")

// reindex makes a tree's index again that is missing or damaged.
func (s *Store) reindex(ctx context.Context, t snapshot.Tree) error {
	err := s.snaps.RemakeFile(ctx, t, "index", func(w io.Writer) error { return layer.Reindex(ctx, t.Dir, w) })
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	s.warn("the index of layer " + t.DiffID + " was damaged or missing, and was made again of its tree")
	return nil
}

// open opens the indexes of a view's layers.
func (s *Store) open(ctx context.Context, v *View, trees []snapshot.Tree) error {
	var stack []diff.Layer
	for i, t := range trees {
		v.Layers[i].Dir = t.Dir
		x, err := s.openTree(ctx, v, t)
		if err != nil {
			v.Stack = diff.NewStack(stack...)
			return fmt.Errorf("layer %s: %w", t.DiffID, errors.Join(err, v.Close()))
		}
		v.Layers[i].Index = x.Index
		stack = append(stack, x)
	}
	v.Stack = diff.NewStack(stack...)
	return nil
}

// openTree opens the index of one layer of a view, which then keeps the tree.
func (s *Store) openTree(ctx context.Context, v *View, t snapshot.Tree) (*layer.Tree, error) {
	if v.staging != nil {
		return layer.OpenTree(t.Dir, t.DiffID+" "+t.ID, nil)
	}
	if err := s.snaps.Hold(&v.lease, t); errors.Is(err, snapshot.ErrNotFound) {
		return nil, fmt.Errorf("it was removed meanwhile: %w", ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	return layer.OpenTree(t.Dir, t.DiffID+" "+t.ID, func() error { return s.reindex(ctx, t) })
}

// Close lets the trees go.
func (v *View) Close() error {
	err := v.lease.Close()
	for _, l := range v.Layers {
		if l.Index != nil {
			err = errors.Join(err, l.Index.Close())
		}
	}
	if v.staging != nil {
		err = errors.Join(err, v.staging.Discard())
	}
	return err
}

// OpenIn opens the content of a regular file of one layer, whatever the others do to it; following no link.
func (v *View) OpenIn(n int, path string) (*os.File, error) { return v.Stack.Layers()[n].Open(path) }

// Instruction is the command that made the layer as a Dockerfile has it: without the shell, the marks and the comment that builders put
// into the history.
func (l *LayerView) Instruction() string {
	s := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(l.CreatedBy), "# buildkit"))
	if rest, ok := strings.CutPrefix(s, "/bin/sh -c #(nop)"); ok {
		return strings.TrimSpace(rest)
	}
	if rest, ok := strings.CutPrefix(s, "/bin/sh -c "); ok {
		return "RUN " + rest
	}
	return strings.Replace(s, "RUN /bin/sh -c ", "RUN ", 1)
}

// Entries yields what one layer brings, whiteouts and opaque directories among it.
func (l *LayerView) Entries() iter.Seq2[layer.Entry, error] { return l.Index.All() }

// Counts are how many names a layer brings.
type Counts struct {
	Files   int // all but directories and marks
	Dirs    int
	Deleted int // whiteouts, and directories that hide what was below
}

// Count counts a layer's names.
func (l *LayerView) Count() (n Counts, err error) {
	c := l.Index.Cursor()
	for c.Next() {
		switch c.Type() {
		case layer.TypeWhiteout:
			n.Deleted++
		case layer.TypeOpaque:
			n.Deleted++
			n.Dirs++
		case layer.TypeDir:
			n.Dirs++
		default:
			n.Files++
		}
	}
	return n, c.Err()
}

// Upto is the view of the lowest n layers. It shares their indexes: only v is closed.
func (v *View) Upto(n int) *diff.Stack { return diff.NewStack(v.Stack.Layers()[:n]...) }

// Only is the view of one layer alone, as a directory would be into which nothing else was unpacked.
func (v *View) Only(n int) *diff.Stack { return diff.NewStack(v.Stack.Layers()[n]) }

// Top is the place of the highest layer.
func (v *View) Top() int { return len(v.Layers) - 1 }

// LookChain opens the layers of a committed snapshot, which may be of an image that is gone: what a container stands on.
func (s *Store) LookChain(ctx context.Context, chain string) (*View, error) {
	trees, err := s.snaps.Chain(ctx, chain)
	if err != nil {
		return nil, err
	}
	v := &View{}
	for _, t := range trees {
		v.Layers = append(v.Layers, LayerView{Layer: Layer{DiffID: t.DiffID, Size: t.Usage.Size}})
	}
	return v, s.open(ctx, v, trees)
}

// LookTar unpacks a tarball, compressed or not, into a place of its own that goes when the view is closed.
func (s *Store) LookTar(ctx context.Context, path string) (_ *View, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v := &View{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("unpack %s: %w", path, err), v.Close())
		}
	}()
	if v.staging, err = s.snaps.NewStaging(); err != nil {
		return nil, err
	}
	res, err := layer.Apply(ctx, f, v.staging.Dir, layer.Options{Warn: s.warn})
	if err != nil {
		return nil, err
	}
	v.Layers = []LayerView{{Layer: Layer{DiffID: res.DiffID, TarSize: res.TarSize, Size: res.Size}}}
	return v, s.open(ctx, v, []snapshot.Tree{{DiffID: res.DiffID, Dir: v.staging.Path()}})
}

// Sharers are, for each layer of an image, the names of the other images that have a layer of its diff ID; the ID of one without a name. It
// goes over the rows of all images: one that holds none of the diff IDs is not decoded.
func (s *Store) Sharers(img Image) ([][]string, error) {
	shared := make([][]string, len(img.Layers))
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketImages).ForEach(func(k, v []byte) error {
			if string(k) == img.ID || !slices.ContainsFunc(img.Layers, func(l Layer) bool { return bytes.Contains(v, []byte(l.DiffID)) }) {
				return nil
			}
			var row imageRow
			if _, err := getJSON(tx, bucketImages, string(k), &row); err != nil {
				return nil // another image's row is damaged, which check says: this one can be looked at
			}
			names, err := namesOf(tx, string(k))
			if err != nil {
				return err
			}
			if len(names) == 0 {
				names = []string{string(k)}
			}
			for i, l := range img.Layers {
				if slices.ContainsFunc(row.Layers, func(o Layer) bool { return o.DiffID == l.DiffID }) {
					shared[i] = append(shared[i], names...)
				}
			}
			return nil
		})
	})
	for _, names := range shared {
		slices.Sort(names)
	}
	return shared, err
}

// FS is where a layer's files lie.
func (l *LayerView) FS() string { return filepath.Join(l.Dir, "fs") }
