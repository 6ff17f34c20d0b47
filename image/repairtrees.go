package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
)

// healTrees unpacks the damaged trees anew, the lowest first, because settling one looks at those below.
func (h *healer) healTrees(ctx context.Context) error {
	snaps, err := h.s.snaps.Check(ctx)
	if err != nil {
		return err
	}
	for _, f := range snaps.Findings {
		if f.Tree != "" {
			h.trees[f.Tree] = true
		}
	}
	c := &byteChecker{s: h.s, r: &CheckReport{state: h.st, snaps: snaps}}
	depth := map[string]int{}
	var damaged []snapshot.CheckedTree
	for _, t := range snaps.Trees {
		if h.trees[t.ID] && h.hopeless["tree "+t.ID] == "" {
			below, _ := c.below(t.Chains[0])
			depth[t.ID] = len(below)
			damaged = append(damaged, t)
		}
	}
	sort.SliceStable(damaged, func(i, j int) bool { return depth[damaged[i].ID] < depth[damaged[j].ID] })
	for _, t := range damaged {
		err := h.healTree(ctx, c, t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err == nil:
			delete(h.trees, t.ID)
			h.healed("layer %s (tree %s): unpacked again", t.DiffID, t.ID)
		case errors.Is(err, errNowhere):
			h.hopeless["tree "+t.ID] = fmt.Sprintf("layer %s is damaged: %v", t.DiffID, err)
		default:
			h.left("layer %s (tree %s): %v", t.DiffID, t.ID, err)
		}
	}
	return nil
}

// errNowhere says that a layer's content cannot be had.
var errNowhere = errors.New("it is nowhere else")

func (h *healer) healTree(ctx context.Context, c *byteChecker, t snapshot.CheckedTree) error {
	st, err := h.s.snaps.NewStaging()
	if err != nil {
		return err
	}
	defer func() { st.Discard() }()
	digest, pulled := h.blobOf(t.DiffID)
	switch {
	case digest != "":
		err = h.fromBlob(ctx, digest, t, st)
		if err == nil {
			err = h.settle(c, t, st)
		}
	case h.hopeless[pulled] != "":
		return fmt.Errorf("%w, for %s", errNowhere, h.hopeless[pulled])
	case h.bad[pulled]:
		return fmt.Errorf("its blob %s could not be fetched", pulled)
	case pulled != "" && h.fetch(ctx, pulled, h.from(h.origins(h.st.users(pulled)))) == nil:
		// It was never here, for the tree was.
		if err = h.fromBlob(ctx, pulled, t, st); err == nil {
			err = h.settle(c, t, st)
		}
	default:
		if st, err = h.fromTree(ctx, t, st); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return h.s.snaps.ReplaceTree(ctx, t.Tree, st)
}

// blobOf finds a whole blob of a layer; or, in pulled, one that should be here.
func (h *healer) blobOf(diffID string) (whole, pulled string) {
	for _, row := range h.st.images {
		for _, l := range row.Layers {
			switch {
			case l.DiffID != diffID || l.Digest == "":
			case h.s.content.Has(l.Digest) && !h.bad[l.Digest]:
				return l.Digest, l.Digest
			case pulled == "" || h.hopeless[pulled] != "":
				pulled = l.Digest
			}
		}
	}
	return "", pulled
}

func (h *healer) fromBlob(ctx context.Context, digest string, t snapshot.CheckedTree, st *snapshot.Staging) error {
	f, err := h.s.content.Open(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	res, err := layer.Apply(ctx, f, st.Dir, layer.Options{})
	if err != nil {
		return fmt.Errorf("unpack its blob: %w", err)
	}
	if res.DiffID != t.DiffID {
		return fmt.Errorf("its blob unpacks to %s: %w", res.DiffID, content.ErrCorrupt)
	}
	return nil
}

// settle makes a tree fresh from its blob right for the layers below, as the damaged one was.
func (h *healer) settle(c *byteChecker, t snapshot.CheckedTree, st *snapshot.Staging) error {
	if standsAlone(st.Path()) {
		return nil
	}
	dirs, ok := c.below(t.Chains[0])
	if !ok {
		return fmt.Errorf("the layers below it are not all there")
	}
	below, err := snapshot.OpenStack(dirs)
	if err != nil {
		return err
	}
	defer below.Close()
	plan, err := layer.PlanSettlement(st.Path(), below)
	if err != nil {
		return err
	}
	if plan.Digest() != t.Settling {
		return fmt.Errorf("the layers below it are not what they were")
	}
	return plan.Execute(st.Path(), below)
}

// fromTree makes a layer that was made here anew from its damaged tree: from what is there, where only what lies beside it is damaged,
// or else from what the index says and the contents that are still found. The diff ID tells whether that is the layer.
func (h *healer) fromTree(ctx context.Context, t snapshot.CheckedTree, st *snapshot.Staging) (*snapshot.Staging, error) {
	root, err := os.Open(filepath.Join(t.Dir, "fs"))
	if err == nil {
		defer root.Close()
		res, aerr := unpack(ctx, st, layer.Options{}, func(w io.Writer) error { return layer.Pack(ctx, root, w, layer.PackOptions{Marks: true}) })
		if aerr == nil && res.DiffID == t.DiffID {
			return st, nil
		}
		st.Discard()
		if st, err = h.s.snaps.NewStaging(); err != nil {
			return st, err
		}
	}
	res, err := unpack(ctx, st, layer.Options{}, func(w io.Writer) error { return layer.Salvage(ctx, t.Dir, w) })
	switch {
	case ctx.Err() != nil:
		return st, ctx.Err()
	case err != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, layer.ErrMalformed) || errors.Is(err, layer.ErrUnsupported)):
		return st, fmt.Errorf("%w: %w", errNowhere, err)
	case err != nil:
		return st, err
	case res.DiffID != t.DiffID:
		return st, fmt.Errorf("what is left of it is another layer, %s: %w", res.DiffID, errNowhere)
	}
	return st, nil
}

// chains commits again the snapshots of images that have none.
func (h *healer) chains(ctx context.Context) error {
	snaps, err := h.s.snaps.Check(ctx)
	if err != nil {
		return err
	}
	for id, row := range h.st.images {
		if !slices.ContainsFunc(row.Layers, func(l Layer) bool { _, ok := snaps.Chains[l.Chain]; return !ok }) {
			continue
		}
		err := h.rechain(ctx, id, row)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errNowhere) {
			for _, l := range row.Layers {
				if _, ok := snaps.Chains[l.Chain]; !ok {
					h.hopeless[l.Chain] = err.Error()
				}
			}
		} else if err != nil {
			h.left("the snapshots of %s: %v", id, err)
		} else {
			h.healed("the snapshots of %s: committed again", id)
		}
	}
	return nil
}

func (h *healer) rechain(ctx context.Context, id string, row imageRow) error {
	for _, digest := range row.Blobs {
		raw, err := h.small(digest)
		if err != nil {
			continue
		}
		m := &manifest{digest: digest, raw: raw, configDigest: id}
		if json.Unmarshal(raw, &m.parsed) != nil || m.parsed.Config.Digest.String() != id {
			continue
		}
		m.media = string(m.parsed.MediaType)
		p := &puller{s: h.s, src: h.from(h.origins([]string{id})), progress: noProgress{}, manifest: m, came: LayerPulled}
		defer p.close()
		_, err = p.run(ctx)
		return err
	}
	var chain []snapshot.ChainLayer
	parent := ""
	for _, l := range row.Layers {
		trees, err := h.s.snaps.LookupTrees(ctx, l.DiffID)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(trees, func(t snapshot.Tree) bool { return t.Settling == "" })
		if at < 0 || h.s.snaps.Hold(&h.lease, trees[at]) != nil {
			return fmt.Errorf("the tree of layer %s is not known any more: %w", l.DiffID, errNowhere)
		}
		chain = append(chain, snapshot.ChainLayer{Name: l.Chain, Parent: parent, Tree: trees[at]})
		parent = l.Chain
	}
	return h.s.snaps.AdoptChain(ctx, &h.lease, chain)
}
