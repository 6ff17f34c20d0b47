package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Deleted is one thing that Remove did, as docker rmi says it: Kind is "Untagged" or "Deleted".
type Deleted struct{ Kind, What string }

// RemoveOptions say what Remove may do.
type RemoveOptions struct {
	Force bool                        // all names of an ID; and although a container was made from it
	InUse func(chain string) []string // names of the containers that stand on a chain; may be nil
}

// Remove takes a name away, and with the last name of an image the image: its rows first, then its snapshots and blobs that no other
// image needs. By ID it removes the image with its one name, or with all of them where it is forced.
func (s *Store) Remove(ctx context.Context, ref string, o RemoveOptions) ([]Deleted, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("remove image: %w", err)
	}
	byName := slices.Contains(reference.Candidates(ref), img.Name) || strings.Contains(ref, "@")
	names := img.Names
	if byName && len(names) > 1 {
		return s.untag(img.Name)
	}
	if !byName && len(names) > 1 && !o.Force {
		return nil, fmt.Errorf("remove image %s: it has the names %s: %w", ref, strings.Join(names, ", "), ErrInUse)
	}
	if o.InUse != nil && !o.Force {
		if users := o.InUse(img.Chain); len(users) > 0 {
			return nil, fmt.Errorf("remove image %s: container %s was made from it: %w", ref, users[0], ErrInUse)
		}
	}
	return s.delete(ctx, img)
}

func (s *Store) untag(name string) ([]Deleted, error) {
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketNames).Delete([]byte(name)) })
	failpoint.Hit("untag/rows")
	if err == nil {
		err = record.Remove(s.dir, name)
		failpoint.Hit("untag/record")
		err = errors.Join(err, s.writeLayout())
	}
	if err != nil {
		return nil, fmt.Errorf("remove name %s: %w", name, err)
	}
	return []Deleted{{"Untagged", name}}, nil
}

func (s *Store) delete(ctx context.Context, img Image) ([]Deleted, error) {
	var done []Deleted
	var free []string
	kept := map[string]bool{}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		var row imageRow
		if ok, err := getJSON(tx, bucketImages, img.ID, &row); err != nil || !ok {
			return errors.Join(err, notFound(img.ID))
		}
		for _, name := range img.Names {
			if err := tx.Bucket(bucketNames).Delete([]byte(name)); err != nil {
				return err
			}
			done = append(done, Deleted{"Untagged", name})
		}
		for _, what := range row.uses() {
			if err := tx.Bucket(bucketUses).Delete(useKey(what, img.ID)); err != nil {
				return err
			}
			if strings.HasPrefix(what, "sha256:") && !used(tx, what) {
				free = append(free, what)
			}
		}
		for _, l := range row.Layers {
			kept[l.Chain] = used(tx, "chain:"+l.Chain)
		}
		return tx.Bucket(bucketImages).Delete([]byte(img.ID))
	})
	if err != nil {
		return nil, fmt.Errorf("remove image %s: %w", img.ID, err)
	}
	// The image is gone. What follows frees what it took; a crash here leaves garbage that no name reaches.
	failpoint.Hit("rmi/rows")
	for _, name := range img.Names {
		err = errors.Join(err, record.Remove(s.dir, name))
		failpoint.Hit("rmi/record")
	}
	err = errors.Join(err, s.writeLayout())
	failpoint.Hit("rmi/layout")
	for _, digest := range free {
		err = errors.Join(err, s.content.Delete(digest))
		failpoint.Hit("rmi/blob")
	}
	err = errors.Join(err, s.snaps.RemoveChain(ctx, img.Chain, func(chain string) bool { return kept[chain] }))
	failpoint.Hit("rmi/chain")
	err = errors.Join(err, s.content.Sweep())
	done = append(done, Deleted{"Deleted", img.ID})
	for i := len(img.Layers) - 1; i >= 0; i-- {
		if _, serr := s.snaps.Stat(ctx, img.Layers[i].Chain); serr != nil {
			done = append(done, Deleted{"Deleted", img.Layers[i].Chain})
		}
	}
	if err != nil {
		err = fmt.Errorf("free what image %s took: %w", img.ID, err)
	}
	return done, err
}

// rawConfig is what of a config history and inspect read.
type rawConfig struct {
	Created      string          `json:"created"`
	Author       string          `json:"author"`
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Variant      string          `json:"variant"`
	Config       json.RawMessage `json:"config"`
	History      []struct {
		Created    string `json:"created"`
		CreatedBy  string `json:"created_by"`
		Comment    string `json:"comment"`
		EmptyLayer bool   `json:"empty_layer"`
	} `json:"history"`
}
