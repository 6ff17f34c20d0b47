package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/diff"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// RebaseOptions say what is put on what.
type RebaseOptions struct {
	Ref  string // the new image's name
	Onto string // the new base
	Base string // the old one; "" for the image here that it is made on, if only one can be meant
}

// ErrBase says that the old base of an image cannot be told.
var ErrBase = errors.New("the old base cannot be told")

// ConflictsError says that layers would not change in their new base what they change in the old one.
type ConflictsError struct {
	Base, Onto string
	Conflicts  []layer.Conflict // the first ones
	Count      int              // of all
}

// maxConflicts is how many are kept to be shown.
const maxConflicts = 1000

// Error implements error.
func (e *ConflictsError) Error() string {
	paths := "1 path"
	if e.Count != 1 {
		paths = fmt.Sprintf("%d paths", e.Count)
	}
	return fmt.Sprintf("its layers would not change the same in %s as in %s, at %s", e.Onto, e.Base, paths)
}

func (e *ConflictsError) add(c layer.Conflict) {
	if e.Count++; e.Count <= maxConflicts {
		e.Conflicts = append(e.Conflicts, c)
	}
}

// Rebase makes an image of the layers that another one has above its base, put on a new base, with the settings and steps that it added.
// It is a ConflictsError where the change would not be the same. The layers keep their diff IDs; one that leans on what is below gets a
// tree that is right for the new base.
func (s *Store) Rebase(ctx context.Context, of string, o RebaseOptions) (Image, error) {
	img, err := s.rebase(ctx, of, o)
	if err != nil {
		s.makeRoom(ctx, err)
		return Image{}, fmt.Errorf("rebase %s: %w", of, err)
	}
	return img, nil
}

func (s *Store) rebase(ctx context.Context, of string, o RebaseOptions) (Image, error) {
	var lease snapshot.Lease
	defer lease.Close()
	img, mine, err := s.deriveAs(ctx, &lease, "rebase", of, o.Ref)
	if err != nil {
		return Image{}, err
	}
	_, next, err := s.derive(ctx, &lease, o.Onto)
	if err != nil {
		return Image{}, err
	}
	base, err := s.baseOf(ctx, img, o.Base)
	if err != nil {
		return Image{}, err
	}
	if a, b := (platform{mine.config.OS, mine.config.Architecture, mine.config.Variant}), (platform{next.config.OS, next.config.Architecture, next.config.Variant}); a != b {
		return Image{}, invalid("it is for %s, and %s for %s", a, o.Onto, b)
	}
	r := &rebasing{s: s, lease: &lease, mine: mine, next: next, n: len(base.Layers), conflicts: &ConflictsError{Base: cmp.Or(o.Base, base.Name, base.ID), Onto: o.Onto}}
	if err := r.compare(ctx); err != nil {
		return Image{}, err
	}
	moved, err := r.settle(ctx)
	if err != nil {
		return Image{}, err
	}
	if r.conflicts.Count > 0 {
		return Image{}, r.conflicts
	}
	failpoint.Hit("rebase/settled")
	c := &composed{verb: mine.verb, ref: mine.ref, layers: slices.Concat(next.layers, moved), sources: union(slices.Clone(next.sources), mine.sources)}
	if c.from, err = carry(base.Config, img.Config, next.from); err != nil {
		return Image{}, err
	}
	if err := json.Unmarshal(c.from, &c.config); err != nil {
		return Image{}, fmt.Errorf("read the config of %s: %w", o.Onto, err)
	}
	c.config.Created = mine.config.Created
	c.history = next.history
	if err := c.alignSteps(len(next.layers)); err != nil {
		return Image{}, err
	}
	own, err := ownSteps(mine.history, base, r.n)
	if err != nil {
		return Image{}, err
	}
	c.history = append(c.history, own...)
	return s.compose(ctx, &lease, c)
}

// baseOf finds the image that another one is made on: the given one, or the only one here whose layers are the lowest of its.
func (s *Store) baseOf(ctx context.Context, img Image, given string) (Image, error) {
	isBase := func(b Image) bool {
		n := len(b.Layers)
		return n > 0 && n <= len(img.Layers) && img.Layers[n-1].Chain == b.Chain
	}
	if given != "" {
		base, err := s.Resolve(ctx, given)
		if err == nil && !isBase(base) {
			err = invalid("it is not made on %s, whose layers are not its lowest", given)
		}
		return base, err
	}
	list, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	var found []candidate
	steps, err := stepsOf(img.Config)
	if err != nil {
		return Image{}, err
	}
	for _, b := range list {
		if b.ID == img.ID || !isBase(b) || slices.ContainsFunc(found, func(o candidate) bool { return o.ID == b.ID }) {
			continue
		}
		if b.Config, err = s.content.Read(b.ID); err != nil {
			return Image{}, fmt.Errorf("read the config of %s: %w", b.ID, err)
		}
		own, err := stepsOf(b.Config)
		if err != nil {
			return Image{}, err
		}
		if len(b.Layers) < len(img.Layers) || len(own) < len(steps) { // else it is the same image, made another way
			found = append(found, candidate{b, len(own), beginsWith(steps, own)})
		}
	}
	return theBase(found)
}

// candidate is an image that another one may be made on.
type candidate struct {
	Image
	steps int
	made  bool // the other one's history begins with its own
}

// theBase is the one that is meant. Where the image's own history tells which images it is made on, others of the same layers are not
// asked about; of those it is made on in turn only the user can tell.
func theBase(found []candidate) (Image, error) {
	if slices.ContainsFunc(found, func(c candidate) bool { return c.made }) {
		found = slices.DeleteFunc(found, func(c candidate) bool { return !c.made })
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return b.steps - a.steps })
	switch {
	case len(found) == 0:
		return Image{}, fmt.Errorf("%w: no image here has its lowest layers", ErrBase)
	case len(found) == 1, found[0].made && found[0].steps > found[1].steps && !slices.ContainsFunc(found, func(c candidate) bool { return c.Chain != found[0].Chain }):
		return found[0].Image, nil
	}
	var names []string
	for _, c := range found {
		names = append(names, fmt.Sprintf("%s (%d of its layers)", cmp.Or(c.Name, c.ID), len(c.Layers)))
	}
	return Image{}, fmt.Errorf("%w: it could be %s", ErrBase, strings.Join(names, ", "))
}

// stepsOf are the steps of a config's history, as they are written there.
func stepsOf(config []byte) ([]json.RawMessage, error) {
	var c struct{ History []json.RawMessage }
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("read its history: %w: %w", ErrCorrupt, err)
	}
	return c.History, nil
}

// beginsWith says whether a history begins with another one. An encoder may have written the same step differently.
func beginsWith(steps, with []json.RawMessage) bool {
	if len(with) == 0 || len(with) > len(steps) {
		return false
	}
	for i := range with {
		var a, b v1.History
		if json.Unmarshal(steps[i], &a) != nil || json.Unmarshal(with[i], &b) != nil {
			return false
		}
		a.Created.Time, b.Created.Time = a.Created.UTC(), b.Created.UTC()
		if a != b {
			return false
		}
	}
	return true
}

// ownSteps are the steps of a history that come after its base's, which has n layers.
func ownSteps(steps []json.RawMessage, base Image, n int) ([]json.RawMessage, error) {
	of, err := stepsOf(base.Config)
	if err != nil {
		return nil, err
	}
	if beginsWith(steps, of) {
		return steps[len(of):], nil
	}
	for i, raw := range steps {
		var step v1.History
		if err := json.Unmarshal(raw, &step); err != nil {
			return nil, fmt.Errorf("read its history: %w: %w", ErrCorrupt, err)
		}
		if step.EmptyLayer {
			continue
		}
		if n == 0 {
			return steps[i:], nil
		}
		n--
	}
	return nil, nil
}

// rebasing is a rebase under way: the layers of mine from the n-th on go on next.
type rebasing struct {
	s          *Store
	lease      *snapshot.Lease
	mine, next *composed
	n          int
	conflicts  *ConflictsError
	plans      []*layer.Settlement // of the layers that move, over what is below them now
}

func (r *rebasing) moved() []composedLayer { return r.mine.layers[r.n:] }

// compare finds where the bases differ in what the layers change.
func (r *rebasing) compare(ctx context.Context) error {
	var taken []map[string]bool
	below, err := stackOf(r.mine.layers[:r.n])
	if err != nil {
		return err
	}
	defer below.Close()
	for _, l := range r.moved() {
		plan, err := layer.PlanSettlement(l.tree.Dir, below)
		if err != nil {
			return err
		}
		from, err := plan.Taken(l.tree.Dir)
		if err == nil {
			err = below.Push(filepath.Join(l.tree.Dir, "fs"))
		}
		if err != nil {
			return err
		}
		r.plans, taken = append(r.plans, plan), append(taken, from)
	}
	mine, err := r.s.openTrees(ctx, r.mine.layers)
	if err != nil {
		return err
	}
	defer mine.close()
	next, err := r.s.openTrees(ctx, r.next.layers)
	if err != nil {
		return err
	}
	defer next.close()
	for c, err := range layer.Conflicts(ctx, mine[r.n:], taken, mine[:r.n].stack(), next.stack()) {
		if err != nil {
			return err
		}
		r.conflicts.add(c)
	}
	return nil
}

// trees are layers as one view, by their indexes.
type trees []*layer.Tree

// openTrees opens the indexes of layers. One that is damaged is made again.
func (s *Store) openTrees(ctx context.Context, layers []composedLayer) (t trees, err error) {
	for _, l := range layers {
		x, err := layer.OpenTree(l.tree.Dir, l.tree.DiffID+" "+l.tree.ID, func() error { return s.reindex(ctx, l.tree) })
		if err != nil {
			t.close()
			return nil, fmt.Errorf("layer %s: %w", l.tree.DiffID, err)
		}
		t = append(t, x)
	}
	return t, nil
}

func (t trees) stack() *diff.Stack {
	var layers []diff.Layer
	for _, x := range t {
		layers = append(layers, x)
	}
	return diff.NewStack(layers...)
}

func (t trees) close() {
	for _, x := range t {
		x.Close()
	}
}

// settle finds or makes a tree of each layer that is right for the new base, and looks whether one would do something else there. After a
// conflict nothing is made any more.
func (r *rebasing) settle(ctx context.Context) ([]composedLayer, error) {
	below, err := stackOf(r.next.layers)
	if err != nil {
		return nil, err
	}
	defer below.Close()
	var moved []composedLayer
	for i, l := range r.moved() {
		if !standsAlone(l.tree.Dir) {
			plan, err := layer.PlanSettlement(l.tree.Dir, below)
			if errors.Is(err, layer.ErrMalformed) { // a hard link to what is not there
				r.conflicts.add(layer.Conflict{Path: "/", Why: err.Error()})
				plan, err = r.plans[i], nil
			}
			if err != nil {
				return nil, fmt.Errorf("layer %s: %w", l.tree.DiffID, err)
			}
			for _, path := range r.plans[i].Differs(plan) {
				if !slices.ContainsFunc(r.conflicts.Conflicts, func(c layer.Conflict) bool { return c.Path == path }) {
					r.conflicts.add(layer.Conflict{Path: path, Why: "the layer leans on what is below, which is not the same in the new base"})
				}
			}
			if settling := plan.Digest(); settling != l.tree.Settling && r.conflicts.Count == 0 {
				if l.tree, err = r.resettled(ctx, l, plan, below); err != nil {
					return nil, fmt.Errorf("layer %s: %w", l.tree.DiffID, err)
				}
			}
		}
		if err := below.Push(filepath.Join(l.tree.Dir, "fs")); err != nil {
			return nil, err
		}
		moved = append(moved, l)
	}
	return moved, nil
}

// resettled is the layer's tree as a plan makes it: one that is here, or one that is unpacked from the layer's blob.
func (r *rebasing) resettled(ctx context.Context, l composedLayer, plan *layer.Settlement, below *snapshot.Stack) (snapshot.Tree, error) {
	if t, err := r.s.findTree(ctx, r.lease, l.tree.DiffID, plan.Digest()); err != nil || t.ID != "" {
		return t, err
	}
	blob, err := r.s.openLayer(ctx, r.lease, l.Layer, r.mine.sources)
	if err != nil {
		return snapshot.Tree{}, err
	}
	defer blob.Close()
	st, err := r.s.snaps.NewStaging()
	if err != nil {
		return snapshot.Tree{}, err
	}
	r.lease.Keep(closer(st.Discard))
	res, err := layer.Apply(ctx, blob, st.Dir, layer.Options{})
	if err == nil && res.DiffID != l.tree.DiffID {
		err = fmt.Errorf("its blob unpacks to %s: %w", res.DiffID, ErrCorrupt)
	}
	if err == nil {
		err = plan.Execute(st.Path(), below)
	}
	if err != nil {
		return snapshot.Tree{}, err
	}
	failpoint.Hit("rebase/applied")
	return r.s.keepTree(ctx, r.lease, st, res, plan.Digest())
}

// openLayer opens the blob of a layer, which is fetched where it is not here.
func (s *Store) openLayer(ctx context.Context, lease *snapshot.Lease, l Layer, sources []origin) (*os.File, error) {
	if l.Digest == "" {
		return nil, fmt.Errorf("it was made here, and leans on other layers than its own: %w", ErrCorrupt)
	}
	here, err := s.holdBlob(ctx, lease, l.Digest)
	if err == nil && !here {
		var h v1.Hash
		if h, err = v1.NewHash(l.Digest); err == nil {
			err = s.keepBlob(ctx, repositoriesOf(sources, nil), lease, v1.Descriptor{Digest: h, Size: l.BlobSize})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("its blob is not here, and the layer must be unpacked again for the new base: %w", err)
	}
	return s.content.Open(l.Digest)
}
