package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Kind tells what a snapshot is.
type Kind string

// The kinds, in containerd's words.
const (
	KindCommitted Kind = "Committed"
	KindActive    Kind = "Active"
	KindView      Kind = "View"
)

// Info describes a snapshot. Name is the key of an active one or view.
type Info struct {
	Name, Parent     string
	Dirs             []string // instead of a parent, highest first
	Kind             Kind
	Labels           map[string]string
	Created, Updated time.Time
}

// Usage is what a snapshot itself takes, without its parents: inodes, and bytes of disk as du counts them.
type Usage struct{ Inodes, Size int64 }

// Store is the snapshots below one directory. It holds no lock and no open file; any number of processes may use the same directory.
type Store struct {
	root     string
	db       *rowdb.DB
	detached bool // what takes long to delete is the reaper's
	claimed  func() ([]string, error)
}

var (
	bucketSnapshots = []byte("snapshots") // name → row
	bucketChildren  = []byte("children")  // parent, NUL, child
	bucketTrees     = []byte("trees")     // diff ID, NUL, settling → tree ID and usage
	bucketUsers     = []byte("users")     // tree ID, NUL, snapshot: made of the rows where it is missing
)

// row is a committed snapshot in the database.
type row struct {
	Parent   string            `json:"parent,omitempty"`
	Tree     string            `json:"tree"`
	DiffID   string            `json:"diffID,omitempty"`
	Settling string            `json:"settling,omitempty"`
	Usage    Usage             `json:"usage"`
	Labels   map[string]string `json:"labels,omitempty"`
	Created  time.Time         `json:"created"`
}

// Open returns the store at root, making its directories where they are missing.
func Open(root string) (*Store, error) {
	s := &Store{root: root, db: rowdb.New(filepath.Join(root, "meta.db"), string(bucketSnapshots), string(bucketChildren), string(bucketTrees))}
	if _, err := os.Stat(s.path("trash")); err == nil {
		return s, nil
	}
	// trash is made last: where it is, all of them are.
	for _, dir := range []string{"trees", "chains", "children", "active", "staging", "trash"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return nil, err
		}
	}
	setTopDir(s.path("trees"))
	setTopDir(s.path("staging"))
	return s, nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

// hashName turns a snapshot's name or key, which may hold any byte and be of any length, into the name of a file.
func hashName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// chain is chains/H.json: what Prepare needs of a committed snapshot, and its row, from which a lost database is made again.
type chain struct {
	Name  string   `json:"name"`
	Trees []string `json:"trees"` // lowest first
	Row   row      `json:"row"`
}

func chainWhere(h string) string { return "chains/" + h }

// readChain returns the trees of a committed snapshot, lowest first, without a database where the small file is there.
func (s *Store) readChain(name string) (chain, error) {
	var c chain
	b, err := os.ReadFile(s.path("chains", hashName(name)+".json"))
	if err == nil && rowdb.Unseal(chainWhere(hashName(name)), b, &c) == nil && c.Name == name && len(c.Trees) > 0 {
		return c, nil
	}
	if err := s.db.View(func(tx *bbolt.Tx) (err error) {
		c, err = chainOf(tx, name)
		return err
	}); err != nil {
		return chain{}, err
	}
	if len(c.Trees) == 0 {
		return chain{}, fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	return c, nil
}

func chainOf(tx *bbolt.Tx, name string) (chain, error) {
	c := chain{Name: name}
	for at := name; at != ""; {
		r, err := getRow(tx, at)
		if err != nil {
			return chain{}, err
		}
		if at == name {
			c.Row = r
		}
		c.Trees = append([]string{r.Tree}, c.Trees...)
		at = r.Parent
	}
	return c, nil
}

func getRow(tx *bbolt.Tx, name string) (row, error) {
	var r row
	b := tx.Bucket(bucketSnapshots).Get([]byte(name))
	if b == nil {
		return r, fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	if err := rowdb.Unseal(rowWhere(bucketSnapshots, name), b, &r); err != nil {
		return r, fmt.Errorf("read the row of snapshot %s: %w", name, err)
	}
	return r, nil
}

func putRow(tx *bbolt.Tx, name string, r row) error {
	b, err := rowdb.Seal(rowWhere(bucketSnapshots, name), r)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketSnapshots).Put([]byte(name), b)
}

// rowWhere is the place of a row that its checksum is made for.
func rowWhere(bucket []byte, key string) string { return string(bucket) + "/" + key }

// addRow writes the row of a new snapshot, and what is found by it.
func addRow(tx *bbolt.Tx, name string, r row) error {
	if err := putRow(tx, name, r); err != nil {
		return err
	}
	if r.Parent != "" {
		if err := tx.Bucket(bucketChildren).Put(childKey(r.Parent, name), nil); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketUsers).Put(childKey(r.Tree, name), nil)
}

// update is a transaction that changes rows.
func (s *Store) update(fn func(*bbolt.Tx) error) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketUsers) == nil {
			users, err := tx.CreateBucket(bucketUsers)
			if err != nil {
				return err
			}
			err = eachRow(tx, func(name string, r row) error { return users.Put(childKey(r.Tree, name), nil) })
			if err != nil {
				return err
			}
		}
		return fn(tx)
	})
}

// eachRow calls fn with every committed snapshot, by name.
func eachRow(tx *bbolt.Tx, fn func(name string, r row) error) error {
	return tx.Bucket(bucketSnapshots).ForEach(func(k, v []byte) error {
		var r row
		if err := rowdb.Unseal(rowWhere(bucketSnapshots, string(k)), v, &r); err != nil {
			return fmt.Errorf("read the row of snapshot %s: %w", k, err)
		}
		return fn(string(k), r)
	})
}

func childKey(parent, child string) []byte { return []byte(parent + "\x00" + child) }

// publish writes what lets Prepare find a committed snapshot without the database. Both files can be made again from the rows.
func (s *Store) publish(c chain) error {
	h := hashName(c.Name)
	b, err := rowdb.Seal(chainWhere(h), c)
	if err != nil {
		return err
	}
	if err := WriteFile(s.path("chains", h+".json"), b, false); err != nil {
		return err
	}
	if err := os.Mkdir(s.path("children", h), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// setTopDir marks a directory as the top of hierarchies that have nothing to do with each other (chattr +T), so that ext4 spreads
// what is made in it over the disk instead of searching past everything that was freed nearby. Other filesystems ignore it.
func setTopDir(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	setInodeFlag(f, fsTopDirFlag)
}
