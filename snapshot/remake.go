package snapshot

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// RemakeFile puts a file beside a tree's fs again that is missing or damaged. What write writes takes its place only if it has the sum that
// the tree's row has: it is then the file that was there, byte for byte. Otherwise, and where the row has no sum, it is ErrInvalid.
func (s *Store) RemakeFile(_ context.Context, t Tree, name string, write func(io.Writer) error) error {
	var l Lease
	defer l.Close()
	if err := s.Hold(&l, t); err != nil {
		return err
	}
	var r treeRow
	err := s.db.View(func(tx *bbolt.Tx) error {
		key := treeKey(t.DiffID, t.Settling)
		return rowdb.Unseal(rowWhere(bucketTrees, string(key)), tx.Bucket(bucketTrees).Get(key), &r)
	})
	if err != nil {
		return fmt.Errorf("read the row of tree %s: %w", t.ID, err)
	}
	want, ok := r.Sums[name]
	if !ok {
		return fmt.Errorf("tree %s has no sum of its %s: %w", t.ID, name, ErrInvalid)
	}
	st, err := s.NewStaging()
	if err != nil {
		return err
	}
	defer st.Discard()
	f, err := os.OpenFile(filepath.Join(st.Path(), name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 64<<10)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if sum.Sum32() != want {
		return fmt.Errorf("what was made of tree %s is another %s than there was: %w", t.ID, name, ErrInvalid)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	failpoint.Hit("remake/written")
	if err := os.Rename(f.Name(), filepath.Join(t.Dir, name)); err != nil {
		return err
	}
	failpoint.Hit("remake/placed")
	return SyncDir(t.Dir)
}
