package rowdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// ErrDamaged says that a database or a row is not what was written. `layerctl check` says more, and repairs it.
var ErrDamaged = errors.New("damaged")

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
	return d.with(&bbolt.Options{ReadOnly: true}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			if len(d.buckets) > 0 && tx.Bucket(d.buckets[0]) == nil {
				return nil // made, but its first transaction never came to an end
			}
			return fn(tx)
		})
	})
}

// with opens the file and runs fn. Where the file is so damaged that bbolt panics, or reads past its end, the error is ErrDamaged; the
// file then stays open, for bbolt holds its locks.
func (d *DB) with(o *bbolt.Options, fn func(*bbolt.DB) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if !ofBbolt(r) {
				panic(r)
			}
			err = fmt.Errorf("read %s: %w: %.200s", d.path, ErrDamaged, strings.Join(strings.Fields(fmt.Sprint(r)), " "))
		}
	}()
	o.Timeout = 30 * time.Second // only a panic of ours can have left it locked: our own lock is held
	if info, err := os.Stat(d.path); err == nil && info.Size() == 0 {
		return fmt.Errorf("open %s: it is empty: %w", d.path, ErrDamaged) // bbolt would make a new one
	}
	db, err := bbolt.Open(d.path, 0o600, o)
	if err != nil {
		var system *fs.PathError
		if !errors.As(err, &system) && !errors.Is(err, berrors.ErrTimeout) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return fmt.Errorf("open %s: %w", d.path, err)
	}
	err = fn(db)
	return errors.Join(err, db.Close())
}

// ofBbolt says whether the panic that is being recovered from is bbolt's, or a fault in the memory that it maps.
func ofBbolt(r any) bool {
	if fault, ok := r.(interface{ Addr() uintptr }); ok && fault.Addr() != 0 {
		return true
	}
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			return strings.HasPrefix(f.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
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
	return d.with(&bbolt.Options{}, func(db *bbolt.DB) error {
		failpoint.Hit("rows/opened")
		err := db.Update(func(tx *bbolt.Tx) error {
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
	})
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
	if errors.Is(err, unix.EROFS) && how == unix.LOCK_SH {
		// A store that nobody can write can be read. One that only we cannot write has the file.
		if f, err = os.Open(d.path + ".lock"); errors.Is(err, fs.ErrNotExist) {
			return func() {}, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock database: %w", err)
	}
	if err := flock.Lock(context.Background(), f, how, "waiting for another process that uses "+d.path); err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
