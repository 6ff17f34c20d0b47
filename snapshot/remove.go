package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// RemoveChain removes the committed snapshot name and then, from the top down, every parent that keep does not want, on which nothing
// else stands and which no lease holds, and moves the trees that no row names any more into the trash. It returns what it removed, in
// that order; what has to stay ends it without an error. Whoever calls it keeps what keep says from changing meanwhile, and calls Tidy
// afterwards.
func (s *Store) RemoveChain(_ context.Context, name string, keep func(name string) bool) (removed []string, err error) {
	removed, err = s.removeCommitted(name, true, keep)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("remove snapshot %s: %w", name, err)
	}
	return removed, err
}

// removeCommitted takes away committed snapshots in one transaction: name and, with parents, what is below it as far as it goes.
func (s *Store) removeCommitted(name string, parents bool, keep func(string) bool) (removed []string, err error) {
	r := removal{s: s}
	defer r.close()
	err = s.update(func(tx *bbolt.Tx) error {
		for at := name; at != ""; {
			parent, err := r.take(tx, at, keep)
			if parents && errors.Is(err, ErrInUse) {
				return nil
			}
			if err != nil || !parents {
				return err
			}
			at = parent
		}
		return nil
	})
	if err != nil {
		r.undo()
		return nil, err
	}
	return r.names, r.finish()
}

// removal is what one transaction takes away. Everything in it is locked until it is out of the way, so that a lease finds it gone
// instead of holding what is being deleted.
type removal struct {
	s     *Store
	names []string   // snapshots whose rows go
	dirs  []*os.File // children/H of these
	trees []*os.File // trees whose rows go
}

// take puts a committed snapshot into the removal, and its tree where no other snapshot has it, and returns its parent. It is ErrInUse
// for one on which something stands, that a lease holds, or that keep wants.
func (r *removal) take(tx *bbolt.Tx, name string, keep func(string) bool) (parent string, err error) {
	s := r.s
	if keep(name) {
		return "", fmt.Errorf("an image needs it: %w", ErrInUse)
	}
	row, err := getRow(tx, name)
	if err != nil {
		return "", err
	}
	prefix := childKey(name, "")
	if k, _ := tx.Bucket(bucketChildren).Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
		return "", fmt.Errorf("%s stands on it: %w", k[len(prefix):], ErrInUse)
	}
	h := hashName(name)
	dir := s.path("children", h)
	s.dropStaleLinks(h)
	d := LockIdle(dir)
	if d == nil && !gone(dir) {
		return "", fmt.Errorf("an operation in flight needs it: %w", ErrInUse)
	}
	if d != nil {
		// From here on nobody can prepare a snapshot on this one; if somebody has, the directory is not empty.
		switch err := unix.Rmdir(dir); err {
		case nil:
			r.dirs = append(r.dirs, d)
		case unix.ENOTEMPTY, unix.EEXIST:
			d.Close()
			return "", fmt.Errorf("an active snapshot stands on it: %w", ErrInUse)
		default:
			d.Close()
			return "", fmt.Errorf("remove children/%s: %w", h, err)
		}
	}
	failpoint.Hit("chain/closed")
	if row.Parent != "" {
		if err := tx.Bucket(bucketChildren).Delete(childKey(row.Parent, name)); err != nil {
			return "", err
		}
	}
	if err := tx.Bucket(bucketUsers).Delete(childKey(row.Tree, name)); err != nil {
		return "", err
	}
	if err := tx.Bucket(bucketSnapshots).Delete([]byte(name)); err != nil {
		return "", err
	}
	r.names = append(r.names, name)
	return row.Parent, r.takeTree(tx, row.Tree, treeKey(row.DiffID, row.Settling))
}

// takeTree puts a tree into the removal where no snapshot has it and no lease holds it.
func (r *removal) takeTree(tx *bbolt.Tx, id string, key []byte) error {
	prefix := childKey(id, "")
	if k, _ := tx.Bucket(bucketUsers).Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
		return nil
	}
	dir := r.s.path("trees", id)
	d := LockIdle(dir)
	if d == nil && !gone(dir) {
		return nil
	}
	if d != nil && r.s.ownsTree(id) {
		return d.Close()
	}
	if d != nil {
		r.trees = append(r.trees, d)
	}
	if b := tx.Bucket(bucketDisk); b != nil {
		if err := b.Delete([]byte(id)); err != nil {
			return err
		}
	}
	if key == nil {
		return nil
	}
	// The row may be another tree's by now: of two that were made at once the second has none.
	if v := tx.Bucket(bucketTrees).Get(key); v != nil {
		if t, err := r.s.treeOf(string(key), v); err != nil || t.ID != id {
			return err
		}
		return tx.Bucket(bucketTrees).Delete(key)
	}
	return nil
}

// undo makes the directories again that say that a snapshot is committed: the rows stand after all.
func (r *removal) undo() {
	for _, d := range r.dirs {
		os.Mkdir(d.Name(), 0o700)
	}
}

// finish takes away what the rows do not name any more. What takes long to delete is in the trash then.
func (r *removal) finish() error {
	var err error
	for _, name := range r.names {
		failpoint.Hit("chain/removed")
		if rerr := os.Remove(r.s.path("chains", hashName(name)+".json")); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		failpoint.Hit("chain/unpublished")
	}
	for _, d := range r.trees {
		err = errors.Join(err, r.s.Trash(d.Name()))
	}
	return err
}

func (r *removal) close() {
	for _, d := range append(r.dirs, r.trees...) {
		d.Close()
	}
}

// dropStaleLinks forgets active snapshots that a crash took away before their links, and takes half-made ones away.
func (s *Store) dropStaleLinks(h string) {
	names, _ := dirNames(s.path("children", h))
	for _, name := range names {
		s.sweepActive(name)
		s.sweepView(name)
		if gone(s.path("active", name)) {
			os.Remove(s.path("children", h, name))
		}
	}
}

// sweepActive takes an active snapshot away that has no record, no owner, and whose maker is gone.
func (s *Store) sweepActive(name string) error {
	dir := s.path("active", name)
	if _, err := readRecordFile(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d := LockIdle(dir)
	if d == nil {
		return nil
	}
	defer d.Close()
	if _, err := readRecordFile(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if key, err := s.owner(dir); err != nil || key != "" {
		return err
	}
	return s.Discard(dir)
}

// isTemporary says whether a name is one that WriteFile writes under.
func isTemporary(name string) bool { return strings.HasPrefix(name, ".") }
