package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Sweep finishes the commits that were killed, and deletes what nothing names: trees that no snapshot uses and no lease holds, stagings
// and half-made snapshots whose makers are gone, files that no row bears out, and what is in the trash.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.SweepFiles(ctx); err != nil {
		return err
	}
	if err := s.finishMoves(); err != nil {
		return err
	}
	if err := s.sweepTrees(); err != nil {
		return fmt.Errorf("sweep trees: %w", err)
	}
	if err := s.sweepPublished(); err != nil {
		return fmt.Errorf("sweep chains: %w", err)
	}
	return s.EmptyTrash(ctx)
}

// SweepFiles is the part of Sweep that needs no rows, and so no room for them on a full disk.
func (s *Store) SweepFiles(ctx context.Context) error {
	if err := s.unmountDead(); err != nil {
		return err
	}
	if err := s.SweepViews(ctx); err != nil {
		return fmt.Errorf("sweep views: %w", err)
	}
	if err := s.sweepStagings(); err != nil {
		return fmt.Errorf("sweep stagings: %w", err)
	}
	if err := os.Remove(s.db.Kept()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep: %w", err)
	}
	return s.EmptyTrash(ctx)
}

// sweepTrees takes away the trees that no snapshot uses, whether they have a row or not, and rows without a tree.
func (s *Store) sweepTrees() error {
	names, err := dirNames(s.path("trees"))
	if err != nil {
		return err
	}
	for len(names) > 0 {
		batch := names[:min(len(names), 200)] // each is an open descriptor meanwhile
		names = names[len(batch):]
		r := removal{s: s}
		err := s.update(func(tx *bbolt.Tx) error {
			keys := map[string][]byte{}
			err := tx.Bucket(bucketTrees).ForEach(func(k, v []byte) error {
				t, err := s.treeOf(string(k), v)
				keys[t.ID] = append([]byte(nil), k...)
				return err
			})
			if err != nil {
				return err
			}
			for _, name := range batch {
				if !isNumber(name) {
					continue
				}
				if err := r.takeTree(tx, name, keys[name]); err != nil {
					return err
				}
			}
			return nil
		})
		failpoint.Hit("sweep/trees")
		if err == nil {
			err = r.finish()
		}
		r.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepStagings takes away what was being made by somebody who is gone: stagings, and active snapshots without a record.
func (s *Store) sweepStagings() error {
	names, err := dirNames(s.path("staging"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if d := LockIdle(s.path("staging", name)); d != nil {
			err = errors.Join(err, s.Trash(d.Name()))
			d.Close()
		}
	}
	actives, lerr := dirNames(s.path("active"))
	err = errors.Join(err, lerr)
	for _, name := range actives {
		err = errors.Join(err, s.sweepActive(name), SweepTemporary(s.path("active", name)))
	}
	return err
}

// sweepPublished takes away what publish and link write, where no row or no active snapshot bears it out.
func (s *Store) sweepPublished() error {
	return s.update(func(tx *bbolt.Tx) error {
		known := map[string]bool{}
		err := eachRow(tx, func(name string, _ row) error { known[hashName(name)] = true; return nil })
		if err != nil {
			return err
		}
		children, err := dirNames(s.path("children"))
		for _, h := range children {
			s.dropStaleLinks(h)
			if !known[h] {
				// One that is not empty has an active snapshot, which is its owner's to remove.
				if rerr := unix.Rmdir(s.path("children", h)); rerr != nil && rerr != unix.ENOTEMPTY && rerr != unix.EEXIST {
					err = errors.Join(err, fmt.Errorf("remove children/%s: %w", h, rerr))
				}
			}
		}
		chains, lerr := dirNames(s.path("chains"))
		err = errors.Join(err, lerr)
		for _, name := range chains {
			if !isTemporary(name) && !known[name[:max(0, len(name)-len(".json"))]] {
				err = errors.Join(err, os.Remove(s.path("chains", name)))
			}
		}
		return errors.Join(err, SweepTemporary(s.path("chains")))
	})
}
