package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// removeCommitted takes a committed snapshot's row away. Its tree is swept later.
func (s *Store) removeCommitted(name string) error {
	h := hashName(name)
	removed := false
	err := s.db.Update(func(tx *bbolt.Tx) error {
		r, err := getRow(tx, name)
		if err != nil {
			return err
		}
		prefix := childKey(name, "")
		if k, _ := tx.Bucket(bucketChildren).Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
			return fmt.Errorf("%s stands on it: %w", k[len(prefix):], ErrInUse)
		}
		s.dropStaleLinks(h)
		// From here on nobody can prepare a snapshot on this one; if somebody has, the directory is not empty.
		switch err := unix.Rmdir(s.path("children", h)); err {
		case nil, unix.ENOENT:
			removed = true
		case unix.ENOTEMPTY, unix.EEXIST:
			return fmt.Errorf("an active snapshot stands on it: %w", ErrInUse)
		default:
			return fmt.Errorf("remove children/%s: %w", h, err)
		}
		failpoint.Hit("chain/closed")
		if r.Parent != "" {
			if err := tx.Bucket(bucketChildren).Delete(childKey(r.Parent, name)); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketSnapshots).Delete([]byte(name))
	})
	if err != nil {
		if removed {
			os.Mkdir(s.path("children", h), 0o700) // the row stands after all
		}
		return err
	}
	failpoint.Hit("chain/removed")
	os.Remove(s.path("chains", h+".json"))
	failpoint.Hit("chain/unpublished")
	return nil
}

// dropStaleLinks forgets active snapshots that a crash took away before their links.
func (s *Store) dropStaleLinks(h string) {
	names, _ := dirNames(s.path("children", h))
	for _, name := range names {
		if _, err := os.Lstat(s.path("active", name)); errors.Is(err, fs.ErrNotExist) {
			os.Remove(s.path("children", h, name))
		}
	}
}

// RemoveChain removes the committed snapshot name and then, from the top down, every parent that keep does not want and on which
// nothing else stands, and deletes what no row names any more. A snapshot on which something stands ends it without an error.
func (s *Store) RemoveChain(ctx context.Context, name string, keep func(name string) bool) error {
	if err := s.sweepStagings(); err != nil { // half-made snapshots must not keep their parents
		return fmt.Errorf("sweep stagings: %w", err)
	}
	for name != "" && !keep(name) {
		info, err := s.Stat(ctx, name)
		if err == nil {
			err = s.removeCommitted(name)
		}
		if errors.Is(err, ErrInUse) || errors.Is(err, ErrNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("remove snapshot %s: %w", name, err)
		}
		name = info.Parent
	}
	return s.Sweep(ctx)
}

// Sweep deletes what nothing names: trees that no committed snapshot uses and nobody holds, stagings and half-made snapshots whose
// makers are gone, and what is in the trash.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.sweepTrees(); err != nil {
		return fmt.Errorf("sweep trees: %w", err)
	}
	if err := s.sweepStagings(); err != nil {
		return fmt.Errorf("sweep stagings: %w", err)
	}
	names, err := dirNames(s.path("trash"))
	if err != nil {
		return fmt.Errorf("sweep trash: %w", err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := removeTree(s.path("trash", name)); err != nil {
			return fmt.Errorf("sweep trash: %w", err)
		}
	}
	return nil
}

func (s *Store) sweepTrees() error {
	names, err := dirNames(s.path("trees"))
	if err != nil {
		return err
	}
	// The locks are held until the trees are out of the way: Hold then finds them gone, instead of holding what is being deleted.
	var gone []*os.File
	defer func() {
		for _, d := range gone {
			d.Close()
		}
	}()
	err = s.db.Update(func(tx *bbolt.Tx) error {
		used := map[string]bool{}
		err := tx.Bucket(bucketSnapshots).ForEach(func(k, v []byte) error {
			var r row
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("read the row of snapshot %s: %w", k, err)
			}
			used[r.Tree] = true
			return nil
		})
		if err != nil {
			return err
		}
		keys := map[string][]byte{}
		err = tx.Bucket(bucketTrees).ForEach(func(k, v []byte) error {
			t, err := s.treeOf(string(k), v)
			keys[t.ID] = bytes.Clone(k)
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, err := strconv.Atoi(name); err != nil || used[name] {
				continue
			}
			dir := s.path("trees", name)
			d := lockIdle(dir)
			if d == nil {
				continue
			}
			gone = append(gone, d)
			if key := keys[name]; key != nil {
				if err := tx.Bucket(bucketTrees).Delete(key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	failpoint.Hit("sweep/trees")
	for _, d := range gone {
		s.discardDir(d.Name())
	}
	return nil
}

// lockIdle locks a directory that nobody holds by flock, or returns nil.
func lockIdle(dir string) *os.File {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	if unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		d.Close()
		return nil
	}
	return d
}

// sweepStagings takes away what was being made by somebody who is gone: stagings, and active snapshots without a record.
func (s *Store) sweepStagings() error {
	for _, kind := range []string{"staging", "active"} {
		names, err := dirNames(s.path(kind))
		if err != nil {
			return err
		}
		for _, name := range names {
			dir := s.path(kind, name)
			d := lockIdle(dir)
			if d == nil {
				continue
			}
			if _, err := readRecordFile(dir); kind == "staging" || errors.Is(err, fs.ErrNotExist) {
				s.discardDir(dir)
			}
			d.Close()
		}
	}
	chains, err := dirNames(s.path("children"))
	for _, h := range chains {
		s.dropStaleLinks(h)
	}
	return err
}

// discardDir moves a directory into the trash.
func (s *Store) discardDir(dir string) {
	os.Rename(dir, s.path("trash", path.Base(dir)+"-"+newID()[:8]))
	failpoint.Hit("trash/moved")
}

// removeTree deletes a directory of ours with all that is in it. Nothing in it is followed; directories that their owner may not enter
// are nothing to root.
func removeTree(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("delete %s: %w", path, err)
	}
	return nil
}
