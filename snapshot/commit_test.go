package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// written makes an active snapshot of a base and writes in it, as a container would.
func written(t *testing.T, s *Store, key, parent string, files map[string]string) {
	t.Helper()
	if err := s.Create(ctx, key, parent); err != nil {
		t.Fatal(err)
	}
	r, err := s.Attach(ctx, key, AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, content := range files {
		fd, err := unix.Openat(int(r.FD.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		if _, err := f.WriteString(content); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// shows says whether the active snapshot under key has the files.
func shows(t *testing.T, s *Store, key string, files map[string]string) {
	t.Helper()
	r, err := s.Attach(ctx, key, AttachOptions{})
	if err != nil {
		t.Errorf("%s: %v", key, err)
		return
	}
	defer r.Close()
	for name, want := range files {
		if got, err := read(t, r, name); got != want {
			t.Errorf("%s: %s is %q (%v), want %q", key, name, got, err, want)
		}
	}
}

// move commits what was written under key as name, whose layer has a diff ID.
func move(t *testing.T, s *Store, key, name, diffID string) (Tree, error) {
	t.Helper()
	c, err := s.Capture(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	st, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Discard()
	if err := os.WriteFile(filepath.Join(st.Path(), "index"), []byte("index of "+name), 0o600); err != nil {
		t.Fatal(err)
	}
	var l Lease
	defer l.Close()
	return c.Move(ctx, &l, st, NewLayer{Name: name, DiffID: diffID, Usage: Usage{Inodes: 2, Size: 4096}, Labels: map[string]string{"a": "b"}})
}

func noFindings(t *testing.T, s *Store, when string) {
	t.Helper()
	r, err := s.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("%s: %+v", when, f)
	}
}

// A moved upper is a tree in the snapshot's sight as before, and one that others can stand on. What is written later goes into a new upper.
func TestMove(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0", "b": "b0"})
	written(t, s, "c", "base", map[string]string{"a": "a1", "x": "x1"})
	tree, err := move(t, s, "c", "new", "diff-c")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "a1", "b": "b0", "x": "x1"}
	shows(t, s, "c", want)
	noFindings(t, s, "after the commit")
	if err := s.Create(ctx, "other", "new"); err != nil {
		t.Fatal(err)
	}
	shows(t, s, "other", want)
	if names, _ := dirNames(tree.Dir); !slices.Equal(slices.Sorted(slices.Values(names)), []string{"fs", "index"}) {
		t.Errorf("the tree has %q", names)
	}
	if info, err := s.Stat(ctx, "new"); err != nil || info.Parent != "base" || info.Labels["a"] != "b" {
		t.Errorf("committed %+v, %v", info, err)
	}
	r, err := s.Attach(ctx, "c", AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unlinkat(int(r.FD.Fd()), "x", 0); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Capture(ctx, "c"); err != nil || c.Idle {
		t.Errorf("captured while mounted: %+v, %v", c, err)
	} else {
		c.Close()
	}
	r.Close()
	shows(t, s, "c", map[string]string{"a": "a1", "x": ""})
	shows(t, s, "other", want)
	uppers, lowers, err := changesOf(s, "c", "base")
	if err != nil || len(uppers) != 2 || len(lowers) != 1 || uppers[1] != filepath.Join(tree.Dir, "fs") {
		t.Errorf("above its base it has %q, below %q, %v", uppers, lowers, err)
	}
	if is, err := s.StandsOn(ctx, "c", "base"); err != nil || !is {
		t.Errorf("it stands on its base: %v, %v", is, err)
	}
	if is, err := s.StandsOn(ctx, "c", "diff-c"); err != nil || is {
		t.Errorf("it stands on what is not there: %v, %v", is, err)
	}
	// Once more: the layer is the second above the base.
	if _, err := move(t, s, "c", "newer", "diff-d"); err != nil {
		t.Fatal(err)
	}
	if uppers, _, err := changesOf(s, "c", "base"); err != nil || len(uppers) != 3 {
		t.Errorf("after a second commit it has %q, %v", uppers, err)
	}
	shows(t, s, "c", map[string]string{"a": "a1", "x": ""})
	noFindings(t, s, "after another commit")
	if err := s.Remove(ctx, "new"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove what the snapshot stands on: %v", err)
	}
	takeAway(t, s, "c", "other", "newer", "new", "base")
}

// takeAway removes snapshots, after which nothing must be left.
func takeAway(t *testing.T, s *Store, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := s.Remove(ctx, key); err != nil {
			t.Errorf("remove %s: %v", key, err)
		}
	}
	if err := s.Sweep(ctx); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"trees", "active", "staging", "trash", "children", "chains"} {
		if names, _ := dirNames(s.path(dir)); len(names) > 0 {
			t.Errorf("%s still holds %q", dir, names)
		}
	}
}

// An equal tree that came first: the upper stays where it is.
func TestMoveIsUndone(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	addLayer(t, s, "new", "base", map[string]string{"x": "x1"}) // its diff ID is diff-new
	written(t, s, "c", "base", map[string]string{"x": "x1"})
	if _, err := move(t, s, "c", "other", "diff-new"); !errors.Is(err, ErrExists) {
		t.Errorf("two trees of one layer: %v", err)
	}
	shows(t, s, "c", map[string]string{"a": "a0", "x": "x1"})
	if uppers, _, err := changesOf(s, "c", "base"); err != nil || len(uppers) != 1 {
		t.Errorf("it has %q, %v", uppers, err)
	} else if _, err := os.Stat(filepath.Join(uppers[0], "x")); err != nil {
		t.Error(err)
	}
	if names, _ := dirNames(s.activeDir("c")); len(names) != 4 {
		t.Errorf("its directory holds %q", names)
	}
	noFindings(t, s, "afterwards")
	if names, _ := dirNames(s.path("trees")); len(names) != 2 {
		t.Errorf("there are the trees %q", names)
	}
	takeAway(t, s, "c", "new", "base")
}

// half brings a store into the state in which a commit leaves it that is killed when the directories are exchanged.
func half(t *testing.T) *Store {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	written(t, s, "c", "base", map[string]string{"a": "a1", "x": "x1"})
	before, err := os.ReadFile(filepath.Join(s.activeDir("c"), "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := move(t, s, "c", "new", "diff-c")
	if err != nil {
		t.Fatal(err)
	}
	err = s.update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucketSnapshots).Delete([]byte("new")), tx.Bucket(bucketTrees).Delete(treeKey("diff-c", "")),
			tx.Bucket(bucketChildren).Delete(childKey("base", "new")), tx.Bucket(bucketUsers).Delete(childKey(tree.ID, "new")))
	})
	for _, err := range []error{err, os.Remove(s.path("chains", hashName("new")+".json")), os.Mkdir(filepath.Join(tree.Dir, "work"), 0o700),
		os.Link(filepath.Join(s.activeDir("c"), "lock"), filepath.Join(tree.Dir, "lock")),
		os.WriteFile(s.path("children", hashName("base"), hashName("c")), nil, 0o600),
		os.WriteFile(filepath.Join(tree.Dir, "record.json"), before, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestMoveKilledBeforeItsRows(t *testing.T) {
	want := map[string]string{"a": "a1", "x": "x1"}
	for what, do := range map[string]func(*Store) error{
		"nothing":     func(*Store) error { return nil },
		"sweep trees": func(s *Store) error { return s.sweepTrees() },
		"prune":       func(s *Store) error { return s.Sweep(ctx) },
		"repair": func(s *Store) error {
			done, err := s.Repair(ctx, map[string]Claim{"c": {Parent: "base"}})
			if len(done) > 0 {
				t.Errorf("repair: %q", done)
			}
			return err
		},
		"commit": func(s *Store) error {
			c, err := s.Capture(ctx, "c")
			if err == nil {
				if is, uerr := c.Untouched(); !is || uerr != nil || c.Parent != "new" {
					t.Errorf("captured again, it stands on %s, untouched %v, %v", c.Parent, is, uerr)
				}
				err = c.Close()
			}
			return err
		},
		"removing its base": func(s *Store) error {
			if err := s.Remove(ctx, "base"); !errors.Is(err, ErrInUse) {
				t.Errorf("remove base: %v", err)
			}
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := half(t)
			if is, err := s.StandsOn(ctx, "c", "base"); err != nil || !is {
				t.Errorf("it stands on its base: %v, %v", is, err)
			}
			if uppers, _, err := changesOf(s, "c", "base"); err != nil || len(uppers) != 2 {
				t.Errorf("above its base it has %q, %v", uppers, err)
			}
			noFindings(t, s, "before")
			if err := do(s); err != nil {
				t.Fatal(err)
			}
			shows(t, s, "c", want)
			noFindings(t, s, "after")
			if what == "prune" || what == "repair" || what == "commit" {
				if trees, err := s.Chain(ctx, "new"); err != nil || len(trees) != 2 {
					t.Errorf("its rows are not written: %v, %v", trees, err)
				}
				takeAway(t, s, "c", "new", "base")
				return
			}
			takeAway(t, s, "c", "base")
		})
	}
}

// Somebody makes the same layer after a commit was killed: the snapshot keeps the tree that was its upper.
func TestMoveKilledAndMadeByAnother(t *testing.T) {
	want := map[string]string{"a": "a1", "x": "x1"}
	for what, parent := range map[string]string{"the same snapshot": "base", "the layer on another": ""} {
		t.Run(what, func(t *testing.T) {
			s := half(t)
			name := "new"
			if parent == "" {
				name = "alone"
			}
			written(t, s, "d", parent, want)
			if _, err := move(t, s, "d", name, "diff-c"); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.Sweep(ctx); err != nil {
					t.Fatal(err)
				}
				shows(t, s, "c", want)
				shows(t, s, "d", want)
			}
			c, err := s.Capture(ctx, "c")
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if trees, err := s.Chain(ctx, "new"); err != nil || len(trees) != 2 {
				t.Errorf("what it stands on has the trees %v, %v", trees, err)
			}
			noFindings(t, s, "afterwards")
			keys := []string{"c", "d", "new", "base"}
			if name != "new" {
				keys = append(keys, name)
			}
			takeAway(t, s, keys...)
		})
	}
}

// Sweeps go on while snapshots are committed, and take nothing from them.
func TestMoveWhileSwept(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	stop, swept := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				swept <- nil
				return
			default:
				if err := s.sweepPublished(); err != nil {
					swept <- err
					return
				}
			}
		}
	}()
	keys := []string{}
	for i := range 40 {
		key := strconv.Itoa(i)
		written(t, s, key, "base", map[string]string{"x": key})
		if _, err := move(t, s, key, "new"+key, "diff"+key); err != nil {
			t.Errorf("commit %d: %v", i, err)
			break
		}
		keys = append(keys, key, "new"+key)
	}
	close(stop)
	if err := <-swept; err != nil {
		t.Error(err)
	}
	noFindings(t, s, "afterwards")
	takeAway(t, s, append(keys, "base")...)
}

// The snapshot is there with another tree, one that was settled: the upper stays where it is.
func TestMoveOntoAnother(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	addLayer(t, s, "new", "base", map[string]string{"x": "x1"})
	written(t, s, "c", "base", map[string]string{"x": "x1"})
	if _, err := move(t, s, "c", "new", "diff-c"); !errors.Is(err, ErrExists) {
		t.Errorf("a snapshot that is there: %v", err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	shows(t, s, "c", map[string]string{"a": "a0", "x": "x1"})
	noFindings(t, s, "afterwards")
	takeAway(t, s, "c", "new", "base")
}

// The record of a snapshot that was committed is made again for what it stands on now.
func TestRepairOfAMovedOne(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	written(t, s, "c", "base", map[string]string{"x": "x1"})
	if _, err := move(t, s, "c", "new", "diff-c"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.activeDir("c"), "record.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Repair(ctx, map[string]Claim{"c": {Parent: "base"}}); err != nil {
		t.Fatal(err)
	}
	shows(t, s, "c", map[string]string{"a": "a0", "x": "x1"})
	noFindings(t, s, "afterwards")
}

// Commit, killed when all but the removal of its key was done, is done when it is given again.
func TestCommitAgain(t *testing.T) {
	s := half(t)
	if err := s.Commit(ctx, "new", "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the key is still there: %v", err)
	}
	noFindings(t, s, "afterwards")
	takeAway(t, s, "new", "base")
}

func changesOf(s *Store, key, base string) (uppers, lowers []string, err error) {
	var l Lease
	defer l.Close()
	return s.Changes(context.Background(), &l, key, base)
}

// Whoever looks at what a snapshot has above its base sees no other directories under the paths that he was given.
func TestChangesHoldOffCommits(t *testing.T) {
	s, ctx := checkedStore(t), context.Background()
	var l Lease
	if _, _, err := s.Changes(ctx, &l, "a", "top"); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if c, err := s.Capture(soon, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("captured: %v, %v", c, err)
	}
	l.Close()
	c, err := s.Capture(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, _, err := s.Changes(ctx, &l, "nobody", "top"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a snapshot that is not there: %v", err)
	}
}
