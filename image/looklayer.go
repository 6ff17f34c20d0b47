package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// What LookLayer answers; test with errors.Is.
var (
	ErrNoLayer       = errors.New("no such layer")
	ErrSeveralLayers = errors.New("several layers match")
	ErrSeveralChains = errors.New("it lies on several others")
)

// LookLayer opens a layer and those below it: the highest of the view is the one that is meant. name is its diff ID, the digest of its
// blob or its chain ID, each with or without "sha256:", a prefix of at least 4 digits of one that no other layer has, or IMAGE#N, the
// image's layer N, counted from 1, the lowest. Only layers of images are found.
//
// A layer that images stack on different others is ErrSeveralChains, unless the name says which: a chain ID, or IMAGE#N. With alone the
// caller does not care what is below it.
func (s *Store) LookLayer(ctx context.Context, name string, alone bool) (*View, error) {
	if ref, number, ok := strings.Cut(name, "#"); ok {
		v, err := s.Look(ctx, ref)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > len(v.Layers) {
			return nil, errors.Join(fmt.Errorf("%s: its layers are %s#1 to #%d: %w", name, ref, len(v.Layers), ErrNoLayer), v.Close())
		}
		return v, v.cut(n)
	}
	found, err := s.findLayer(name, alone)
	if err != nil {
		return nil, err
	}
	v, err := s.Look(ctx, found.image)
	if err != nil {
		return nil, err
	}
	return v, v.cut(found.n + 1)
}

// cut leaves the lowest n layers of a view.
func (v *View) cut(n int) (err error) {
	for _, l := range v.Layers[n:] {
		err = errors.Join(err, l.Index.Close())
	}
	v.Stack = diff.NewStack(v.Stack.Layers()[:n]...)
	v.Layers = v.Layers[:n]
	return err
}

// placed is a layer's place in an image.
type placed struct {
	image  string // its ID
	n      int
	diffID string
	chain  string
}

func (s *Store) findLayer(name string, alone bool) (placed, error) {
	hex := strings.TrimPrefix(name, "sha256:")
	if len(hex) < 4 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return placed{}, fmt.Errorf("%s: %w", name, ErrNoLayer)
	}
	prefix := "sha256:" + hex
	byDiffID := map[string]map[string]placed{} // diff ID → chain
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketImages).ForEach(func(k, v []byte) error {
			if !bytes.Contains(v, []byte(prefix)) {
				return nil
			}
			var row imageRow
			if _, err := getJSON(tx, bucketImages, string(k), &row); err != nil {
				return nil // damaged, which check says
			}
			for i, l := range row.Layers {
				if !strings.HasPrefix(l.DiffID, prefix) && !strings.HasPrefix(l.Digest, prefix) && !strings.HasPrefix(l.Chain, prefix) {
					continue
				}
				if byDiffID[l.DiffID] == nil {
					byDiffID[l.DiffID] = map[string]placed{}
				}
				byDiffID[l.DiffID][l.Chain] = placed{string(k), i, l.DiffID, l.Chain}
			}
			return nil
		})
	})
	diffIDs := slices.Sorted(maps.Keys(byDiffID))
	switch {
	case err != nil:
		return placed{}, err
	case len(diffIDs) == 0:
		return placed{}, fmt.Errorf("%s: %w", name, ErrNoLayer)
	case len(diffIDs) > 1:
		return placed{}, fmt.Errorf("%s: %w: %s", name, ErrSeveralLayers, strings.Join(diffIDs, ", "))
	}
	chains := byDiffID[diffIDs[0]]
	list := slices.Sorted(maps.Keys(chains))
	// The lowest layer's chain ID is its diff ID: who gives that means the layer.
	if c, ok := chains[prefix]; ok && prefix != diffIDs[0] {
		return c, nil
	}
	if len(list) > 1 && !alone {
		return placed{}, fmt.Errorf("%s: %w; its chain IDs are %s", name, ErrSeveralChains, strings.Join(list, ", "))
	}
	return chains[list[0]], nil
}

// LayerDetails is what inspect shows of a layer.
type LayerDetails struct {
	DiffID    string
	Digest    string `json:",omitempty"` // of the blob under which it came
	MediaType string `json:",omitempty"`
	BlobSize  int64
	TarSize   int64
	Size      int64
	Counts    Counts
	Images    []LayerPlace // that have it
	Tree      string       // the directory that holds it unpacked
}

// LayerPlace is where in an image a layer is.
type LayerPlace struct {
	Image     string // the ID
	Names     []string
	Layer     int // 1 is the lowest
	ChainID   string
	Created   time.Time
	CreatedBy string
}

// InspectLayer describes the layer that name means, as to LookLayer, and says which images have it.
func (s *Store) InspectLayer(ctx context.Context, name string) (LayerDetails, error) {
	v, err := s.LookLayer(ctx, name, true)
	if err != nil {
		return LayerDetails{}, err
	}
	defer v.Close()
	l := &v.Layers[v.Top()]
	d := LayerDetails{DiffID: l.DiffID, Digest: l.Digest, MediaType: l.MediaType, BlobSize: l.BlobSize, TarSize: l.TarSize, Size: l.Size, Tree: l.Dir}
	if d.Counts, err = l.Count(); err != nil {
		return d, fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	var having []string
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketImages).ForEach(func(k, row []byte) error {
			if bytes.Contains(row, []byte(l.DiffID)) {
				having = append(having, string(k))
			}
			return nil
		})
	})
	for _, id := range having {
		if err != nil {
			break
		}
		var w *View
		if w, err = s.describe(ctx, id); err != nil {
			break
		}
		for i, o := range w.Layers {
			if o.DiffID == l.DiffID {
				d.Images = append(d.Images, LayerPlace{Image: id, Names: append([]string{}, w.Image.Names...), Layer: i + 1, ChainID: o.Chain,
					Created: o.Created, CreatedBy: o.CreatedBy})
			}
		}
	}
	return d, err
}
