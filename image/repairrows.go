package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// rows makes the database hold what it should: what of it can be believed, and what the records of names, the manifests and the configs
// still say. Without need it is not written to.
func (h *healer) rows(ctx context.Context) error {
	for try := 0; ; try++ {
		lost, err := h.recoverRows(ctx)
		if err == nil {
			err = h.writeRows()
		}
		if errors.Is(err, rowdb.ErrChanged) && try < 20 {
			continue
		}
		if err == nil {
			h.out.Lost = append(h.out.Lost, lost...)
		}
		return err
	}
}

func (h *healer) recoverRows(ctx context.Context) (lost []string, err error) {
	st, err := h.s.readRows()
	if err != nil {
		return nil, err
	}
	h.st = st
	damaged := len(st.verified.Problems) > 0
	for _, rec := range h.s.records() {
		n, known := st.names[rec.Name]
		// Of a damaged database an old state may be what is left; a record is never older than its row.
		if known && (!damaged || n.ID == rec.ID && n.Digest == rec.Digest) || !known && !damaged && st.broken[string(bucketNames)+"/"+rec.Name] == "" {
			continue
		}
		st.names[rec.Name] = nameRow{ID: rec.ID, Digest: rec.Digest}
	}
	if damaged {
		lost = append(lost, h.namesOfFiles(ctx)...)
	}
	for where := range st.broken {
		// The row of a name that has no record is gone: nothing says what the name meant.
		if name, ok := strings.CutPrefix(where, string(bucketNames)+"/"); ok && st.names[name].ID == "" {
			lost = append(lost, "name "+name+": its row is damaged, and it has no record")
		}
		// An image without a name has no record, but its config and manifest are still here.
		if id, ok := strings.CutPrefix(where, string(bucketImages)+"/"); ok {
			if _, known := st.images[id]; !known && reference.ValidDigest(id) {
				if row, err := h.imageRow(ctx, id, h.manifestOf(id), ""); err == nil {
					st.images[id] = *row
				} else if len(st.namesOf(id)) == 1 && st.namesOf(id)[0] == id {
					lost = append(lost, "image "+id+": "+err.Error())
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.names)) {
		n := st.names[name]
		if _, known := st.images[n.ID]; known {
			continue
		}
		row, err := h.imageRow(ctx, n.ID, n.Digest, name)
		switch {
		case err == nil:
			st.images[n.ID] = *row
		case errors.Is(err, registry.ErrNotFound) || errors.Is(err, content.ErrNotFound) || errors.Is(err, content.ErrCorrupt):
			lost = append(lost, "image "+name+": "+err.Error())
			delete(st.names, name)
		default:
			return nil, fmt.Errorf("make the row of %s again: %w", name, err)
		}
	}
	for name, n := range st.names {
		if n.Digest == "" || n.Media != "" {
			continue
		}
		raw, err := h.manifest(ctx, n.Digest, h.from(h.origins([]string{n.ID})))
		if err != nil {
			h.left("the manifest of %s: %v", name, err)
			continue
		}
		var m v1.Manifest
		if json.Unmarshal(raw, &m) == nil {
			if n.Media, n.Size = string(m.MediaType), int64(len(raw)); n.Media == "" {
				n.Media = string(types.OCIManifestSchema1) // which alone need not say it
			}
			st.names[name] = n
		}
	}
	return lost, ctx.Err()
}

// namesOfFiles adds the names that only the layout's index still says, for a record may be lost with the rows; and says of which names
// nothing is left but the name of the record's file.
func (h *healer) namesOfFiles(ctx context.Context) (lost []string) {
	var index v1.IndexManifest
	if b, err := os.ReadFile(filepath.Join(h.s.dir, "index.json")); err == nil && json.Unmarshal(b, &index) == nil {
		for _, d := range index.Manifests {
			name := d.Annotations["org.opencontainers.image.ref.name"]
			if _, known := h.st.names[name]; known || name == "" {
				continue
			}
			raw, err := h.manifest(ctx, d.Digest.String(), h.from(originsOf(name)))
			var m v1.Manifest
			if err == nil && json.Unmarshal(raw, &m) == nil {
				h.st.names[name] = nameRow{ID: m.Config.Digest.String(), Digest: d.Digest.String(), Media: string(d.MediaType), Size: d.Size}
			}
		}
	}
	entries, _ := os.ReadDir(filepath.Join(h.s.dir, "names"))
	for _, e := range entries {
		name := strings.ReplaceAll(strings.TrimSuffix(e.Name(), ".json"), "%", "/")
		if _, known := h.st.names[name]; !known && !strings.HasPrefix(name, ".") {
			lost = append(lost, "image "+name+": its row and its record are damaged")
		}
	}
	return lost
}

// manifest reads a manifest, or fetches it where it is damaged or missing.
func (h *healer) manifest(ctx context.Context, digest string, from *repositories) ([]byte, error) {
	if raw, err := h.s.content.Read(digest); err == nil {
		return raw, nil
	}
	m, err := from.Manifest(ctx, digest)
	if err == nil {
		_, err = h.s.content.Put(&h.lease, m.Raw)
	}
	return m.Raw, err
}

// manifestOf looks through the small blobs for a manifest that has a config: its digest, or "".
func (h *healer) manifestOf(id string) string {
	blobs, _ := filepath.Glob(h.s.content.Path("*"))
	for _, path := range blobs {
		digest := "sha256:" + filepath.Base(path)
		if raw, err := h.small(digest); err == nil {
			var m v1.Manifest
			if json.Unmarshal(raw, &m) == nil && m.Config.Digest.String() == id {
				return digest
			}
		}
	}
	return ""
}

// small reads a blob that is no larger than a manifest may be.
func (h *healer) small(digest string) ([]byte, error) {
	f, err := h.s.content.Open(digest)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	f.Close()
	if err == nil && info.Size() > maxSmall {
		err = content.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return h.s.content.Read(digest)
}

// imageRow makes the row of an image from its config and manifest, which are fetched where they are not here.
func (h *healer) imageRow(ctx context.Context, id, digest, name string) (*imageRow, error) {
	from := h.from(originsOf(name))
	blobs := []string{id}
	var m v1.Manifest
	if digest != "" {
		raw, err := h.manifest(ctx, digest, from)
		if err != nil {
			return nil, fmt.Errorf("fetch its manifest: %w", err)
		}
		if err := json.Unmarshal(raw, &m); err != nil || m.Config.Digest.String() != id {
			return nil, fmt.Errorf("its manifest is another image's: %w", content.ErrCorrupt)
		}
		blobs = append(blobs, digest)
	}
	raw, err := h.s.content.Read(id)
	if err != nil && digest != "" {
		if err = h.fetchConfig(ctx, m.Config, from); err == nil {
			raw, err = h.s.content.Read(id)
		}
	}
	var cfg v1.ConfigFile
	if err == nil {
		err = json.Unmarshal(raw, &cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("read its config: %w", err)
	}
	if digest != "" && len(m.Layers) != len(cfg.RootFS.DiffIDs) {
		return nil, fmt.Errorf("its manifest has %d layers, its config %d: %w", len(m.Layers), len(cfg.RootFS.DiffIDs), content.ErrCorrupt)
	}
	var layers []Layer
	parent := ""
	for i, d := range cfg.RootFS.DiffIDs {
		l := Layer{DiffID: d.String(), Chain: chainID(parent, d.String())}
		if digest != "" {
			l.Digest, l.MediaType, l.BlobSize = m.Layers[i].Digest.String(), string(m.Layers[i].MediaType), m.Layers[i].Size
		}
		if u, err := h.s.snaps.Usage(ctx, l.Chain); err == nil {
			l.Size = u.Size
		}
		layers = append(layers, l)
		parent = l.Chain
	}
	row := rowOf(&cfg, layers, blobs)
	row.Absent = absent(h.s.content, layers)
	if digest != "" {
		row.Sources = originsOf(name)
	}
	return row, nil
}

func (h *healer) fetchConfig(ctx context.Context, d v1.Descriptor, from *repositories) error {
	raw, err := readSmall(ctx, from, d.Digest.String(), d.Size)
	if err == nil {
		_, err = h.s.content.Put(&h.lease, raw)
	}
	return err
}

// writeRows makes the buckets right.
func (h *healer) writeRows() error {
	want := rowdb.Contents{string(bucketImages): {}, string(bucketNames): {}, string(bucketUses): {}, string(bucketNamed): {}}
	put := func(bucket []byte, key string, v any) error {
		b, err := rowdb.Seal(string(bucket)+"/"+key, v)
		want[string(bucket)][key] = b
		return err
	}
	for id, row := range h.st.images {
		if err := put(bucketImages, id, row); err != nil {
			return err
		}
		for _, what := range row.uses() {
			want[string(bucketUses)][string(useKey(what, id))] = []byte{}
		}
	}
	for name, n := range h.st.names {
		if err := put(bucketNames, name, n); err != nil {
			return err
		}
		want[string(bucketNamed)][string(useKey(n.ID, name))] = []byte{}
	}
	if h.st.packed != nil {
		want[string(bucketPacked)] = h.st.packed
	}
	have, whole := h.st.verified.Rows, len(h.st.verified.Problems) == 0
	if have[string(bucketNamed)] == nil && whole {
		delete(want, string(bucketNamed)) // an older store's: made when it is needed
	}
	same := whole
	for bucket, rows := range want {
		same = same && maps.EqualFunc(have[bucket], rows, bytes.Equal)
	}
	if same {
		return nil
	}
	a, err := h.s.db.Apply(h.st.verified, want)
	if err != nil {
		return err
	}
	switch {
	case a.Anew && a.Kept != "":
		h.healed("images/meta.db: made anew, with %d images; the damaged one is kept as %s until the next prune", len(h.st.images), filepath.Base(a.Kept))
	case a.Anew:
		h.healed("images/meta.db: made anew, with %d images", len(h.st.images))
	default:
		h.healed("images/meta.db: %d rows made right", a.Changed)
	}
	h.st, err = h.s.readRows()
	return err
}
