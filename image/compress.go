package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// bucketPacked is what came of compressing layers: diff ID, space, layer.Packing.Key. A blob that was made so is no image's need: it is
// kept as long as there is room for it, prune and rmi take it away, and it can be made again, the same to the byte. The row stays as long as
// an image has the layer, so that a registry which has the blob is not sent it, nor the layer compressed.
var bucketPacked = []byte("packed")

// packedRow is a blob that was made of a layer.
type packedRow struct {
	Digest  string
	Size    int64
	Sources []origin `json:",omitempty"` // where it was pushed to
}

func packedKey(diffID string, p layer.Packing) string { return diffID + " " + p.Key() }

// packed looks up what became of a layer. A row that is damaged is as good as none.
func packed(tx *bbolt.Tx, key string) (row packedRow, found bool) {
	if tx.Bucket(bucketPacked) == nil {
		return row, false
	}
	found, err := getJSON(tx, bucketPacked, key, &row)
	return row, found && err == nil
}

// packedWays are all blobs that were made of a layer, by their ways.
func packedWays(tx *bbolt.Tx, diffID string) map[string]packedRow {
	ways := map[string]packedRow{}
	if tx.Bucket(bucketPacked) == nil {
		return ways
	}
	prefix := []byte(diffID + " ")
	cur := tx.Bucket(bucketPacked).Cursor()
	for k, _ := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = cur.Next() {
		if row, ok := packed(tx, string(k)); ok {
			ways[string(k[len(prefix):])] = row
		}
	}
	return ways
}

// packedAs finds the way in which a layer became a blob, provided that it is a way that we still have.
func packedAs(tx *bbolt.Tx, diffID, digest string) (p layer.Packing, row packedRow, found bool) {
	for way, row := range packedWays(tx, diffID) {
		p, err := layer.ParsePacking(way[:max(strings.LastIndexByte(way, ':'), 0)])
		if err == nil && p.Key() == way && row.Digest == digest {
			return p, row, true
		}
	}
	return p, row, false
}

// remember notes what became of a layer.
func (s *Store) remember(key string, row packedRow) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketPacked); err != nil {
			return err
		}
		if before, ok := packed(tx, key); ok && before.Digest == row.Digest {
			row.Sources = distinct(append(row.Sources, before.Sources...))
		}
		row.Sources = row.Sources[:min(len(row.Sources), mostSources)]
		return putJSON(tx, bucketPacked, key, row)
	})
}

// mostSources is how many repositories are remembered of a blob that was made here, the last ones.
const mostSources = 8

// sweepPacked forgets what became of layers that no image has any more.
func (s *Store) sweepPacked() error {
	var gone [][]byte
	if err := s.db.View(func(tx *bbolt.Tx) (err error) { gone, err = stalePacked(tx); return err }); err != nil || len(gone) == 0 {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		gone, err := stalePacked(tx)
		for _, k := range gone {
			err = errors.Join(err, tx.Bucket(bucketPacked).Delete(k))
		}
		return err
	})
}

func stalePacked(tx *bbolt.Tx) (gone [][]byte, err error) {
	if tx.Bucket(bucketPacked) == nil {
		return nil, nil
	}
	have := map[string]bool{}
	err = tx.Bucket(bucketImages).ForEach(func(k, _ []byte) error {
		var row imageRow
		_, err := getJSON(tx, bucketImages, string(k), &row)
		for _, l := range row.Layers {
			have[l.DiffID] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = tx.Bucket(bucketPacked).ForEach(func(k, _ []byte) error {
		if diffID, _, _ := strings.Cut(string(k), " "); !have[diffID] {
			gone = append(gone, bytes.Clone(k))
		}
		return nil
	})
	return gone, err
}

// compressing is a layer that is being compressed. It is a registry.Bytes: what there is of it can be sent meanwhile.
type compressing struct {
	mu    sync.Mutex
	plain int64         // bytes of the tar
	more  chan struct{} // closed when there is more
	data  *os.File
	n     int64
	ended bool
	dig   string
	err   error
}

func (m *compressing) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	if m.more != nil {
		close(m.more)
		m.more = nil
	}
}

// wait waits until there are so many bytes, or no more come.
func (m *compressing) wait(ctx context.Context, n int64) (have int64, ended bool, err error) {
	for {
		m.mu.Lock()
		if m.more == nil {
			m.more = make(chan struct{})
		}
		have, ended, err = m.n, m.ended, m.err
		more := m.more
		m.mu.Unlock()
		if err != nil || ended || have >= n {
			return have, ended, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return have, ended, ctx.Err()
		}
	}
}

// Part implements registry.Bytes.
func (m *compressing) Part(ctx context.Context, from, most int64) (registry.Part, error) {
	want := from + most
	if want < from {
		want = 1<<63 - 1
	}
	have, ended, err := m.wait(ctx, want)
	if err != nil {
		return registry.Part{}, err
	}
	n := min(most, have-from)
	return registry.Part{Size: n, Last: ended && from+n == have, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(m.data, from, n)), nil
	}}, nil
}

// Whole implements registry.Bytes.
func (m *compressing) Whole(ctx context.Context) (digest string, size int64, err error) {
	size, _, err = m.wait(ctx, 1<<63-1)
	return m.dig, size, err
}

// progress is how much of the tar so many bytes of what comes of it are, about.
func (m *compressing) progress(at int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n == 0 {
		return 0
	}
	return int64(float64(m.plain) * float64(at) / float64(m.n))
}

// compress makes the blob of a layer, verified by the layer's diff ID, keeps it and remembers it. The lease holds it. m is told of what
// comes, and closed by the lease.
func (s *Store) compress(ctx context.Context, lease *snapshot.Lease, l savedLayer, p layer.Packing, m *compressing) (row packedRow, err error) {
	defer func() {
		if err != nil {
			m.set(func() { m.err = err })
		}
	}()
	in, err := s.content.Make()
	if err != nil {
		return row, err
	}
	defer in.Close()
	failpoint.Hit("compress/begun")
	data, err := in.Open()
	if err != nil {
		return row, err
	}
	lease.Keep(data)
	m.set(func() { m.data = data })
	sum := sha256.New()
	c := layer.NewCompressor(writerFunc(func(b []byte) (int, error) {
		n, err := in.Write(b)
		m.set(func() { m.n += int64(n) })
		return n, err
	}), p, writerFunc(func(b []byte) (int, error) {
		m.set(func() { m.plain += int64(len(b)) })
		return sum.Write(b)
	}))
	err = s.writeTar(ctx, l, c)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = l.verify(sum)
	}
	if err != nil {
		return row, err
	}
	row = packedRow{Digest: in.Digest(), Size: m.n}
	m.set(func() { m.ended, m.dig = true, row.Digest })
	if err := in.Commit(lease); err != nil {
		return row, err
	}
	failpoint.Hit("compress/kept")
	err = s.remember(packedKey(l.DiffID, p), row)
	failpoint.Hit("compress/remembered")
	return row, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// remakeBlob makes a layer's blob again that was made here and is not kept any more; false where this one was not, or not as we would.
func (s *Store) remakeBlob(ctx context.Context, lease *snapshot.Lease, img Image, i int, digest string) (bool, error) {
	var p layer.Packing
	var found bool
	err := s.db.View(func(tx *bbolt.Tx) error { p, _, found = packedAs(tx, img.Layers[i].DiffID, digest); return nil })
	if err != nil || !found {
		return false, err
	}
	trees, err := s.treesOf(ctx, img)
	if err != nil {
		return false, err
	}
	l, err := s.plainLayer(ctx, lease, img.Layers[i], trees[i])
	if err != nil {
		return false, err
	}
	row, err := s.compress(ctx, lease, *l, p, &compressing{})
	return err == nil && row.Digest == digest, err
}

// treesOf are the trees of an image's layers.
func (s *Store) treesOf(ctx context.Context, img Image) ([]snapshot.Tree, error) {
	trees, err := s.snaps.Chain(ctx, img.Chain)
	if err == nil && len(trees) != len(img.Layers) {
		err = fmt.Errorf("%d trees for %d layers: %w", len(trees), len(img.Layers), ErrCorrupt)
	}
	return trees, err
}

// plainLayer holds what the tar of a layer that was made here can be read from: the tar itself, where it is kept, or the tree.
func (s *Store) plainLayer(ctx context.Context, lease *snapshot.Lease, l Layer, tree snapshot.Tree) (*savedLayer, error) {
	sl := &savedLayer{Layer: l, tree: tree}
	var err error
	if l.Digest != "" {
		sl.kept, err = s.holdBlob(ctx, lease, l.Digest)
	}
	if err == nil && !sl.kept {
		err = s.snaps.Hold(lease, tree)
	}
	return sl, err
}

// ociType is OCI's type of a layer of Docker's: the same bytes, and a manifest of one kind names blobs of that kind.
func ociType(media string) types.MediaType {
	switch t := types.MediaType(media); t {
	case types.DockerLayer:
		return types.OCILayer
	case types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer
	default:
		return t
	}
}

// packedType is the type of a layer that was compressed here.
func packedType(p layer.Packing) types.MediaType {
	if p.Compression == layer.Zstd {
		return types.OCILayerZStd
	}
	return types.OCILayer
}

// descriptor names a blob in a manifest.
func descriptor(media types.MediaType, digest string, size int64) (v1.Descriptor, error) {
	h, err := v1.NewHash(digest)
	return v1.Descriptor{MediaType: media, Digest: h, Size: size}, err
}
