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
	"time"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/archive"
	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// What callers decide on; test with errors.Is.
var (
	ErrNotFound     = errors.New("no such image")
	ErrInvalid      = errors.New("invalid")
	ErrInUse        = errors.New("image in use")
	ErrSeveralNames = errors.New("which of them is meant?")
	// ErrNotServed is an ErrNotFound of a registry's.
	ErrNotServed    = registry.ErrNotFound
	ErrAmbiguous    = errors.New("several images match")
	ErrUnauthorized = registry.ErrUnauthorized
	ErrUnavailable  = registry.ErrUnavailable
	ErrCorrupt      = errors.New("verification failed")
)

// kindError is an error of a kind that callers test for, whose text already says it all.
type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }

// invalid makes an ErrInvalid.
func invalid(format string, a ...any) error { return &kindError{fmt.Sprintf(format, a...), ErrInvalid} }

// Store is the images of one layerctl store.
type Store struct {
	root    string // --root
	dir     string
	snaps   *snapshot.Store
	content *content.Store
	db      *rowdb.DB

	Warn func(string) // is told what was found damaged and made right again; may be nil
}

func (s *Store) warn(line string) {
	if s.Warn != nil {
		s.Warn(line)
	}
}

// Open opens the images of the store at root, whose snapshots are snaps. No database is opened yet.
func Open(root string, snaps *snapshot.Store) (*Store, error) {
	dir := filepath.Join(root, "images")
	c, err := content.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	return &Store{root: root, dir: dir, snaps: snaps, content: c,
		db: rowdb.New(filepath.Join(dir, "meta.db"), string(bucketImages), string(bucketNames), string(bucketUses))}, nil
}

var (
	bucketImages = []byte("images")
	bucketNames  = []byte("names")
	bucketUses   = []byte("uses")
	bucketNamed  = []byte("named")
)

// Layer is one layer of an image, lowest first.
type Layer struct {
	DiffID    string
	Digest    string // of the blob; "" for a layer that was made here
	MediaType string
	BlobSize  int64
	TarSize   int64 // bytes of the uncompressed tar; 0 where nobody has counted them
	Size      int64 // bytes of files
	Chain     string
}

// Image is an image in the store, under one of its names.
type Image struct {
	record.Record
	Names    []string // all of them; what was just made is not asked for others
	Platform string   // OS/ARCH[/VARIANT]
	Created  time.Time
	Size     int64 // bytes of files in all layers
	Layers   []Layer
	Config   []byte // as it came
}

// imageRow is an image in the database.
type imageRow struct {
	Chain    string
	Platform string
	OS, Arch string
	Created  time.Time
	Size     int64
	Layers   []Layer
	Blobs    []string // manifests and config, and layers' blobs under which other manifests know the same layers
	Absent   []string `json:",omitempty"` // layers' blobs that were never fetched, for their trees were here
	Sources  []origin `json:",omitempty"` // where it was pulled from
	Settings record.Settings
}

// nameRow is a name in the database.
type nameRow struct {
	ID       string
	Digest   string `json:",omitempty"` // of the image's own manifest
	Resolved string `json:",omitempty"` // of what the registry answered: the same, or the index's
	Media    string `json:",omitempty"`
	Size     int64  `json:",omitempty"`
}

func getJSON(tx *bbolt.Tx, bucket []byte, key string, v any) (bool, error) {
	b := tx.Bucket(bucket).Get([]byte(key))
	if b == nil {
		return false, nil
	}
	if err := rowdb.Unseal(string(bucket)+"/"+key, b, v); err != nil {
		return false, fmt.Errorf("read the row of %s: %w", key, err)
	}
	return true, nil
}

func putJSON(tx *bbolt.Tx, bucket []byte, key string, v any) error {
	b, err := rowdb.Seal(string(bucket)+"/"+key, v)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put([]byte(key), b)
}

func useKey(what, id string) []byte { return []byte(what + "\x00" + id) }

// used says whether any image needs a blob or chain.
func used(tx *bbolt.Tx, what string) bool {
	prefix := useKey(what, "")
	k, _ := tx.Bucket(bucketUses).Cursor().Seek(prefix)
	return bytes.HasPrefix(k, prefix)
}

// uses lists what an image needs.
func (r *imageRow) uses() []string {
	list := append([]string{"chain:" + r.Chain}, r.Blobs...)
	for _, l := range r.Layers {
		if l.Digest != "" {
			list = append(list, l.Digest)
		}
	}
	return list
}

// name gives an image a name, or with "" only its row, in one transaction. With the rows go what follows from them: the record that run reads, and the
// layout's index.
func (s *Store) name(name string, n nameRow, row *imageRow) error {
	return s.update(func(tx *bbolt.Tx, c *naming) error {
		if row == nil {
			row = &imageRow{}
			if ok, err := getJSON(tx, bucketImages, n.ID, row); err != nil || !ok {
				return errors.Join(err, fmt.Errorf("%s: %w", n.ID, ErrNotFound))
			}
		} else {
			var before imageRow
			if ok, err := getJSON(tx, bucketImages, n.ID, &before); err != nil {
				return err
			} else if ok {
				// The same image under other blobs (another registry, another compression): both stay needed.
				for _, what := range before.uses() {
					if strings.HasPrefix(what, "sha256:") && !contains(row.uses(), what) {
						row.Blobs = append(row.Blobs, what)
					}
				}
				row.Absent = union(row.Absent, before.Absent)
				row.Sources = union(row.Sources, before.Sources)
			}
			if err := putJSON(tx, bucketImages, n.ID, row); err != nil {
				return err
			}
			for _, what := range row.uses() {
				if err := tx.Bucket(bucketUses).Put(useKey(what, n.ID), nil); err != nil {
					return err
				}
			}
		}
		if name == "" {
			return nil
		}
		var now nameRow
		if ok, err := getJSON(tx, bucketNames, name, &now); err != nil {
			return err
		} else if ok && now.ID == n.ID && n.Digest == "" {
			n = now // the name says more already
		}
		return c.putName(tx, name, n, row)
	})
}

// naming is what a transaction does besides its rows.
type naming struct {
	s       *Store
	dropped bool             // a name has lost its record
	records []*record.Record // to be written when the rows are
}

// errUnwritten says that a transaction is committed, and that what follows from its rows could not be written. Nobody is misled by that:
// where there is no record the rows are asked, and the layout's index is written anew with the next change.
var errUnwritten = errors.New("the rows are changed, but not all files that say so")

// update runs a transaction that changes names or images, and writes the files that say what the rows say while the rows are still
// locked, so that the last transaction's files are the last ones written. It is errUnwritten where that alone failed.
func (s *Store) update(fn func(tx *bbolt.Tx, c *naming) error) error {
	var after error
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketNamed) == nil {
			if err := indexNames(tx); err != nil {
				return err
			}
		}
		c := &naming{s: s}
		if err := fn(tx, c); err != nil {
			return err
		}
		if c.dropped {
			// On disk before the rows are: a record that came back after a power cut would be believed.
			if err := snapshot.SyncDir(filepath.Join(s.dir, "names")); err != nil {
				return fmt.Errorf("forget records: %w", err)
			}
		}
		failpoint.Hit("name/forgotten")
		index, err := layoutIndex(tx)
		if err != nil {
			return err
		}
		layout := filepath.Join(s.dir, "index.json")
		before, err := os.ReadFile(layout)
		same := err == nil && bytes.Equal(before, index)
		if !same && err == nil {
			// Gone before the rows are another's: what lies would be believed by other programs, what is not there is made again.
			if err = os.Remove(layout); err == nil {
				err = snapshot.SyncDir(s.dir)
			}
			if err != nil {
				return fmt.Errorf("forget the layout's index: %w", err)
			}
		}
		tx.OnCommit(func() {
			failpoint.Hit("name/rows")
			for _, rec := range c.records {
				after = errors.Join(after, record.Write(s.dir, rec))
				failpoint.Hit("name/record")
			}
			if same {
				return
			}
			if err := snapshot.WriteFile(layout, index, true); err != nil {
				after = errors.Join(after, fmt.Errorf("write the layout's index: %w", err))
			}
		})
		return nil
	})
	if err == nil && after != nil {
		err = fmt.Errorf("%w: %w", errUnwritten, after)
	}
	return err
}

// putName gives an image, whose row is given, a name, and the name a record. An image that had it loses it.
func (c *naming) putName(tx *bbolt.Tx, name string, n nameRow, row *imageRow) error {
	rec := recordOf(name, n, row)
	c.records = append(c.records, &rec)
	if err := c.dropName(tx, name); err != nil {
		return err
	}
	if err := tx.Bucket(bucketNamed).Put(useKey(n.ID, name), nil); err != nil {
		return err
	}
	return putJSON(tx, bucketNames, name, n)
}

// dropName takes a name away from the image that has it, if one does. Its record goes first: without one, the rows are asked.
func (c *naming) dropName(tx *bbolt.Tx, name string) error {
	removed, err := record.Remove(c.s.dir, name) // also one of no row, which a kill left
	if err != nil {
		return err
	}
	c.dropped = c.dropped || removed
	var n nameRow
	if ok, err := getJSON(tx, bucketNames, name, &n); err != nil || !ok {
		return err
	}
	if err := tx.Bucket(bucketNamed).Delete(useKey(n.ID, name)); err != nil {
		return err
	}
	return tx.Bucket(bucketNames).Delete([]byte(name))
}

// indexNames makes the index of names by image, which older stores lack.
func indexNames(tx *bbolt.Tx) error {
	named, err := tx.CreateBucket(bucketNamed)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketNames).ForEach(func(k, v []byte) error {
		var n nameRow
		if err := json.Unmarshal(v, &n); err != nil {
			return fmt.Errorf("read the row of %s: %w", k, err)
		}
		return named.Put(useKey(n.ID, string(k)), nil)
	})
}

// origin is a repository that an image was pulled from.
type origin struct {
	Repository string // REGISTRY/REPOSITORY
	PlainHTTP  bool   `json:",omitempty"` // TLS was not asked for
}

func union[T comparable](a, b []T) []T {
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return a
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func layoutIndex(tx *bbolt.Tx) ([]byte, error) {
	names := map[string]nameRow{}
	err := tx.Bucket(bucketNames).ForEach(func(k, v []byte) error {
		var n nameRow
		if err := json.Unmarshal(v, &n); err != nil {
			return fmt.Errorf("read the row of %s: %w", k, err)
		}
		names[string(k)] = n
		return nil
	})
	if err != nil {
		return nil, err
	}
	return layoutOf(names)
}

// layoutOf is index.json: the names that came with a manifest, for readers of OCI layouts.
func layoutOf(names map[string]nameRow) ([]byte, error) {
	type descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	index := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, "application/vnd.oci.image.index.v1+json", []descriptor{}}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if n := names[name]; n.Digest != "" {
			index.Manifests = append(index.Manifests, descriptor{n.Media, n.Digest, n.Size,
				map[string]string{"org.opencontainers.image.ref.name": name}})
		}
	}
	return json.Marshal(index)
}

// image is what a row says of an image.
func (r *imageRow) image(id, name string) Image {
	img := Image{Platform: r.Platform, Created: r.Created, Size: r.Size, Layers: r.Layers}
	img.Record = record.Record{Name: name, ID: id, Chain: r.Chain, OS: r.OS, Arch: r.Arch, Settings: r.Settings}
	return img
}

// load reads an image under one of its names ("" for none).
func (s *Store) load(tx *bbolt.Tx, id, name string) (Image, error) {
	var row imageRow
	if ok, err := getJSON(tx, bucketImages, id, &row); err != nil || !ok {
		return Image{}, errors.Join(err, fmt.Errorf("%s: %w", id, ErrNotFound))
	}
	img := row.image(id, name)
	if name != "" {
		var n nameRow
		if _, err := getJSON(tx, bucketNames, name, &n); err != nil {
			return Image{}, err
		}
		img.Digest = n.Digest
	}
	return img, nil
}

// List returns the images, one entry a name, by name; an image without a name comes last, with an empty one.
func (s *Store) List(context.Context) ([]Image, error) {
	var list []Image
	err := s.db.View(func(tx *bbolt.Tx) error {
		named := map[string]bool{}
		err := tx.Bucket(bucketNames).ForEach(func(k, v []byte) error {
			var n nameRow
			if err := json.Unmarshal(v, &n); err != nil {
				return fmt.Errorf("read the row of %s: %w", k, err)
			}
			img, err := s.load(tx, n.ID, string(k))
			named[n.ID] = true
			list = append(list, img)
			return err
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketImages).ForEach(func(k, _ []byte) error {
			if named[string(k)] {
				return nil
			}
			img, err := s.load(tx, string(k), "")
			list = append(list, img)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}

// Resolve finds the image that ref means: a name that is here, an image ID or a unique prefix of 4 or more digits of one, or a name
// with the digest of its manifest.
func (s *Store) Resolve(_ context.Context, ref string) (Image, error) {
	var img Image
	err := s.db.View(func(tx *bbolt.Tx) error {
		id, name, err := s.find(tx, ref)
		if err != nil {
			return err
		}
		if img, err = s.load(tx, id, name); err != nil {
			return err
		}
		img.Names, err = namesOf(tx, id)
		return err
	})
	if err == nil && img.ID == "" {
		err = notFound(ref)
	}
	if err != nil {
		return Image{}, err
	}
	if img.Config, err = s.content.Read(img.ID); err != nil {
		return Image{}, fmt.Errorf("read the config of %s: %w", ref, err)
	}
	return img, nil
}

func notFound(ref string) error { return fmt.Errorf("%s: %w", ref, ErrNotFound) }

func (s *Store) find(tx *bbolt.Tx, ref string) (id, name string, err error) {
	candidates := reference.Candidates(ref)
	for _, c := range candidates {
		r, _ := reference.Parse(c)
		var n nameRow
		if r.Digest == "" {
			if ok, err := getJSON(tx, bucketNames, c, &n); err != nil || ok {
				return n.ID, c, err
			}
			continue
		}
		// By digest: any name of that repository that has it.
		cur := tx.Bucket(bucketNames).Cursor()
		for k, v := cur.Seek([]byte(r.Name())); k != nil && strings.HasPrefix(string(k), r.Name()); k, v = cur.Next() {
			if err := json.Unmarshal(v, &n); err != nil {
				return "", "", fmt.Errorf("read the row of %s: %w", k, err)
			}
			known, _ := reference.Parse(string(k))
			if known.Name() == r.Name() && (n.Digest == r.Digest || n.Resolved == r.Digest) {
				return n.ID, string(k), nil
			}
		}
	}
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < 4 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		if len(candidates) == 0 {
			_, err := reference.Parse(ref)
			return "", "", err
		}
		return "", "", notFound(ref)
	}
	prefix := []byte("sha256:" + hex)
	cur := tx.Bucket(bucketImages).Cursor()
	for k, _ := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = cur.Next() {
		if id != "" {
			return "", "", fmt.Errorf("%s: %w", ref, ErrAmbiguous)
		}
		id = string(k)
	}
	if id == "" {
		return "", "", notFound(ref)
	}
	names, err := namesOf(tx, id)
	if len(names) > 0 {
		name = names[0]
	}
	return id, name, err
}

// namesOf lists the names of an image, sorted.
func namesOf(tx *bbolt.Tx, id string) ([]string, error) {
	var names []string
	if tx.Bucket(bucketNamed) == nil { // a store that nothing was changed in since it was given this index
		err := tx.Bucket(bucketNames).ForEach(func(k, v []byte) error {
			var n nameRow
			if err := json.Unmarshal(v, &n); err != nil {
				return fmt.Errorf("read the row of %s: %w", k, err)
			}
			if n.ID == id {
				names = append(names, string(k))
			}
			return nil
		})
		return names, err
	}
	prefix := useKey(id, "")
	cur := tx.Bucket(bucketNamed).Cursor()
	for k, _ := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = cur.Next() {
		names = append(names, string(k[len(prefix):]))
	}
	return names, nil
}

// Tag gives the image src the further name dst; a short one means a name that came from no registry. An image that had it loses it.
func (s *Store) Tag(ctx context.Context, src, dst string) error {
	to, err := localName(dst)
	if err != nil {
		return fmt.Errorf("tag %s: %w", src, err)
	}
	img, err := s.Resolve(ctx, src)
	if err != nil {
		return fmt.Errorf("tag: %w", err)
	}
	n := nameRow{ID: img.ID}
	if img.Name != "" {
		if err := s.db.View(func(tx *bbolt.Tx) error { _, err := getJSON(tx, bucketNames, img.Name, &n); return err }); err != nil {
			return fmt.Errorf("tag %s: %w", src, err)
		}
	}
	n.Resolved = "" // nobody has asked a registry about the new name
	if err := s.name(to.String(), n, nil); err != nil {
		return fmt.Errorf("tag %s as %s: %w", src, dst, err)
	}
	return nil
}

// isCorrupt says of an error on the way of a layer that its bytes were wrong, and not the disk or the network.
func isCorrupt(err error) bool {
	for _, kind := range []error{layer.ErrMalformed, layer.ErrLimit, layer.ErrUnsupported, content.ErrCorrupt, registry.ErrCorrupt,
		archive.ErrMalformed, archive.ErrLimit, archive.ErrNotFound} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
