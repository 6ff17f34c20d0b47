package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot"
)

// RepairOptions say what Repair may know and do.
type RepairOptions struct {
	Claims map[string]snapshot.Claim // what the makers of active snapshots know of them, by key
	Notice func(line string)         // is told what is waited for; may be nil
}

// RepairReport is what Repair did, a line each.
type RepairReport struct {
	Healed []string
	Lost   []string // images that are gone, and why
	Left   []string // what could not be done now, and may be another time
}

// Repair makes right what Check found: rows and small files of each other, blobs from where the image was pulled, trees from their blobs
// or, of layers that were made here, from what the damaged tree still has. An image of which something is nowhere any more is removed.
// One that runs and only cannot be pushed stays.
func (s *Store) Repair(ctx context.Context, r *CheckReport, o RepairOptions) (*RepairReport, error) {
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	h := &healer{s: s, o: o, out: &RepairReport{}, hopeless: map[string]string{}, bad: map[string]bool{}, trees: map[string]bool{}}
	defer h.lease.Close()
	for _, f := range r.Findings {
		if f.blob != "" {
			h.bad[f.blob] = true
		}
		if f.tree != "" {
			h.trees[f.tree] = true
		}
	}
	for _, digest := range r.leavings {
		h.bad[digest] = true
	}
	done, err := s.snaps.Repair(ctx, o.Claims)
	h.out.Healed = append(h.out.Healed, done...)
	for _, step := range []func(context.Context) error{h.rows, h.blobs, h.healTrees, h.chains, h.healTrees, h.lose, h.copies} {
		if err == nil {
			err = step(ctx)
		}
	}
	if err != nil {
		err = fmt.Errorf("repair images: %w", err)
	}
	return h.out, err
}

type healer struct {
	s        *Store
	o        RepairOptions
	out      *RepairReport
	lease    snapshot.Lease
	st       *rows
	bad      map[string]bool   // blobs that are damaged or missing
	trees    map[string]bool   // numbers of trees that are damaged
	hopeless map[string]string // blobs, trees ("tree N") and chains that are nowhere to be had: why
}

func (h *healer) healed(format string, a ...any) {
	h.out.Healed = append(h.out.Healed, fmt.Sprintf(format, a...))
}

func (h *healer) left(format string, a ...any) {
	if line := fmt.Sprintf(format, a...); !slices.Contains(h.out.Left, line) {
		h.out.Left = append(h.out.Left, line)
	}
}

// origins are the repositories that may have the blobs of images: where they were pulled from, and what their names say.
func (h *healer) origins(ids []string) []origin {
	var list []origin
	for _, id := range ids {
		list = union(list, h.st.images[id].Sources)
	}
	for _, name := range slices.Sorted(maps.Keys(h.st.names)) {
		if n := h.st.names[name]; n.Digest != "" && slices.Contains(ids, n.ID) {
			list = append(list, originsOf(name)...)
		}
	}
	return distinct(list)
}

// from opens the repositories of origins; nothing is sent yet.
func (h *healer) from(list []origin) *repositories { return repositoriesOf(list, h.o.Notice) }

// blobs fetches the blobs that are damaged or missing, and drops damaged ones that nothing names.
func (h *healer) blobs(ctx context.Context) error {
	need := (&byteChecker{s: h.s, r: &CheckReport{state: h.st}}).needed()
	for digest := range need {
		if !h.s.content.Has(digest) {
			h.bad[digest] = true
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(h.bad)) {
		path := h.s.content.Path(digest)
		file := "images/blobs/sha256/" + filepath.Base(path)
		if !h.st.vouched(digest) {
			if f := snapshot.LockIdle(path); f != nil {
				err := h.s.snaps.Discard(path)
				f.Close()
				if err != nil {
					return err
				}
				h.healed("%s: removed, for nothing needs it", file)
			}
			delete(h.bad, digest)
			continue
		}
		err := h.fetch(ctx, digest, h.from(h.origins(h.st.users(digest))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err == nil:
			h.healed("%s: fetched again", file)
			delete(h.bad, digest)
		case errors.Is(err, registry.ErrNotFound):
			h.hopeless[digest] = file + " is damaged or missing, and cannot be fetched again: " + err.Error()
		default:
			h.left("%s: %v", file, err)
		}
	}
	return nil
}

// fetch brings a blob in the place of what is there.
func (h *healer) fetch(ctx context.Context, digest string, from *repositories) error {
	path := h.s.content.Path(digest)
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if err := h.s.snaps.Discard(path); err != nil {
			return err
		}
	}
	size, known := h.sizeOf(ctx, digest, from)
	if !known { // nothing names it as a config or layer
		m, err := from.Manifest(ctx, digest)
		if err == nil {
			_, err = h.s.content.Put(&h.lease, m.Raw)
		}
		return err
	}
	return untilRight(from, digest, func() error {
		body, err := from.Blob(ctx, digest, size)
		if err != nil {
			return err
		}
		defer body.Close()
		in, err := h.s.content.WaitIngest(ctx, digest, size, false)
		if err != nil {
			return err
		}
		defer in.Close()
		if _, err := io.Copy(in, body); err != nil {
			return err
		}
		return in.Commit(&h.lease)
	})
}

// sizeOf is the size of a blob that a row or a manifest names. A manifest that is not here is fetched.
func (h *healer) sizeOf(ctx context.Context, digest string, from *repositories) (int64, bool) {
	for _, row := range h.st.images {
		for _, l := range row.Layers {
			if l.Digest == digest {
				return l.BlobSize, true
			}
		}
	}
	for _, id := range h.st.users(digest) {
		for _, b := range h.st.images[id].Blobs {
			if b == digest || b == id {
				continue
			}
			raw, err := h.manifest(ctx, b, from)
			var m v1.Manifest
			if err != nil || json.Unmarshal(raw, &m) != nil {
				continue
			}
			for _, d := range append(m.Layers, m.Config) {
				if d.Digest.String() == digest {
					return d.Size, true
				}
			}
		}
	}
	return 0, false
}

// lose removes the images of which something is nowhere any more, and damaged layers that no image and no container has.
func (h *healer) lose(ctx context.Context) error {
	snaps, err := h.s.snaps.Check(ctx)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(h.st.images)) {
		row := h.st.images[id]
		why := h.hopeless[id]
		for _, l := range row.Layers {
			c, ok := snaps.Chains[l.Chain]
			switch {
			case why != "":
			case ok:
				why = h.hopeless["tree "+c.Tree]
			default:
				why = h.hopeless[l.Chain]
			}
		}
		if why == "" {
			continue
		}
		if err := h.remove(ctx, id, row, why); err != nil {
			return err
		}
	}
	for again := true; again; {
		again = false
		for _, t := range snaps.Trees {
			if h.hopeless["tree "+t.ID] == "" {
				continue
			}
			for _, chain := range t.Chains {
				removed, err := h.s.freeChain(ctx, chain)
				if err != nil {
					return err
				}
				again = again || len(removed) > 0
			}
		}
	}
	return nil
}

func (h *healer) remove(ctx context.Context, id string, row imageRow, why string) error {
	names := h.st.namesOf(id)
	img := Image{}
	img.ID, img.Chain = id, row.Chain
	if err := h.s.db.View(func(tx *bbolt.Tx) (err error) { img.Names, err = namesOf(tx, id); return err }); err != nil {
		return err
	}
	if _, err := h.s.removeNames(ctx, img, img.Names); errors.Is(err, errChanged) {
		h.left("image %s changed while it was looked at", strings.Join(names, ", "))
		return nil
	} else if err != nil {
		return err
	}
	for _, name := range names {
		delete(h.st.names, name)
	}
	delete(h.st.images, id)
	h.out.Lost = append(h.out.Lost, fmt.Sprintf("image %s: %s", strings.Join(names, ", "), why))
	return nil
}

// copies writes the files again that say what the rows say.
func (h *healer) copies(context.Context) error {
	layout := filepath.Join(h.s.dir, "oci-layout")
	if b, err := os.ReadFile(layout); err != nil || string(b) != content.Layout {
		if err := snapshot.WriteFile(layout, []byte(content.Layout), true); err != nil {
			return err
		}
		h.healed("images/oci-layout: made right")
	}
	st, err := h.s.readRows()
	if err != nil {
		return err
	}
	wrong := 0
	err = h.s.checkCopies(st, func(file, _ string, _ []string) {
		h.healed("images/%s: made right", file)
		wrong++
	})
	if err != nil || wrong+st.remakes == 0 {
		return err
	}
	return h.s.update(func(tx *bbolt.Tx, c *naming) error {
		known := map[string]bool{}
		err := tx.Bucket(bucketNames).ForEach(func(k, _ []byte) error {
			var n nameRow
			var row imageRow
			if _, err := getJSON(tx, bucketNames, string(k), &n); err != nil {
				return err
			}
			if ok, err := getJSON(tx, bucketImages, n.ID, &row); err != nil || !ok {
				return err
			}
			rec := recordOf(string(k), n, &row)
			want, err := record.Marshal(&rec)
			if err != nil {
				return err
			}
			path := record.Path(h.s.dir, rec.Name)
			known[filepath.Base(path)] = true
			if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
				c.records = append(c.records, &rec)
			}
			return nil
		})
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(h.s.dir, "names"))
		for _, e := range entries {
			if !known[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
				err = errors.Join(err, os.Remove(filepath.Join(h.s.dir, "names", e.Name())))
			}
		}
		return err
	})
}
