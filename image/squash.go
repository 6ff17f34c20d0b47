package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Squash makes an image of another one in which the layers from the number from on, counted from 1 for the lowest, are one layer, and
// calls it ref. The layers below are shared. Their steps stay in the history, as steps that add nothing.
func (s *Store) Squash(ctx context.Context, of, ref string, from int) (Image, error) {
	img, err := s.squash(ctx, of, ref, from)
	if err != nil {
		s.makeRoom(ctx, err)
		return Image{}, fmt.Errorf("squash %s: %w", of, err)
	}
	return img, nil
}

func (s *Store) squash(ctx context.Context, of, name string, from int) (Image, error) {
	var lease snapshot.Lease
	defer lease.Close()
	img, c, err := s.deriveAs(ctx, &lease, "squash", of, name)
	if err != nil {
		return Image{}, err
	}
	if from < 1 || from > len(c.layers) {
		return Image{}, invalid("there is no layer %d: it has %d, from 1 on", from, len(c.layers))
	}
	keep := c.layers[:from-1]
	above, err := s.openTrees(ctx, c.layers[from-1:])
	if err != nil {
		return Image{}, err
	}
	defer above.close()
	below, err := stackOf(keep)
	if err != nil {
		return Image{}, err
	}
	defer below.Close()
	merged, err := s.makeLayer(ctx, &lease, c.verb, below, func(w io.Writer) error { return layer.Squash(ctx, above, below, w) })
	if errors.Is(err, layer.ErrMalformed) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return Image{}, err
	}
	c.layers = append(keep[:len(keep):len(keep)], merged)
	if err := errors.Join(c.emptySteps(from-1), c.alignSteps(from-1)); err != nil {
		return Image{}, err
	}
	if err := c.step("layerctl squash", fmt.Sprintf("layers %d to %d of %s", from, len(img.Layers), img.ID), false); err != nil {
		return Image{}, err
	}
	return s.compose(ctx, &lease, c)
}

// stackOf is the merged view of layers.
func stackOf(layers []composedLayer) (*snapshot.Stack, error) {
	below, err := snapshot.OpenStack(nil)
	for _, l := range layers {
		if err == nil {
			err = below.Push(filepath.Join(l.tree.Dir, "fs"))
		}
	}
	return below, err
}

// makeLayer unpacks what pack writes, the canonical tar of a layer, settles it for what is below and puts it into the store, where the
// lease holds it.
func (s *Store) makeLayer(ctx context.Context, l *snapshot.Lease, verb string, below *snapshot.Stack, pack func(io.Writer) error) (composedLayer, error) {
	st, err := s.snaps.NewStaging()
	if err != nil {
		return composedLayer{}, err
	}
	l.Keep(closer(st.Discard))
	res, err := unpack(ctx, st, layer.Options{}, pack)
	if err != nil {
		return composedLayer{}, err
	}
	settling := ""
	if res.Needs > 0 {
		plan, err := layer.PlanSettlement(st.Path(), below)
		if err == nil {
			err = plan.Execute(st.Path(), below)
		}
		if err != nil {
			return composedLayer{}, err
		}
		settling = plan.Digest()
	}
	failpoint.Hit(verb + "/applied")
	tree, err := s.keepTree(ctx, l, st, res, settling)
	return composedLayer{Layer{TarSize: res.TarSize}, tree}, err
}

// keepTree puts a finished staging into the store, or takes the tree that is there of the same layer. The lease holds it.
func (s *Store) keepTree(ctx context.Context, l *snapshot.Lease, st *snapshot.Staging, res layer.Result, settling string) (snapshot.Tree, error) {
	if t, err := s.findTree(ctx, l, res.DiffID, settling); err != nil || t.ID != "" {
		return t, err
	}
	n := &snapshot.NewTree{Staging: st, DiffID: res.DiffID, Settling: settling, Usage: snapshot.Usage{Inodes: res.Inodes, Size: res.Size}}
	err := s.snaps.PutTrees(ctx, l, []*snapshot.NewTree{n})
	return n.Tree, err
}

// findTree is the tree of a layer, settled in one way, that the lease then holds; the zero Tree where there is none.
func (s *Store) findTree(ctx context.Context, l *snapshot.Lease, diffID, settling string) (snapshot.Tree, error) {
	trees, err := s.snaps.LookupTrees(ctx, diffID)
	if err != nil {
		return snapshot.Tree{}, err
	}
	for _, t := range trees {
		if t.Settling != settling {
			continue
		}
		if err := s.snaps.Hold(l, t); !errors.Is(err, snapshot.ErrNotFound) {
			return t, err
		}
	}
	return snapshot.Tree{}, nil
}

// emptySteps makes the history's steps after those of the first n layers say that they add no layer, for the next step does that.
func (c *composed) emptySteps(n int) error {
	for i, raw := range c.history {
		var step v1.History
		if err := json.Unmarshal(raw, &step); err != nil {
			return fmt.Errorf("read its history: %w: %w", content.ErrCorrupt, err)
		}
		if step.EmptyLayer {
			continue
		}
		if n > 0 {
			n--
			continue
		}
		var fields map[string]any
		err := decode(raw, &fields)
		if err == nil {
			fields["empty_layer"] = true
			c.history[i], err = json.Marshal(fields)
		}
		if err != nil {
			return fmt.Errorf("read its history: %w: %w", content.ErrCorrupt, err)
		}
	}
	return nil
}

// alignSteps makes a history that does not tell of all n layers do so, by steps that say nothing: the next step is the next layer's.
func (c *composed) alignSteps(n int) error {
	for _, raw := range c.history {
		var step v1.History
		if err := json.Unmarshal(raw, &step); err != nil {
			return fmt.Errorf("read its history: %w: %w", content.ErrCorrupt, err)
		}
		if !step.EmptyLayer {
			n--
		}
	}
	for ; n > 0; n-- {
		if err := c.step("", "", false); err != nil {
			return err
		}
	}
	return nil
}
