package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Tree is a layer unpacked. Settling is the digest of what was changed to make the layer right for the chain below it, "" for a layer
// that stands alone; layers that agree on both share the tree.
type Tree struct {
	ID       string // a short number
	DiffID   string
	Settling string
	Usage    Usage
	Dir      string // holds fs, index and, for a layer that leans on what is below, needs
}

// treeRow is a tree in the database.
type treeRow struct {
	ID    string            `json:"id"`
	Usage Usage             `json:"usage"`
	Sums  map[string]uint32 `json:"sums,omitempty"` // CRC-32C of the files beside fs
}

func treeKey(diffID, settling string) []byte { return []byte(diffID + "\x00" + settling) }

// Staging is a directory in which a tree is being made. It is held by flock: one whose maker is gone is swept.
type Staging struct {
	Dir  *os.File
	ID   string
	path string
	s    *Store
}

// NewStaging makes an empty staging directory.
func (s *Store) NewStaging() (*Staging, error) {
	for {
		id := newID()[:16]
		path := s.path("staging", id)
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, fmt.Errorf("make staging directory: %w", err)
		}
		failpoint.Hit("staging/made")
		dir, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept between being made and being locked
		}
		if err != nil {
			return nil, fmt.Errorf("make staging directory: %w", err)
		}
		if !holdNew(dir, path) {
			dir.Close()
			continue
		}
		setInodeFlag(dir, fsTopDirFlag)
		failpoint.Hit("staging/held")
		return &Staging{Dir: dir, ID: id, path: path, s: s}, nil
	}
}

// Path is where the staging directory is.
func (st *Staging) Path() string { return st.path }

// Discard deletes the staging directory and lets it go. After its tree was put into the store it only lets go.
func (st *Staging) Discard() error {
	defer st.Dir.Close()
	if st.path == "" {
		return nil
	}
	path := st.path
	st.path = ""
	return st.s.Discard(path)
}

// Hold keeps a tree that was looked up from everybody who deletes. It is ErrNotFound where the tree is gone, and where its number is
// another's by now.
func (s *Store) Hold(l *Lease, t Tree) error {
	if err := l.Hold(t.Dir); err != nil {
		return err
	}
	// A tree's row goes while its directory is locked, so a row that is there now stays as long as we hold.
	known := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketTrees).Get(treeKey(t.DiffID, t.Settling))
		if v == nil {
			return nil
		}
		now, err := s.treeOf(string(treeKey(t.DiffID, t.Settling)), v)
		known = now.ID == t.ID
		return err
	})
	if err == nil && !known {
		err = fmt.Errorf("tree %s: %w", t.ID, ErrNotFound)
	}
	return err
}

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// LookupTrees returns the trees of layers: of each, one for each way in which it was settled.
func (s *Store) LookupTrees(_ context.Context, diffIDs ...string) ([]Tree, error) {
	var trees []Tree
	err := s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketTrees).Cursor()
		for _, diffID := range diffIDs {
			prefix := diffID + "\x00"
			for k, v := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, v = c.Next() {
				t, err := s.treeOf(string(k), v)
				if err != nil {
					return err
				}
				trees = append(trees, t)
			}
		}
		return nil
	})
	return trees, err
}

func (s *Store) treeOf(key string, value []byte) (Tree, error) {
	var r treeRow
	if err := rowdb.Unseal(rowWhere(bucketTrees, key), value, &r); err != nil {
		return Tree{}, fmt.Errorf("read the row of tree %q: %w", key, err)
	}
	diffID, settling, _ := strings.Cut(key, "\x00")
	return Tree{ID: r.ID, DiffID: diffID, Settling: settling, Usage: r.Usage, Dir: s.path("trees", r.ID)}, nil
}

// NewTree is a finished staging on its way into the store.
type NewTree struct {
	Staging          *Staging
	DiffID, Settling string
	Usage            Usage
	Tree             Tree // set by PutTrees: ours, or an equal one that came first
	sums             map[string]uint32
}

// PutTrees makes trees of finished stagings: they are renamed into place, the filesystem is synced once, after the renames (a rename
// that comes later can be lost in a power cut while the row that names it stands), and then one transaction writes the rows. Ours are
// held by their stagings until those are discarded; an equal one that came first is held by the lease.
func (s *Store) PutTrees(_ context.Context, l *Lease, trees []*NewTree) (err error) {
	if len(trees) == 0 {
		return nil
	}
	var placed []string
	defer func() {
		if err != nil { // no row names them
			for _, dir := range placed {
				err = errors.Join(err, s.Discard(dir))
			}
		}
	}()
	number, err := s.nextTree()
	if err != nil {
		return err
	}
	for _, t := range trees {
		tree, err := s.placeStaging(t.Staging, &number, t.DiffID, t.Settling, t.Usage)
		if err != nil {
			return err
		}
		t.Tree = tree
		placed = append(placed, tree.Dir)
		if t.sums, err = sumFiles(tree.Dir); err != nil {
			return err
		}
	}
	if err := s.Sync(); err != nil {
		return err
	}
	failpoint.Hit("trees/synced")
	var lost []string
	err = s.update(func(tx *bbolt.Tx) error {
		for _, t := range trees {
			first, err := s.putTreeRow(tx, l, t.Tree, t.sums)
			if err != nil {
				return err
			}
			if first.ID != t.Tree.ID {
				lost = append(lost, t.Tree.Dir)
				t.Tree = first
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	failpoint.Hit("trees/recorded")
	for _, dir := range lost {
		err = errors.Join(err, s.Discard(dir))
	}
	placed = nil
	return err
}

// putTreeRow writes the row of a tree, unless an equal one came first, which it holds and returns.
func (s *Store) putTreeRow(tx *bbolt.Tx, l *Lease, t Tree, sums map[string]uint32) (Tree, error) {
	b, key := tx.Bucket(bucketTrees), treeKey(t.DiffID, t.Settling)
	if v := b.Get(key); v != nil {
		first, err := s.treeOf(string(key), v)
		if err != nil || first.ID == t.ID {
			return first, err
		}
		// Whoever deletes a tree locks it in a transaction that takes its row, so this does not wait.
		if err := l.Hold(first.Dir); !errors.Is(err, ErrNotFound) {
			return first, err
		}
	}
	v, err := rowdb.Seal(rowWhere(bucketTrees, string(key)), treeRow{ID: t.ID, Usage: t.Usage, Sums: sums})
	if err != nil {
		return t, err
	}
	return t, b.Put(key, v)
}

// sumFiles sums what lies beside fs in a tree's directory: the layer's index and its needs, whatever they are to others.
func sumFiles(dir string) (map[string]uint32, error) {
	sums := map[string]uint32{}
	for _, name := range []string{"index", "needs"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sum %s of tree: %w", name, err)
		}
		sums[name] = crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	}
	return sums, nil
}

// placeStaging renames a staging into trees/ under the next number that is free, and moves the number on. The staging's lock stays held
// until it is discarded, which keeps Sweep from the tree until its row is written.
func (s *Store) placeStaging(st *Staging, number *int, diffID, settling string, usage Usage) (Tree, error) {
	for {
		id := strconv.Itoa(*number)
		*number++
		// RENAME_NOREPLACE makes the rename the claim to the number.
		err := unix.Renameat2(unix.AT_FDCWD, st.path, unix.AT_FDCWD, s.path("trees", id), unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			continue
		}
		if err != nil {
			return Tree{}, fmt.Errorf("place tree %s: %w", id, err)
		}
		st.path = ""
		failpoint.Hit("trees/placed")
		return Tree{ID: id, DiffID: diffID, Settling: settling, Usage: usage, Dir: s.path("trees", id)}, nil
	}
}

func (s *Store) nextTree() (int, error) {
	names, err := dirNames(s.path("trees"))
	if err != nil {
		return 0, err
	}
	highest := 0
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			highest = max(highest, n)
		}
	}
	return highest + 1, nil
}

func dirNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// Sync writes the store's filesystem to disk.
func (s *Store) Sync() error {
	d, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", s.root, err)
	}
	return nil
}

// ChainLayer is one committed snapshot of a chain that AdoptChain writes.
type ChainLayer struct {
	Name, Parent string // chain IDs; Parent is "" for the lowest
	Tree         Tree
	Labels       map[string]string
	new          bool // the name must not be taken
}

// AdoptChain commits a chain whose trees are in the store, lowest first, in one transaction. Layers that are committed already stay
// as they are. The lease holds the highest, and so all of them, until something names it.
func (s *Store) AdoptChain(_ context.Context, l *Lease, layers []ChainLayer) error {
	var published error
	err := s.update(func(tx *bbolt.Tx) error { return s.adopt(tx, l, layers, &published) })
	return errors.Join(err, published)
}

// adopt writes the rows of AdoptChain, and when they are committed the files; what goes wrong with those is put into published.
func (s *Store) adopt(tx *bbolt.Tx, lease *Lease, layers []ChainLayer, published *error) error {
	var chains []chain
	var below chain // that of the layer before
	for _, l := range layers {
		var err error
		if _, err = getRow(tx, l.Name); err == nil {
			if l.new {
				return fmt.Errorf("snapshot %s: %w", l.Name, ErrExists)
			}
			continue
		}
		if l.Parent != "" {
			if _, err := getRow(tx, l.Parent); err != nil {
				return fmt.Errorf("parent of %s: %w", l.Name, err)
			}
		}
		if _, err := os.Lstat(filepath.Join(l.Tree.Dir, "fs")); err != nil {
			return fmt.Errorf("tree of snapshot %s: %w", l.Name, err)
		}
		r := row{Parent: l.Parent, Tree: l.Tree.ID, DiffID: l.Tree.DiffID, Settling: l.Tree.Settling, Usage: l.Tree.Usage,
			Labels: l.Labels, Created: time.Now().UTC()}
		if err := addRow(tx, l.Name, r); err != nil {
			return err
		}
		c := chain{Name: l.Name, Row: r}
		if l.Parent != "" {
			if below.Name != l.Parent {
				if below, err = chainOf(tx, l.Parent); err != nil {
					return err
				}
			}
			c.Trees = slices.Clone(below.Trees)
		}
		c.Trees = append(c.Trees, r.Tree)
		below = c
		chains = append(chains, c)
	}
	// Files that say what the rows say come after them, or a crash would leave what no row bears out.
	tx.OnCommit(func() { *published = s.publishAll(chains, layers[len(layers)-1].Name, lease) })
	return nil
}

func (s *Store) publishAll(chains []chain, top string, l *Lease) error {
	for _, c := range chains {
		if err := s.publish(c); err != nil {
			return fmt.Errorf("publish snapshot %s: %w", c.Name, err)
		}
		failpoint.Hit("chain/published")
	}
	// Who removes a chain locks this directory while he has the rows' lock, which is ours now.
	dir := s.path("children", hashName(top))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return l.Hold(dir)
}

// Chain returns the trees of a committed snapshot, lowest first.
func (s *Store) Chain(_ context.Context, name string) ([]Tree, error) {
	var trees []Tree
	err := s.db.View(func(tx *bbolt.Tx) error {
		for at := name; at != ""; {
			r, err := getRow(tx, at)
			if err != nil {
				return err
			}
			trees = append([]Tree{{ID: r.Tree, DiffID: r.DiffID, Settling: r.Settling, Usage: r.Usage, Dir: s.path("trees", r.Tree)}}, trees...)
			at = r.Parent
		}
		return nil
	})
	if err == nil && len(trees) == 0 {
		err = fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	return trees, err
}
