package snapshot

import (
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

	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Item is a file or directory of a store with all that is in it. Size is what it takes on the disk, in bytes as du counts them; Held
// says that an operation in flight needs it; a Leftover was never whole, or was removed and is not deleted yet.
type Item struct {
	Name, Path string
	Size       int64
	Held       bool
	Leftover   bool
}

// Active is an active snapshot or view. Key is "" for one that is half made.
type Active struct {
	Item
	Key, Parent string
}

// Survey is all that there is below the store's directory. Every byte is in one item, or in Own: rows and directories.
type Survey struct {
	Committed map[string]Committed // by name
	Trees     []Item
	Actives   []Active
	Leftovers []Item // stagings, what is in the trash, and a database that Repair has replaced
	Own       int64
}

// Committed is a committed snapshot.
type Committed struct{ Parent, Tree string }

var bucketDisk = []byte("disk") // tree ID → size on disk, counted once

type diskRow struct {
	Inode uint64 // of the tree's directory: numbers are used again
	Size  int64
}

// Survey looks at everything that the store has. A tree is walked once in its life, and its size kept; active snapshots and leftovers
// are walked each time.
func (s *Store) Survey(ctx context.Context) (*Survey, error) {
	v := &Survey{Committed: map[string]Committed{}}
	known := map[string]diskRow{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketDisk); b != nil {
			err := b.ForEach(func(k, value []byte) error {
				var r diskRow
				if rowdb.Unseal(rowWhere(bucketDisk, string(k)), value, &r) == nil {
					known[string(k)] = r
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return eachRow(tx, func(name string, r row) error {
			v.Committed[name] = Committed{r.Parent, r.Tree}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if err := s.surveyTrees(ctx, v, known); err != nil {
		return nil, err
	}
	if v.Actives, err = s.Actives(); err != nil {
		return nil, err
	}
	for i := range v.Actives {
		if err := v.Actives[i].Measure(ctx); err != nil {
			return nil, err
		}
	}
	for _, kind := range []string{"staging", "trash"} {
		names, err := dirNames(s.path(kind))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			item := Item{Name: kind + " " + name, Path: s.path(kind, name), Leftover: true, Held: kind == "staging" && Held(s.path(kind, name))}
			if err := item.Measure(ctx); err != nil {
				return nil, err
			}
			v.Leftovers = append(v.Leftovers, item)
		}
	}
	if kept := s.db.Kept(); !gone(kept) {
		item := Item{Name: "damaged rows of snapshots", Path: kept, Leftover: true}
		if err := item.Measure(ctx); err != nil {
			return nil, err
		}
		v.Leftovers = append(v.Leftovers, item)
	}
	for _, own := range []struct {
		dir       string
		elsewhere func(string) bool
	}{
		{"", func(name string) bool {
			return slices.Contains([]string{"trees", "active", "staging", "trash", filepath.Base(s.db.Kept())}, name)
		}},
		{"trees", isNumber}, {"active", all}, {"staging", all}, {"trash", all},
	} {
		size, err := OwnUsage(ctx, s.path(own.dir), own.elsewhere)
		if err != nil {
			return nil, err
		}
		v.Own += size
	}
	return v, nil
}

func (s *Store) surveyTrees(ctx context.Context, v *Survey, known map[string]diskRow) error {
	names, err := dirNames(s.path("trees"))
	if err != nil {
		return err
	}
	fresh := map[string]diskRow{}
	for _, name := range names {
		if !isNumber(name) {
			continue
		}
		item := Item{Name: name, Path: s.path("trees", name), Held: Held(s.path("trees", name)) || s.ownsTree(name)}
		var st unix.Stat_t
		if unix.Lstat(item.Path, &st) != nil {
			continue // gone meanwhile
		}
		if r, ok := known[name]; ok && r.Inode == st.Ino {
			item.Size = r.Size
		} else {
			if err := item.Measure(ctx); err != nil {
				return err
			}
			if !item.Held { // one that is held may not be on disk yet: its blocks are not settled
				fresh[name] = diskRow{st.Ino, item.Size}
			}
		}
		v.Trees = append(v.Trees, item)
	}
	if len(fresh) == 0 {
		return nil
	}
	// Keeping the sizes saves time and nothing else: a store that cannot be written is looked at as well.
	s.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketDisk)
		if err != nil {
			return err
		}
		for id, r := range fresh {
			value, err := rowdb.Seal(rowWhere(bucketDisk, id), r)
			if err != nil {
				return err
			}
			if err := b.Put([]byte(id), value); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}

// Actives lists the active snapshots and views, with the half-made ones. Nothing is measured.
func (s *Store) Actives() ([]Active, error) {
	names, err := dirNames(s.path("active"))
	if err != nil {
		return nil, err
	}
	var list []Active
	for _, name := range names {
		dir := s.path("active", name)
		a := Active{Item: Item{Name: "snapshot " + name, Path: dir}}
		rec, err := readRecordFile(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			a.Held, a.Leftover = Held(dir), true
			if key, err := s.owner(dir); err != nil {
				return nil, err
			} else if key != "" { // it has lost its record
				a.Key, a.Held, a.Leftover = key, Held(filepath.Join(dir, "lock")), false
			}
		case err != nil:
			a.Held = true // damaged: nobody knows what it is, so it stays until check has looked at it
		default:
			a.Key, a.Parent = rec.Key, rec.Parent
			a.Held = Held(filepath.Join(dir, "lock"))
		}
		list = append(list, a)
	}
	return list, nil
}

// Held says whether somebody holds what is at path, at this moment.
func Held(path string) bool {
	f := LockIdle(path)
	if f != nil {
		f.Close()
		return false
	}
	return !gone(path)
}

// Measure sets the item's size.
func (i *Item) Measure(ctx context.Context) (err error) {
	i.Size, err = DiskUsage(ctx, i.Path)
	return err
}

// DiskUsage is what a file or directory takes on the disk with all that is in it, as du counts: blocks, a file with several links once.
// What is not there takes nothing.
func DiskUsage(ctx context.Context, path string) (int64, error) {
	if gone(path) {
		return 0, ctx.Err()
	}
	u, err := usageOf(path)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", path, err)
	}
	return u.Size, ctx.Err()
}

// OwnUsage is DiskUsage of a directory without those of its entries that are counted elsewhere.
func OwnUsage(ctx context.Context, dir string, elsewhere func(name string) bool) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "measure", Path: dir, Err: err}
	}
	total := st.Blocks * 512
	names, err := dirNames(dir)
	for _, name := range names {
		if !elsewhere(name) {
			size, serr := DiskUsage(ctx, filepath.Join(dir, name))
			total, err = total+size, errors.Join(err, serr)
		}
	}
	return total, err
}

func all(string) bool { return true }

// Standing lists the directories of the active snapshots and views that stand on a committed one.
func (s *Store) Standing(name string) []string {
	var dirs []string
	names, _ := dirNames(s.path("children", hashName(name)))
	for _, a := range names {
		if dir := s.path("active", a); !gone(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Plan is what Prune would remove.
type Plan struct {
	Chains []string // committed snapshots, each before its parent
	Items  []Item   // trees and leftovers
}

// Plan finds what nothing needs: committed snapshots that have a chain ID for a name, which only images give, and are neither wanted
// themselves nor below one that is; trees of no snapshot that stays; what a crash left. leaving says of the key of an active snapshot
// that it goes first.
func (v *Survey) Plan(wanted, leaving func(name string) bool) Plan {
	keep := map[string]bool{}
	mark := func(name string) {
		for ; name != "" && !keep[name]; name = v.Committed[name].Parent {
			keep[name] = true
		}
	}
	for name := range v.Committed {
		if wanted(name) || !strings.HasPrefix(name, "sha256:") {
			mark(name)
		}
	}
	var p Plan
	for _, a := range v.Actives {
		if a.Key != "" && !leaving(a.Key) {
			mark(a.Parent)
		}
		if a.Key == "" && !a.Held {
			p.Items = append(p.Items, a.Item)
		}
	}
	parents := map[string]int{} // of those that go: how many stand on each
	trees := map[string]bool{}
	for name, c := range v.Committed {
		if keep[name] {
			trees[c.Tree] = true
		} else {
			parents[c.Parent]++
		}
	}
	names := slices.Sorted(maps.Keys(v.Committed))
	for more := true; more; {
		more = false
		for _, name := range names {
			if !keep[name] && parents[name] == 0 {
				p.Chains = append(p.Chains, name)
				keep[name] = true
				parents[v.Committed[name].Parent]--
				more = true
			}
		}
	}
	for _, t := range v.Trees {
		if !trees[t.Name] && !t.Held {
			p.Items = append(p.Items, Item{Name: "layer " + t.Name, Path: t.Path, Size: t.Size})
		}
	}
	for _, l := range v.Leftovers {
		if !l.Held {
			p.Items = append(p.Items, l)
		}
	}
	return p
}

// RemovePlanned removes what a plan says of committed snapshots, as far as it is true still and keep wants none of them, and returns
// which. The rules are RemoveChain's.
func (s *Store) RemovePlanned(p Plan, keep func(name string) bool) (removed []string, err error) {
	for names := p.Chains; len(names) > 0; {
		batch := names[:min(len(names), 200)] // each is two open descriptors meanwhile
		names = names[len(batch):]
		r := removal{s: s}
		err := s.update(func(tx *bbolt.Tx) error {
			for _, name := range batch {
				if _, err := r.take(tx, name, keep); err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotFound) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			r.undo()
		} else {
			removed = append(removed, r.names...)
			err = r.finish()
		}
		r.close()
		if err != nil {
			return removed, fmt.Errorf("remove snapshots: %w", err)
		}
	}
	return removed, nil
}

// unmountDead takes down what is mounted inside the store and belongs to nobody who lives. We mount nothing there that outlives its
// maker; but a thing that is mounted cannot be deleted.
func (s *Store) unmountDead() error {
	root, err := filepath.EvalSymlinks(s.root) // as the kernel shows it
	if err != nil {
		return err
	}
	mounts, err := mountPoints(root)
	for i := len(mounts) - 1; i >= 0; i-- { // the last ones made are the innermost
		owner := mounts[i]
		for filepath.Dir(filepath.Dir(owner)) != root && owner != "/" {
			owner = filepath.Dir(owner)
		}
		if owner == "/" { // the store's own filesystem, or a part of it
			continue
		}
		if filepath.Base(filepath.Dir(owner)) == "active" {
			owner = filepath.Join(owner, "lock")
		}
		if Held(owner) {
			continue
		}
		if uerr := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", mounts[i], uerr))
		}
	}
	return err
}

func mountPoints(below string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMountPoints(string(b), below), nil
}

// parseMountPoints reads the mount points below a directory from the form of /proc/self/mountinfo (proc(5)).
func parseMountPoints(info, below string) []string {
	var points []string
	for _, line := range strings.Split(info, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescapeMount(fields[4])
		if strings.HasPrefix(point, below+"/") {
			points = append(points, point)
		}
	}
	return points
}
