package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/layerctl/layerctl/snapshot"
)

// made makes a container that stands on a directory, and lets go of it.
func made(t *testing.T, s *Store, name string) *Container {
	t.Helper()
	r, err := s.create(context.Background(), CreateOptions{Name: name, RootFS: t.TempDir(), Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.RunDir); err != nil { // as if it had ended
		t.Fatal(err)
	}
	r.lock.Close()
	c, err := s.Lookup(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// named are the links in names/.
func named(t *testing.T, s *Store) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "names"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestRename(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	one, two := made(t, s, "one"), made(t, s, "two")
	for name, want := range map[string]error{"two": ErrExists, "one": ErrInvalid, "": ErrInvalid, "a": ErrInvalid, "a b": ErrInvalid, "../x": ErrInvalid, "-x": ErrInvalid,
		"\x1b[2J": ErrInvalid, strings.Repeat("x", 201): ErrInvalid} {
		if err := s.Rename(ctx, one, name); !errors.Is(err, want) {
			t.Errorf("to %q: %v", name, err)
		}
	}
	if got := named(t, s); !slices.Equal(got, []string{"one", "two"}) {
		t.Fatalf("after refusals: %q", got)
	}
	if err := s.Rename(ctx, one, "three"); err != nil {
		t.Fatal(err)
	}
	if got := named(t, s); !slices.Equal(got, []string{"three", "two"}) {
		t.Errorf("names: %q", got)
	}
	if _, err := s.Lookup(ctx, "one"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
	c, err := s.Lookup(ctx, "three")
	if err != nil || c.ID != one.ID || c.Name != "three" {
		t.Errorf("the new name: %+v, %v", c, err)
	}
	// What we knew of it is old, and it goes all the same; so does a rename of what we knew.
	if err := s.Rename(ctx, one, "four"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ctx, one, false); err != nil {
		t.Error(err)
	}
	if list, err := s.List(ctx, true); err != nil || len(list) != 1 || !slices.Equal(named(t, s), []string{"two"}) {
		t.Errorf("after its removal: %d, %v, %q", len(list), err, named(t, s))
	}
	if err := s.Rename(ctx, one, "five"); !errors.Is(err, ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	if err := s.Remove(ctx, two, false); err != nil {
		t.Error(err)
	}
}

// A name that leads to a container of another name is nobody's.
func TestStrayName(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	one := made(t, s, "one")
	stray := func(name string) {
		t.Helper()
		if err := os.Symlink("../"+one.ID, filepath.Join(s.dir, "names", name)); err != nil {
			t.Fatal(err)
		}
	}
	stray("stray")
	if _, err := s.Lookup(ctx, "stray"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a look-up: %v", err)
	}
	made(t, s, "stray")
	stray("again")
	if err := s.Rename(ctx, one, "again"); err != nil {
		t.Error(err)
	}
	stray("third")
	if list, err := s.List(ctx, true); err != nil || len(list) != 2 || !slices.Equal(named(t, s), []string{"again", "stray"}) {
		t.Errorf("%d containers, %v, called %q", len(list), err, named(t, s))
	}
}

// Of many who want one name, one gets it, and each container has one name in the end.
func TestRenamesAtOnce(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	var all []*Container
	for i := range 6 {
		all = append(all, made(t, s, fmt.Sprintf("c%d", i)))
	}
	for round := range 8 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := 0
		for _, c := range all[:4] {
			wg.Go(func() {
				err := s.Rename(ctx, c, fmt.Sprintf("round%d", round))
				if err == nil {
					mu.Lock()
					got++
					mu.Unlock()
				} else if !errors.Is(err, ErrExists) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := s.List(ctx, true); err != nil {
					t.Error(err)
				}
			})
		}
		// One is given two names at once.
		for _, name := range []string{"left", "right"} {
			wg.Go(func() {
				if err := s.Rename(ctx, all[4], fmt.Sprintf("%s%d", name, round)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got != 1 {
			t.Fatalf("round %d: %d containers got the name", round, got)
		}
		list, err := s.List(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, c := range list {
			want = append(want, c.Name)
		}
		slices.Sort(want)
		if !slices.Equal(named(t, s), want) || len(want) != 6 {
			t.Fatalf("round %d: names %q, records %q", round, named(t, s), want)
		}
	}
}

// A rename does not bring a container back that is removed meanwhile.
func TestRenameAgainstRemove(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	for i := range 20 {
		c := made(t, s, fmt.Sprintf("c%d", i))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Rename(ctx, c, fmt.Sprintf("n%d", i)); err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := s.Remove(ctx, c, true); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if list, err := s.List(ctx, true); err != nil || len(list) != 0 {
			t.Fatalf("%d: %d are left, %v", i, len(list), err)
		}
		if left := named(t, s); len(left) != 0 {
			t.Fatalf("%d: names %q are left", i, left)
		}
		if ids, _ := s.ids(); len(ids) != 0 {
			t.Fatalf("%d: directories %q are left", i, ids)
		}
	}
}

// The copy of a record that its rewriting was broken off after does not take somebody's name when it is needed.
func TestRepairAfterBrokenRename(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	one := made(t, s, "one")
	config := one.Config
	config.Name = "taken"
	b, err := seal(one.ID, "config.json", config)
	if err == nil {
		err = s.snaps.Relabel(ctx, one.Key(), func(labels map[string]string) error { labels[copyLabel] = string(b); return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	two := made(t, s, "taken")
	if err := os.WriteFile(s.path(one.ID, "config.json"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Repair(ctx); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]string{"one": one.ID, "taken": two.ID} {
		if c, err := s.Lookup(ctx, name); err != nil || c.ID != id {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSetRestart(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	c := made(t, s, "one")
	if err := s.SetRestart(ctx, c, "sometimes"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if err := s.SetRestart(ctx, c, "no"); err != nil {
		t.Error(err)
	}
	now, err := s.Lookup(ctx, "one")
	if err != nil || now.Restart != (RestartPolicy{}) {
		t.Errorf("%+v, %v", now, err)
	}
	info, err := s.snaps.Stat(ctx, c.Key())
	b, rerr := os.ReadFile(s.path(c.ID, "config.json"))
	if err != nil || rerr != nil || info.Labels[copyLabel] != string(b) {
		t.Errorf("the copy is another: %v, %v\n%s\n%s", err, rerr, info.Labels[copyLabel], b)
	}
	if err := s.snaps.Relabel(ctx, "nobody", func(map[string]string) error { return nil }); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("labels of what is not there: %v", err)
	}
}

// A name that a crash left of a container that was never made to the end is free, for a new one and for another.
func TestNameOfHalfMade(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	for range 2 {
		id := newID()
		if err := errors.Join(os.Mkdir(s.path(id), 0o700), os.Symlink("../"+id, filepath.Join(s.dir, "names", "half"))); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Lookup(ctx, "other"); err == nil {
			if err := s.Remove(ctx, made(t, s, "half"), false); err != nil {
				t.Error(err)
			}
			if err := s.Rename(ctx, c, "half"); err != nil {
				t.Error(err)
			}
			continue
		}
		made(t, s, "other")
		if c, err := s.Lookup(ctx, "other"); err != nil || s.Rename(ctx, c, "half") != nil || s.Rename(ctx, c, "other") != nil {
			t.Errorf("a rename to it: %v", err)
		}
	}
	if _, err := s.List(ctx, true); err != nil || !slices.Equal(named(t, s), []string{"half"}) {
		t.Errorf("%v, names %q", err, named(t, s))
	}
}

// A check that comes upon a rename finds nothing wrong, and what is wrong it finds.
func TestCheckAgainstRename(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	c, other := made(t, s, "one"), made(t, s, "other")
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 30 {
			if err := s.Rename(ctx, c, fmt.Sprintf("name%d", i)); err != nil {
				t.Error(err)
			}
		}
	})
	for checking := true; checking; {
		select {
		case <-done:
			checking = false
		default:
		}
		if r, err := s.Check(ctx); err != nil || len(r.Findings) > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	wg.Wait()
	if err := os.Remove(filepath.Join(s.dir, "names", "name29")); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Check(ctx); err != nil || len(r.Findings) != 1 || r.Findings[0].Container != "name29" {
		t.Errorf("a lost name: %+v, %v", r, err)
	}
	if _, err := s.Repair(ctx); err != nil {
		t.Fatal(err)
	}
	if got := named(t, s); !slices.Equal(got, []string{"name29", other.Name}) {
		t.Errorf("after a repair: %q", got)
	}
}
