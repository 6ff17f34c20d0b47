package rowdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// DB names a database; no file is open between transactions.
type DB struct {
	path    string
	buckets [][]byte
}

// New names the database at path, whose buckets exist in every transaction that Update and View run. Nothing is opened or made.
func New(path string, buckets ...string) *DB {
	d := &DB{path: path}
	for _, b := range buckets {
		d.buckets = append(d.buckets, []byte(b))
	}
	return d
}

// View runs fn on a consistent state of the rows. A database that was never written has none: fn is then not called.
func (d *DB) View(fn func(*bbolt.Tx) error) error {
	if _, err := os.Lstat(d.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := d.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	db, err := bbolt.Open(d.path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open %s: %w", d.path, err)
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		if len(d.buckets) > 0 && tx.Bucket(d.buckets[0]) == nil {
			return nil // made, but its first transaction never came to an end
		}
		return fn(tx)
	})
}

// Update runs fn in a transaction that is on disk when Update returns nil, and has changed nothing when it returns an error.
func (d *DB) Update(fn func(*bbolt.Tx) error) error {
	unlock, err := d.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.create(); err != nil {
		return err
	}
	db, err := bbolt.Open(d.path, 0o600, nil)
	if err != nil {
		return fmt.Errorf("open %s: %w", d.path, err)
	}
	defer db.Close()
	failpoint.Hit("rows/opened")
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range d.buckets {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return fmt.Errorf("make bucket %s of %s: %w", b, d.path, err)
			}
		}
		err := fn(tx)
		failpoint.Hit("rows/written")
		return err
	})
	failpoint.Hit("rows/committed")
	return err
}

// create makes the database where there is none. It appears under its name by rename, whole and on disk: bbolt writes a new one in
// place, and one whose maker was killed before that write is a file that nobody can open for reading.
func (d *DB) create() error {
	if _, err := os.Lstat(d.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := d.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make database: %w", err)
	}
	db, err := bbolt.Open(fresh, 0o600, nil)
	if err == nil {
		err = errors.Join(db.Sync(), db.Close())
	}
	if err == nil {
		failpoint.Hit("rowdb/created")
		err = os.Rename(fresh, d.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(d.path))
	}
	if err != nil {
		os.Remove(fresh)
		return fmt.Errorf("make database %s: %w", d.path, err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (d *DB) lock(how int) (func(), error) {
	f, err := os.OpenFile(d.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock database: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
