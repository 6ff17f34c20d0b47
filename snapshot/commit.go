package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// How an upper becomes a tree without being copied, so that no death on the way loses it:
//
// What the active snapshot will be, a directory with an empty upper and a record that has the tree above the others, is made under the
// tree's number; the tree's index goes into the active snapshot's directory. Then the two directories are exchanged, in one step: before
// it the snapshot has its upper, after it has the tree as its highest lower, and shows the same. Rows follow, as for any tree. Where a
// crash leaves the tree without them, the record knows what they say (moved), and whoever commits, sweeps or repairs next writes them.
// Until then the old record, which came with the upper, tells whose the tree is: nobody sweeps it as long as that one has it.

// moved is what the rows of a record's parent say, where the parent's tree was the snapshot's own upper.
type moved struct {
	Parent string            `json:"parent,omitempty"` // of the record's parent
	DiffID string            `json:"diffID,omitempty"`
	Usage  Usage             `json:"usage"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Captured is an active snapshot that nobody but its holder commits or, where Idle, mounts.
type Captured struct {
	FS     *os.File // the upper
	Parent string   // the committed snapshot that it stands on, or ""
	Idle   bool     // it is not mounted

	s    *Store
	dir  string
	rec  record
	hold *os.File // its directory, locked
	lock *os.File // that it is not mounted; nil where it is
}

// Capture holds the active snapshot under key for a commit, and waits for another one's end. It returns ErrInvalid for a view, and for
// what stands on plain directories.
func (s *Store) Capture(ctx context.Context, key string) (_ *Captured, err error) {
	c := &Captured{s: s}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.hold, c.dir, c.rec, err = s.holdActive(ctx, key); err != nil {
		return nil, err
	}
	if c.rec.Kind != KindActive || c.rec.Dirs != nil {
		return nil, fmt.Errorf("snapshot %s, a %s on %d plain directories: %w", key, c.rec.Kind, len(c.rec.Dirs), ErrInvalid)
	}
	if err := s.finishMove(c.rec); err != nil {
		return nil, err
	}
	switch c.lock, err = lockActive(c.dir); {
	case err == nil:
		c.Idle = true
	case !errors.Is(err, ErrInUse):
		return nil, err
	}
	c.Parent = c.rec.Parent
	c.FS, err = os.Open(filepath.Join(c.dir, "fs"))
	return c, err
}

// Close lets the snapshot go.
func (c *Captured) Close() error {
	var err error
	for _, f := range []*os.File{c.FS, c.lock, c.hold} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Gone says whether the snapshot was removed since it was captured, as that of a mounted one may be: what was read of it since is not all.
func (c *Captured) Gone() bool { return !isAt(c.hold, c.dir) }

// Untouched says whether nothing was written in the upper. Reading leaves nothing there, and a name that came and went changes only the
// time of the root.
func (c *Captured) Untouched() (bool, error) { return untouched(c.s, c.FS, c.rec) }

func untouched(s *Store, upper *os.File, rec record) (bool, error) {
	names, err := upper.Readdirnames(1)
	if len(names) > 0 {
		_, err := upper.Seek(0, io.SeekStart)
		return false, err
	}
	if err != io.EOF {
		return false, fmt.Errorf("read the upper: %w", err)
	}
	lowers := s.lowerDirs(rec)
	if len(lowers) == 0 {
		return true, nil
	}
	same, err := sameAttributes(upper.Name(), lowers[0])
	if err != nil {
		return false, fmt.Errorf("compare the upper with what is below: %w", err)
	}
	return same, nil
}

// NewLayer is what an upper becomes: the committed snapshot Name on the captured one's parent.
type NewLayer struct {
	Name, DiffID string
	Usage        Usage
	Labels       map[string]string
}

// Move makes the upper of an idle snapshot a tree, in place, commits it, and puts the snapshot on top of it with an upper that is empty: it
// shows what it showed. st holds what lies beside fs in the tree's directory, index and needs, and nothing else. The lease holds the
// committed snapshot. On an error the upper is where it was. It returns ErrExists where an equal tree has come into the store meanwhile.
func (c *Captured) Move(ctx context.Context, l *Lease, st *Staging, n NewLayer) (Tree, error) {
	t, err := c.move(ctx, l, st, n, false)
	if err != nil {
		return Tree{}, fmt.Errorf("move the upper of snapshot %s into a tree: %w", c.rec.Key, err)
	}
	return t, nil
}

func (c *Captured) move(ctx context.Context, l *Lease, st *Staging, n NewLayer, fresh bool) (_ Tree, err error) {
	s, a := c.s, filepath.Base(c.dir)
	if !c.Idle || n.Name == "" {
		return Tree{}, ErrInUse
	}
	if err := ctx.Err(); err != nil {
		return Tree{}, err
	}
	if err := checkDepth(len(c.rec.Trees) + 1); err != nil {
		return Tree{}, err
	}
	number, err := s.nextTree()
	if err != nil {
		return Tree{}, err
	}
	// The index goes where the upper is; st becomes the snapshot's next directory.
	if err := dropIndex(c.dir); err != nil { // of a commit that was killed here
		return Tree{}, err
	}
	for _, name := range []string{"index", "needs"} {
		if err := os.Rename(filepath.Join(st.path, name), filepath.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Tree{}, err
		}
	}
	failpoint.Hit("move/index")
	t, err := s.placeStaging(st, &number, n.DiffID, "", n.Usage)
	if err != nil {
		return Tree{}, err
	}
	exchanged, written := false, false // once the rows are, there is no way back
	defer func() {
		if err == nil || written {
			return
		}
		if exchanged {
			if back := exchange(c.dir, t.Dir); back != nil { // the snapshot has the tree, and shows what it showed
				err = fmt.Errorf("%w (and it was not undone: %w)", err, back)
				return
			}
		}
		if n.Name != c.rec.Parent {
			s.unlink(n.Name, a)
		}
		err = errors.Join(err, s.Discard(t.Dir), dropIndex(c.dir))
	}()
	next := c.rec
	next.Parent, next.Trees, next.Updated = n.Name, append(slices.Clone(c.rec.Trees), t.ID), time.Now().UTC()
	next.Moved = &moved{Parent: c.rec.Parent, DiffID: n.DiffID, Usage: n.Usage, Labels: n.Labels}
	if err := c.makeNext(t.Dir, next); err != nil {
		return Tree{}, err
	}
	failpoint.Hit("move/next")
	sums, err := sumFiles(c.dir)
	if err != nil {
		return Tree{}, err
	}
	if err := s.Sync(); err != nil {
		return Tree{}, err
	}
	// From this link on nobody removes what the snapshot is going to stand on, which nobody has committed yet.
	children := s.path("children", hashName(n.Name))
	for {
		if err := os.Mkdir(children, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return Tree{}, err
		}
		if err = os.WriteFile(filepath.Join(children, a), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			break // else it was swept between being made and having something in it
		}
	}
	if err == nil {
		err = l.Hold(children)
	}
	if err != nil {
		return Tree{}, err
	}
	failpoint.Hit("move/linked")
	if err := exchange(c.dir, t.Dir); err != nil {
		return Tree{}, err
	}
	exchanged = true
	failpoint.Hit("move/exchanged")
	if err := s.Sync(); err != nil {
		return Tree{}, err
	}
	failpoint.Hit("move/synced")
	if written, err = s.recordMoved(l, next, sums, fresh, false); err != nil {
		return Tree{}, err
	}
	failpoint.Hit("move/adopted")
	// The directories have changed their places, and so have those who hold them.
	c.rec, c.Parent = next, next.Parent
	s.unlink(next.Moved.Parent, a)
	failpoint.Hit("move/unlinked")
	return t, s.tidyMoved(t.Dir)
}

// dropIndex takes from an active snapshot's directory what a commit has put there.
func dropIndex(dir string) (err error) {
	for _, name := range []string{"index", "needs"} {
		if rerr := os.Remove(filepath.Join(dir, name)); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", a, b, err)
	}
	return nil
}

// makeNext fills the directory that the snapshot is going to have: an empty upper with the attributes of the one that it has, and its
// record. The lock is the same file, so that whoever holds it goes on holding it.
func (c *Captured) makeNext(dir string, next record) error {
	upper := filepath.Join(dir, "fs")
	if err := os.Mkdir(upper, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o700); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(c.dir, "lock"), filepath.Join(dir, "lock")); err != nil {
		return err
	}
	b, err := rowdb.Seal(recordWhere(c.dir), next)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "record.json"), b, 0o600); err != nil {
		return err
	}
	return copyAttributes(filepath.Join(c.dir, "fs"), upper)
}

// recordMoved writes the rows of the tree that is the highest of a record's, and of the record's parent, whose layer it is. With an error
// they may be written: what failed is then what says the same in another form. Where an equal tree came first it is ErrExists; with finish,
// where there is no way back, the rows name that one.
func (s *Store) recordMoved(l *Lease, rec record, sums map[string]uint32, fresh, finish bool) (written bool, err error) {
	id := rec.Trees[len(rec.Trees)-1]
	t := Tree{ID: id, DiffID: rec.Moved.DiffID, Usage: rec.Moved.Usage, Dir: s.path("trees", id)}
	var published error
	err = s.update(func(tx *bbolt.Tx) error {
		tx.OnCommit(func() { written = true })
		if r, err := getRow(tx, rec.Parent); err == nil && r.Tree != t.ID && !finish { // its tree would be nobody's
			return fmt.Errorf("snapshot %s: %w", rec.Parent, ErrExists)
		}
		if t.DiffID != "" {
			first, err := s.putTreeRow(tx, l, t, sums)
			if err != nil {
				return err
			}
			if first.ID != t.ID && !finish {
				return fmt.Errorf("tree of layer %s: %w", t.DiffID, ErrExists)
			}
			t = first
		}
		layer := ChainLayer{Name: rec.Parent, Parent: rec.Moved.Parent, Tree: t, Labels: rec.Moved.Labels, new: fresh}
		return s.adopt(tx, l, []ChainLayer{layer}, &published)
	})
	return written, errors.Join(err, published)
}

// finishMove does what a commit that was killed after the exchange has left to do. The snapshot's directory must be held. Where somebody
// has made the same layer meanwhile, the rows name his tree, and this one stays the snapshot's own: the record in it says so.
func (s *Store) finishMove(rec record) error {
	if rec.Moved == nil {
		return nil
	}
	dir := s.path("trees", rec.Trees[len(rec.Trees)-1])
	if _, err := os.Lstat(filepath.Join(dir, "record.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var lease Lease
	defer lease.Close()
	c, err := s.readChain(rec.Parent)
	if errors.Is(err, ErrNotFound) {
		sums, serr := sumFiles(dir)
		if err = serr; err == nil {
			err = s.Sync()
		}
		if err == nil {
			_, err = s.recordMoved(&lease, rec, sums, false, true)
		}
		if err == nil {
			c, err = s.readChain(rec.Parent)
		}
		if err != nil {
			return fmt.Errorf("finish the commit of snapshot %s: %w", rec.Key, err)
		}
	}
	if err != nil {
		return err
	}
	s.unlink(rec.Moved.Parent, hashName(rec.Key))
	if c.Trees[len(c.Trees)-1] != filepath.Base(dir) {
		return nil
	}
	return s.tidyMoved(dir)
}

// finishMoves does for every active snapshot what a commit that was killed has left to do.
func (s *Store) finishMoves() error {
	names, err := dirNames(s.path("active"))
	for _, a := range names {
		d := LockIdle(s.path("active", a))
		if d == nil {
			continue // somebody commits it just now
		}
		if rec, rerr := readRecordFile(d.Name()); rerr == nil {
			err = errors.Join(err, dropIndex(d.Name()), s.finishMove(rec))
		}
		d.Close()
	}
	return err
}

// StandsOn says whether the active snapshot under key stands on the committed snapshot name, or on what stands on that: a commit puts its
// layer in between.
func (s *Store) StandsOn(_ context.Context, key, name string) (bool, error) {
	_, rec, err := s.readRecord(key)
	if err != nil {
		return false, err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		at := rec.Parent
		for at != name && at != "" {
			r, err := getRow(tx, at)
			if errors.Is(err, ErrNotFound) && at == rec.Parent && rec.Moved != nil {
				r.Parent, err = rec.Moved.Parent, nil // its row is still to be written
			}
			if err != nil {
				return err
			}
			at = r.Parent
		}
		if at != name {
			return ErrNotFound
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Changes returns what an active snapshot has above the committed snapshot that it was made on, highest first: its upper, and the layers
// that commits have made of earlier ones; and the lowers below those. As long as the lease lasts, no commit exchanges them.
func (s *Store) Changes(ctx context.Context, l *Lease, key, base string) (uppers, lowers []string, err error) {
	if err := l.Hold(s.activeDir(key)); err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", key, err)
	}
	dir, rec, err := s.readRecord(key)
	if err != nil {
		return nil, nil, err
	}
	uppers, lowers = []string{filepath.Join(dir, "fs")}, s.lowerDirs(rec)
	if base == "" || base == rec.Parent || rec.Dirs != nil {
		return uppers, lowers, nil
	}
	c, err := s.readChain(base)
	if err != nil {
		return nil, nil, err
	}
	at := slices.Index(lowers, s.path("trees", c.Trees[len(c.Trees)-1], "fs"))
	if at < 0 {
		return nil, nil, fmt.Errorf("snapshot %s does not stand on %s: %w", key, base, ErrInvalid)
	}
	return append(uppers, lowers[:at]...), lowers[at:], nil
}

// unlink forgets that an active snapshot stands on a committed one.
func (s *Store) unlink(parent, active string) {
	if parent != "" {
		unix.Unlink(s.path("children", hashName(parent), active))
	}
}

// tidyMoved takes from a tree's directory what came with the upper. The record goes last: it says that the rest is there.
func (s *Store) tidyMoved(dir string) error {
	err := s.Discard(filepath.Join(dir, "work"))
	for _, name := range []string{"shared", "lock", "record.json"} {
		if rerr := os.Remove(filepath.Join(dir, name)); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		failpoint.Hit("move/tidied")
	}
	return err
}

// ownsTree says whether a tree was an active snapshot's upper, and is that snapshot's still: it must stay, whatever the rows say.
func (s *Store) ownsTree(id string) bool {
	b, err := os.ReadFile(s.path("trees", id, "record.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	var was record
	if err != nil || json.Unmarshal(b, &was) != nil || !rowdb.Sealed(recordWhere(s.activeDir(was.Key)), b) {
		return true // nobody knows whose it is
	}
	is, err := readRecordFile(s.activeDir(was.Key))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	// Where there was no exchange, the record here is the one that was to be.
	return err != nil || slices.Contains(is.Trees, id)
}

// Commit freezes the active snapshot key under name, with its upper as the new tree. The key is gone afterwards. It returns ErrInUse
// while the snapshot is mounted by Attach, ErrExists where the name is taken and ErrInvalid for a view.
func (s *Store) Commit(ctx context.Context, name, key string, opts ...Opt) error {
	if err := s.commit(ctx, name, key, opts); err != nil {
		return fmt.Errorf("commit snapshot %s as %s: %w", key, name, err)
	}
	return nil
}

func (s *Store) commit(ctx context.Context, name, key string, opts []Opt) error {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if name == "" {
		return ErrInvalid
	}
	c, err := s.Capture(ctx, key)
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.Idle {
		return fmt.Errorf("it is mounted: %w", ErrInUse)
	}
	if c.rec.Moved == nil || c.rec.Parent != name { // else it was killed when all but the key's removal was done
		usage, err := usageOf(filepath.Join(c.dir, "fs"))
		if err != nil {
			return err
		}
		st, err := s.NewStaging()
		if err != nil {
			return err
		}
		defer st.Discard()
		var lease Lease
		defer lease.Close()
		if _, err := c.move(ctx, &lease, st, NewLayer{Name: name, Usage: usage, Labels: o.labels}, true); err != nil {
			return err
		}
	} else if same, err := c.Untouched(); err != nil || !same {
		return errors.Join(err, ErrExists)
	}
	return s.dropActive(c.dir, c.rec)
}
