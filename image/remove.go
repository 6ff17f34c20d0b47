package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Deleted is one thing that Remove did, as docker rmi says it: Kind is "Untagged" or "Deleted".
type Deleted struct{ Kind, What string }

// RemoveOptions say what Remove may do.
type RemoveOptions struct {
	Force bool                     // all names of an ID; and although a container was made from it
	InUse func(img Image) []string // what uses an image, each as a clause: "container work was made from it"; may be nil
}

// Remove takes a name away, and with the last name of an image the image: its rows first, then its snapshots and blobs that no other
// image needs and nobody in flight relies on. By ID it removes the image with its one name, or with all of them where it is forced.
func (s *Store) Remove(ctx context.Context, ref string, o RemoveOptions) ([]Deleted, error) {
	for {
		img, err := s.Resolve(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("remove image: %w", err)
		}
		byName := slices.Contains(reference.Candidates(ref), img.Name) || strings.Contains(ref, "@")
		if !byName && len(img.Names) > 1 && !o.Force {
			return nil, fmt.Errorf("remove image %s: it has the names %s: %w", ref, strings.Join(img.Names, ", "), ErrSeveralNames)
		}
		names := img.Names
		if byName {
			names = []string{img.Name}
		}
		if len(names) == len(img.Names) && o.InUse != nil && !o.Force {
			if uses := o.InUse(img); len(uses) > 0 {
				return nil, fmt.Errorf("remove image %s: %s: %w", ref, uses[0], ErrInUse)
			}
		}
		done, err := s.removeNames(ctx, img, names)
		if errors.Is(err, errChanged) {
			continue // somebody gave it a name or took one away meanwhile
		}
		if err != nil {
			return done, fmt.Errorf("remove image %s: %w", ref, err)
		}
		return done, nil
	}
}

// errChanged says that an image's names are not what they were when it was decided what to do.
var errChanged = errors.New("the image's names have changed")

// removeNames takes names of an image away, and the image with the last of them. It is errChanged where its names are not img.Names.
func (s *Store) removeNames(ctx context.Context, img Image, names []string) ([]Deleted, error) {
	var done []Deleted
	var free blobs
	defer free.close()
	err := s.update(func(tx *bbolt.Tx, c *naming) (err error) {
		done, err = s.drop(tx, c, &free, img.ID, img.Names, names)
		return err
	})
	late := err // a full disk keeps no image from being removed
	if err != nil && !errors.Is(err, errUnwritten) {
		return nil, err
	}
	if len(names) < len(img.Names) {
		return done, late
	}
	// The image is gone. What follows frees what it took; a crash here leaves garbage that no name reaches.
	failpoint.Hit("rmi/rows")
	err = free.trash(s.snaps)
	removed, rerr := s.freeChain(ctx, img.Chain)
	for _, name := range removed {
		done = append(done, Deleted{"Deleted", name})
	}
	if err = errors.Join(err, rerr, s.snaps.Tidy()); err != nil {
		err = fmt.Errorf("free what it took: %w", err)
	}
	return done, errors.Join(err, s.again(late))
}

// again writes what update could not, where that is what late says: there may be room for it now.
func (s *Store) again(late error) error {
	if late == nil {
		return nil
	}
	return s.update(func(*bbolt.Tx, *naming) error { return nil })
}

// drop takes the rows of names away, and the image's where these are all that it has, and locks the blobs that nobody needs then.
func (s *Store) drop(tx *bbolt.Tx, c *naming, free *blobs, id string, has, names []string) ([]Deleted, error) {
	now, err := namesOf(tx, id)
	if err != nil {
		return nil, err
	}
	var row imageRow
	if ok, err := getJSON(tx, bucketImages, id, &row); err != nil {
		return nil, err
	} else if !ok || !slices.Equal(now, has) {
		return nil, errChanged
	}
	var done []Deleted
	for _, name := range names {
		if err := c.dropName(tx, name); err != nil {
			return nil, err
		}
		done = append(done, Deleted{"Untagged", name})
	}
	if len(names) < len(has) {
		return done, nil
	}
	for _, what := range row.uses() {
		if err := tx.Bucket(bucketUses).Delete(useKey(what, id)); err != nil {
			return nil, err
		}
		if strings.HasPrefix(what, "sha256:") && !used(tx, what) {
			free.lock(s.content.Path(what))
		}
	}
	for _, l := range row.Layers { // other images may have the layer, too: what was made of it for a push can be made again
		for _, made := range packedWays(tx, l.DiffID) {
			if !used(tx, made.Digest) {
				free.lock(s.content.Path(made.Digest))
			}
		}
	}
	return append(done, Deleted{"Deleted", id}), tx.Bucket(bucketImages).Delete([]byte(id))
}

// freeChain removes the snapshots of a chain, from the top, that no image needs. Nobody names a chain meanwhile: the rows are locked,
// images' before snapshots', here and everywhere.
func (s *Store) freeChain(ctx context.Context, chain string) (removed []string, err error) {
	verr := s.db.View(func(tx *bbolt.Tx) error {
		removed, err = s.snaps.RemoveChain(ctx, chain, func(name string) bool { return used(tx, "chain:"+name) })
		return nil
	})
	failpoint.Hit("rmi/chain")
	return removed, errors.Join(err, verr)
}

// blobs are on their way into the trash: each was locked in the transaction in which nothing needed it, so that who relies on it finds
// it gone, or has kept it from being locked.
type blobs []*os.File

func (b *blobs) lock(path string) {
	if f := snapshot.LockIdle(path); f != nil {
		*b = append(*b, f)
	}
}

func (b *blobs) trash(snaps *snapshot.Store) (err error) {
	for _, f := range *b {
		err = errors.Join(err, snaps.Trash(f.Name()))
		failpoint.Hit("rmi/blob")
	}
	return err
}

func (b *blobs) close() {
	for _, f := range *b {
		f.Close()
	}
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
