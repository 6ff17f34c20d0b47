package rowdb

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// ErrChanged says that somebody wrote to the database since Verify read it.
var ErrChanged = errors.New("the rows have changed meanwhile")

// Applied is what Apply did.
type Applied struct {
	Changed int    // rows written or deleted in the file that was there
	Anew    bool   // the file was made anew
	Kept    string // then: where the one that was there is kept, "" where there was none
}

// Apply makes the buckets of want hold exactly these rows, provided that the file is what Verify saw, and ErrChanged otherwise. A file
// with problems is not written to: a new one takes its place in one step.
func (d *DB) Apply(seen *Verified, want Contents) (a Applied, err error) {
	unlock, err := d.lock(unix.LOCK_EX)
	if err != nil {
		return a, err
	}
	defer unlock()
	data, err := os.ReadFile(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return a, fmt.Errorf("read database: %w", err)
	}
	if sha256.Sum256(data) != seen.sum {
		return a, fmt.Errorf("%s: %w", d.path, ErrChanged)
	}
	if len(seen.Problems) == 0 {
		err = d.with(&bbolt.Options{}, func(db *bbolt.DB) error {
			return db.Update(func(tx *bbolt.Tx) (err error) { a.Changed, err = d.set(tx, want); return err })
		})
		return a, err
	}
	a.Anew = true
	a.Kept, err = d.replace(want)
	if err != nil {
		err = fmt.Errorf("make %s anew: %w", d.path, err)
	}
	return a, err
}

func (d *DB) set(tx *bbolt.Tx, want Contents) (changed int, err error) {
	for _, name := range d.buckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return 0, err
		}
	}
	for name, rows := range want {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return 0, err
		}
		var extra [][]byte
		err = b.ForEach(func(k, _ []byte) error {
			if _, ok := rows[string(k)]; !ok {
				extra = append(extra, bytes.Clone(k))
			}
			return nil
		})
		for _, k := range extra {
			err = errors.Join(err, b.Delete(k))
			changed++
		}
		for k, v := range rows {
			if have := b.Get([]byte(k)); have == nil || !bytes.Equal(have, v) {
				err = errors.Join(err, b.Put([]byte(k), v))
				changed++
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return changed, nil
}

func (d *DB) replace(want Contents) (kept string, err error) {
	fresh := d.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	db, err := bbolt.Open(fresh, 0o600, nil)
	if err != nil {
		return "", err
	}
	err = db.Update(func(tx *bbolt.Tx) error { _, err := d.set(tx, want); return err })
	if err = errors.Join(err, db.Sync(), db.Close()); err != nil {
		os.Remove(fresh)
		return "", err
	}
	failpoint.Hit("rowdb/refilled")
	err = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, d.path, unix.RENAME_EXCHANGE)
	switch {
	case err == unix.ENOENT:
		err = os.Rename(fresh, d.path)
	case err == nil:
		failpoint.Hit("rowdb/exchanged")
		kept = d.Kept()
		err = os.Rename(fresh, kept)
	}
	if err == nil {
		err = syncDir(filepath.Dir(d.path))
	}
	return kept, err
}

// Kept is where Apply leaves a damaged database that it has replaced, for whoever wants to see it. Nothing reads it.
func (d *DB) Kept() string { return d.path + ".damaged" }
