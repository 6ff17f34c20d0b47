package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Repair makes right what can be made of something else that is here: rows of chains/ and the other way round, the derived buckets,
// links to parents, the init lower, and the records of active snapshots, whose keys and parents their maker tells. It does not touch
// trees of layers. It returns a line for each thing that it made right. What was done stays done when it returns an error.
func (s *Store) Repair(_ context.Context, actives map[string]Claim) (done []string, err error) {
	r := &repairer{Store: s}
	for _, step := range []func() error{r.rows, r.republish, func() error { return r.records(actives) }, r.links, r.finishMoves} {
		if err == nil {
			err = step()
		}
	}
	if err == nil {
		var init []string
		init, err = s.repairInit()
		for _, file := range init {
			r.made(file)
		}
	}
	if err != nil {
		err = fmt.Errorf("repair snapshots: %w", err)
	}
	return r.done, err
}

type repairer struct {
	*Store
	st   *state
	done []string
}

func (r *repairer) made(file string) {
	r.done = append(r.done, filepath.Join(filepath.Base(r.root), file)+": made right")
}

// rows makes the database right, from what it is at one moment.
func (r *repairer) rows() error {
	for try := 0; ; try++ {
		st, err := r.readState()
		if err != nil {
			return err
		}
		r.st = st
		r.recoverRows()
		if err := r.writeRows(); !errors.Is(err, rowdb.ErrChanged) || try == 20 {
			return err
		}
	}
}

// recoverRows adds rows that the database lost and chains/ still has.
func (r *repairer) recoverRows() {
	needed := map[string]bool{}
	for _, row := range r.st.rows {
		needed[row.Parent] = true
	}
	names, _ := dirNames(r.path("chains"))
	for _, file := range names {
		h := strings.TrimSuffix(file, ".json")
		var c chain
		b, err := os.ReadFile(r.path("chains", file))
		if err != nil || !rowdb.Sealed(chainWhere(h), b) || rowdb.Unseal(chainWhere(h), b, &c) != nil || hashName(c.Name) != h {
			continue
		}
		// Where the database is whole, a file without a row, on which nothing stands, is what a crash left of a removal.
		if _, known := r.st.rows[c.Name]; !known && (needed[c.Name] || len(r.st.verified.Problems) > 0 || r.st.broken[rowWhere(bucketSnapshots, c.Name)] != "") {
			r.st.rows[c.Name] = c.Row
		}
	}
	if len(r.st.verified.Problems) == 0 {
		return
	}
	// An old state of the rows may name what was removed since.
	for name, row := range r.st.rows {
		if _, err := os.Lstat(r.path("trees", row.Tree)); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(r.path("chains", hashName(name)+".json")); errors.Is(err, fs.ErrNotExist) {
				delete(r.st.rows, name)
			}
		}
	}
}

// want is what the buckets should hold.
func (r *repairer) want() (rowdb.Contents, error) {
	snapshots, children, users, trees := map[string][]byte{}, map[string][]byte{}, map[string][]byte{}, map[string][]byte{}
	rows := maps.Clone(r.st.trees)
	for _, name := range slices.Sorted(maps.Keys(r.st.rows)) {
		row := r.st.rows[name]
		b, err := rowdb.Seal(rowWhere(bucketSnapshots, name), row)
		if err != nil {
			return nil, err
		}
		snapshots[name] = b
		if row.Parent != "" {
			children[string(childKey(row.Parent, name))] = []byte{}
		}
		users[string(childKey(row.Tree, name))] = []byte{}
		if key := string(treeKey(row.DiffID, row.Settling)); row.DiffID != "" && rows[key].ID != row.Tree {
			if gone(r.path("trees", rows[key].ID)) || rows[key].ID == "" {
				sums, err := sumFiles(r.path("trees", row.Tree))
				if err != nil {
					return nil, err
				}
				rows[key] = treeRow{ID: row.Tree, Usage: row.Usage, Sums: sums}
			}
		}
	}
	for key, t := range rows {
		used := slices.ContainsFunc(slices.Collect(maps.Values(r.st.rows)), func(row row) bool { return row.Tree == t.ID })
		if !used && gone(r.path("trees", t.ID)) {
			continue
		}
		b, err := rowdb.Seal(rowWhere(bucketTrees, key), t)
		if err != nil {
			return nil, err
		}
		trees[key] = b
	}
	return rowdb.Contents{string(bucketSnapshots): snapshots, string(bucketChildren): children, string(bucketUsers): users, string(bucketTrees): trees}, nil
}

// writeRows makes the database hold what it should. Without need it is not written to.
func (r *repairer) writeRows() error {
	want, err := r.want()
	if err != nil {
		return err
	}
	have := r.st.verified.Rows
	if have[string(bucketUsers)] == nil && len(r.st.verified.Problems) == 0 {
		delete(want, string(bucketUsers)) // an older store's: made when it is needed
	}
	same := len(r.st.verified.Problems) == 0
	for bucket, rows := range want {
		same = same && maps.EqualFunc(have[bucket], rows, bytes.Equal)
	}
	if same {
		return nil
	}
	a, err := r.db.Apply(r.st.verified, want)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("snapshots/meta.db: %d rows made right", a.Changed)
	if a.Anew {
		line = fmt.Sprintf("snapshots/meta.db: made anew, with %d snapshots", len(r.st.rows))
	}
	if a.Kept != "" {
		line += "; the damaged one is kept as " + filepath.Base(a.Kept) + " until the next prune"
	}
	r.done = append(r.done, line)
	return nil
}

// republish makes the files that say what the rows say.
func (r *repairer) republish() error {
	if len(r.st.rows) == 0 {
		return nil
	}
	return r.update(func(tx *bbolt.Tx) error {
		return eachRow(tx, func(name string, row row) error {
			c, err := chainOf(tx, name)
			if err != nil {
				return nil // its parent is missing, and perhaps comes back
			}
			h := hashName(name)
			want, err := rowdb.Seal(chainWhere(h), c)
			if err != nil {
				return err
			}
			if info, err := os.Lstat(r.path("children", h)); err == nil && !info.IsDir() {
				if err := os.Remove(r.path("children", h)); err != nil {
					return err
				}
			}
			have, err := os.ReadFile(r.path("chains", h+".json"))
			if err == nil && bytes.Equal(have, want) && !gone(r.path("children", h)) {
				return nil
			}
			if err := r.publish(c); err != nil {
				return err
			}
			if err := os.Mkdir(r.path("children", h), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if len(bytes.Trim(have, "\x00")) > 0 && !bytes.Equal(have, want) {
				r.made("chains/" + h + ".json")
			}
			return nil
		})
	})
}

// records writes the records of active snapshots again that are damaged or gone.
func (r *repairer) records(actives map[string]Claim) error {
	for _, key := range slices.Sorted(maps.Keys(actives)) {
		dir := r.activeDir(key)
		if gone(dir) {
			continue
		}
		// overlayfs' own directory holds nothing that lasts.
		if work := filepath.Join(dir, "work"); gone(work) && !gone(filepath.Join(dir, "fs")) {
			if err := os.Mkdir(work, 0o700); err != nil {
				return err
			}
			r.made("active/" + filepath.Base(dir) + "/work")
		}
		rec, err := readRecordFile(dir)
		b, rerr := os.ReadFile(filepath.Join(dir, "record.json"))
		if err == nil && rec.Key == key && rerr == nil && !rowdb.Unsealed(b) {
			continue
		}
		if err != nil || rec.Key != key {
			info, err := os.Stat(dir)
			if err != nil {
				return err
			}
			a := actives[key]
			made := info.ModTime().UTC()
			rec = record{Key: key, Parent: a.Parent, Dirs: a.Dirs, Kind: KindActive, Labels: a.Labels, Created: made, Updated: made}
			if a.Parent != "" {
				rec.Parent = r.standsOn(filepath.Base(dir), a.Parent)
				c, err := r.readChain(rec.Parent)
				if errors.Is(err, ErrNotFound) {
					continue // told by check, as long as it is so
				}
				if err != nil {
					return err
				}
				rec.Trees = r.uncovered(c.Trees)
			}
		}
		sealed, err := rowdb.Seal(recordWhere(dir), rec)
		if err == nil {
			err = WriteFile(filepath.Join(dir, "record.json"), sealed, true)
		}
		if err != nil {
			return err
		}
		r.made("active/" + filepath.Base(dir) + "/record.json")
	}
	return nil
}

// standsOn finds what an active snapshot that was made on a committed one stands on now: the highest above it that has a link from it.
func (r *repairer) standsOn(active, base string) string {
	best, height := base, 0
	for name := range r.st.rows {
		if gone(r.path("children", hashName(name), active)) {
			continue
		}
		depth := 0
		for at := name; at != "" && depth <= len(r.st.rows); at = r.st.rows[at].Parent {
			if at == base && depth > height {
				best, height = name, depth
			}
			depth++
		}
	}
	return best
}

// links says again in children/ what active snapshots stand on.
func (r *repairer) links() error {
	names, err := dirNames(r.path("active"))
	for _, a := range names {
		rec, rerr := readRecordFile(r.path("active", a))
		if rerr != nil || rec.Parent == "" || hashName(rec.Key) != a || !gone(r.path("children", hashName(rec.Parent), a)) {
			continue
		}
		if lerr := r.link(r.path("active", a), rec.Parent); lerr != nil {
			if !errors.Is(lerr, ErrNotFound) {
				err = errors.Join(err, lerr)
			}
			continue
		}
		r.made("children/" + hashName(rec.Parent) + "/" + a)
	}
	return err
}

// ReplaceTree puts what was unpacked anew in the place of a tree that is damaged or gone, under its number, so that every snapshot that
// has the tree has the new one. The two are exchanged in one step. A tree below a mounted snapshot stays as it is, and ReplaceTree
// returns ErrInUse: what lies below an overlay must not go away under it.
func (s *Store) ReplaceTree(_ context.Context, t Tree, st *Staging) error {
	fail := func(err error) error { return fmt.Errorf("replace tree %s: %w", t.ID, err) }
	idle := map[string]*os.File{}
	defer func() {
		for _, f := range idle {
			f.Close()
		}
	}()
	if err := s.lockStanding(t.ID, idle); err != nil {
		return fail(err)
	}
	if err := s.Sync(); err != nil {
		return fail(err)
	}
	failpoint.Hit("repair/unpacked")
	staged := st.path
	err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, t.Dir, unix.RENAME_EXCHANGE)
	if err == unix.ENOENT {
		if err = os.Rename(staged, t.Dir); err == nil {
			st.path = ""
		}
	}
	if err != nil {
		return fail(err)
	}
	failpoint.Hit("repair/exchanged")
	if st.path != "" {
		// Whoever was made and mounted between our look and the exchange keeps what he has.
		if err := s.lockStanding(t.ID, idle); err != nil {
			return fail(errors.Join(err, unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, t.Dir, unix.RENAME_EXCHANGE)))
		}
		if d := LockIdle(staged); d != nil {
			d.Close()
		} else {
			st.path = "" // somebody reads it: it is swept when he is done
		}
	}
	if err := s.Sync(); err != nil {
		return fail(err)
	}
	sums, err := sumFiles(t.Dir)
	if err != nil {
		return fail(err)
	}
	err = s.update(func(tx *bbolt.Tx) error {
		key := treeKey(t.DiffID, t.Settling)
		v, err := rowdb.Seal(rowWhere(bucketTrees, string(key)), treeRow{ID: t.ID, Usage: t.Usage, Sums: sums})
		if err != nil || bytes.Equal(tx.Bucket(bucketTrees).Get(key), v) {
			return err
		}
		return tx.Bucket(bucketTrees).Put(key, v)
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// lockStanding locks the active snapshots that stand on a tree, so that nobody mounts them, and adds them to what is locked already. It
// is ErrInUse where one is mounted, or is a view, of whose mounts nothing is known.
func (s *Store) lockStanding(id string, locked map[string]*os.File) error {
	names, err := dirNames(s.path("active"))
	if err != nil {
		return err
	}
	for _, a := range names {
		rec, err := readRecordFile(s.path("active", a))
		if err != nil || locked[a] != nil || !slices.Contains(rec.Trees, id) {
			continue
		}
		if rec.Kind != KindActive {
			return fmt.Errorf("the view %s stands on it: %w", rec.Key, ErrInUse)
		}
		if locked[a], err = lockActive(s.path("active", a)); err != nil {
			delete(locked, a)
			return fmt.Errorf("%s stands on it: %w", rec.Key, err)
		}
	}
	return nil
}
