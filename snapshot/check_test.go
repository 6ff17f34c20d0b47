package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// checkedStore has the chain base, base top, and the active snapshot "a" on top.
func checkedStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var lease Lease
	defer lease.Close()
	var trees []*NewTree
	for _, diffID := range []string{"sha256:base", "sha256:top"} {
		st, err := s.NewStaging()
		if err != nil {
			t.Fatal(err)
		}
		defer st.Discard()
		for _, name := range []string{"fs/" + diffID, "index"} {
			path := filepath.Join(st.Path(), name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		trees = append(trees, &NewTree{Staging: st, DiffID: diffID})
	}
	if err := s.PutTrees(ctx, &lease, trees); err != nil {
		t.Fatal(err)
	}
	if err := s.AdoptChain(ctx, &lease, []ChainLayer{{Name: "base", Tree: trees[0].Tree}, {Name: "top", Parent: "base", Tree: trees[1].Tree}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "a", "top"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.initLower(); err != nil {
		t.Fatal(err)
	}
	return s
}

func findings(t *testing.T, s *Store) string {
	t.Helper()
	r, err := s.Check(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range r.Findings {
		file := f.File
		if file == "" {
			file = "tree " + f.Tree + " " + f.Path
		}
		lines = append(lines, file+": "+f.Problem)
	}
	return strings.Join(lines, "\n")
}

func TestCheckAndRepair(t *testing.T) {
	top, a := hashName("top"), hashName("a")
	change := func(s *Store, bucket []byte, key string, value []byte) error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			if value == nil {
				return tx.Bucket(bucket).Delete([]byte(key))
			}
			return tx.Bucket(bucket).Put([]byte(key), value)
		})
	}
	flip := func(path string, from, to string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o600)
	}
	for _, row := range []struct {
		name   string
		damage func(s *Store) error
		want   string // in the findings
		stays  bool   // Repair alone cannot mend it
	}{
		{"nothing", func(*Store) error { return nil }, "", false},
		{"a row's bit", func(s *Store) error {
			return s.db.Update(func(tx *bbolt.Tx) error {
				b := tx.Bucket(bucketSnapshots)
				return b.Put([]byte("top"), []byte(strings.Replace(string(b.Get([]byte("top"))), `"tree":"2"`, `"tree":"1"`, 1)))
			})
		}, "meta.db: the row of snapshot top is damaged", false},
		{"a row without a checksum", func(s *Store) error {
			return change(s, bucketSnapshots, "base", []byte(`{"tree":"1","diffID":"sha256:base"}`))
		}, "the row of snapshot base has no checksum", false},
		{"a row that is gone", func(s *Store) error { return change(s, bucketSnapshots, "base", nil) }, "snapshot top stands on base, which is not there", false},
		{"a child that is not listed", func(s *Store) error { return change(s, bucketChildren, "base\x00top", nil) }, "it does not say that top stands on base", false},
		{"a child that is none", func(s *Store) error { return change(s, bucketChildren, "base\x00other", []byte{}) }, "it says that other stands on base, which is not so", false},
		{"a tree that is not listed", func(s *Store) error { return change(s, bucketTrees, "sha256:top\x00", nil) }, "layer sha256:top of snapshot top has no row for its tree 2", false},
		{"a tree's row", func(s *Store) error { return change(s, bucketTrees, "sha256:none\x00", []byte(`{"id":"77"}`)) }, "the row of tree 77 of layer sha256:none has no tree", false},
		{"a user that is none", func(s *Store) error { return change(s, bucketUsers, "9\x00top", []byte{}) }, "it says that top has the tree 9, which is not so", false},
		{"the database", func(s *Store) error { return os.Truncate(s.path("meta.db"), 5000) }, "meta.db: it was cut to 1 of ", false},
		{"no database", func(s *Store) error { return os.Remove(s.path("meta.db")) }, "meta.db: is not there", false},
		{"a chain's file", func(s *Store) error { return flip(s.path("chains", top+".json"), `"2"`, `"1"`) }, "chains/" + top + ".json: does not say what the row of top says", false},
		{"a link to a parent", func(s *Store) error { return os.Remove(s.path("children", top, a)) }, "children/" + top + "/" + a + ": is not there", false},
		{"a record's bit", func(s *Store) error { return flip(s.path("active", a, "record.json"), `"2"`, `"1"`) }, "active/" + a + "/record.json: is damaged", false},
		{"an upper", func(s *Store) error { return os.RemoveAll(s.path("active", a, "fs")) }, "active/" + a + "/fs: is not there: what was written in it is lost", true},
		{"a tree", func(s *Store) error { return os.RemoveAll(s.path("trees", "2")) }, "tree 2 .: the tree is not there", true},
		{"an index", func(s *Store) error { return flip(s.path("trees", "2", "index"), "i", "I") }, "trees/2/index: is damaged", true},
		{"no index", func(s *Store) error { return os.Remove(s.path("trees", "2", "index")) }, "trees/2/index: is missing", true},
		{"needs from nowhere", func(s *Store) error { return os.WriteFile(s.path("trees", "2", "needs"), nil, 0o600) }, "trees/2/needs: should not be there", true},
		{"a stub", func(s *Store) error { return os.Chmod(s.path("trees/init/fs/etc"), 0o700) }, "trees/init/fs/etc: mode 0700, was 0755", false},
		{"a stub more", func(s *Store) error { return os.Mkdir(s.path("trees/init/fs/etc/x"), 0o700) }, "trees/init/fs/etc/x: should not be there", false},
		{"a stub less", func(s *Store) error { return os.RemoveAll(s.path("trees/init/fs/etc")) }, "trees/init/fs/etc: is missing", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := checkedStore(t)
			if err := row.damage(s); err != nil {
				t.Fatal(err)
			}
			got := findings(t, s)
			if (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Fatalf("found %q, want %q", got, row.want)
			}
			done, err := s.Repair(context.Background(), map[string]Claim{"a": {Parent: "top"}})
			if err != nil || (len(done) == 0) != (row.want == "" || row.stays) {
				t.Errorf("repaired %q, %v", done, err)
			}
			if got := findings(t, s); (got != "") != row.stays {
				t.Errorf("after the repair: %s", got)
			}
			if info, err := s.Stat(context.Background(), "a"); err != nil || info.Parent != "top" {
				t.Errorf("the active snapshot: %+v %v", info, err)
			}
		})
	}
}

// A root that is opaque hides the layers below it from overlayfs and from the record, and that is no finding.
func TestCheckOpaqueRoot(t *testing.T) {
	s, ctx := checkedStore(t), context.Background()
	if err := unix.Lsetxattr(s.path("trees", "2", "fs"), opaqueXattrs[0], []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "b", "top"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "a"); err != nil { // made before
		t.Fatal(err)
	}
	if rec, err := readRecordFile(s.activeDir("b")); err != nil || len(rec.Trees) != 1 {
		t.Fatalf("the record names the trees %q, %v", rec.Trees, err)
	}
	if got := findings(t, s); got != "" {
		t.Error(got)
	}
	if err := os.Remove(filepath.Join(s.activeDir("b"), "record.json")); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Repair(ctx, map[string]Claim{"b": {Parent: "top"}}); err != nil || len(done) != 1 {
		t.Errorf("repaired %q, %v", done, err)
	}
	if got := findings(t, s); got != "" {
		t.Error(got)
	}
}

// An active snapshot that has lost its record is not taken for one that was never finished, as long as somebody knows it; and it is made
// again of what he knows.
func TestLostRecord(t *testing.T) {
	s, ctx := checkedStore(t), context.Background()
	keys, asked := []string{"other", "a"}, error(nil)
	s.ClaimedBy(func() ([]string, error) { return keys, asked })
	if err := s.Create(ctx, "mine", "top"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "mine"} {
		if left := s.Remains(key); !left.Upper || left.Written {
			t.Errorf("%s: %+v", key, left)
		}
		if err := os.WriteFile(filepath.Join(s.activeDir(key), "fs", "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if left := s.Remains(key); !left.Upper || !left.Written {
			t.Errorf("%s: %+v", key, left)
		}
		if err := os.Remove(filepath.Join(s.activeDir(key), "record.json")); err != nil {
			t.Fatal(err)
		}
	}
	asked = errors.New("cannot be asked")
	if err := s.Sweep(ctx); !errors.Is(err, asked) {
		t.Errorf("swept without knowing whose: %v", err)
	}
	asked = nil
	actives, err := s.Actives()
	if err != nil || len(actives) != 2 {
		t.Fatalf("%+v, %v", actives, err)
	}
	for _, a := range actives {
		if a.Path == s.activeDir("a") && (a.Key != "a" || a.Leftover) || a.Path == s.activeDir("mine") && (a.Key != "" || !a.Leftover) {
			t.Errorf("%+v", a)
		}
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if left := s.Remains("a"); !left.Upper || !left.Written || left.Labels != nil {
		t.Error("what somebody claims was swept")
	}
	if s.Remains("mine").Upper {
		t.Error("what nobody claims was not swept")
	}
	if err := s.Remove(ctx, "top"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove what it stands on: %v", err)
	}
	claim := Claim{Parent: "top", Labels: map[string]string{"l": "v"}}
	if done, err := s.Repair(ctx, map[string]Claim{"a": claim}); err != nil || len(done) != 1 {
		t.Errorf("repaired %q, %v", done, err)
	}
	if info, err := s.Stat(ctx, "a"); err != nil || info.Parent != "top" || info.Labels["l"] != "v" || s.Remains("a").Labels["l"] != "v" {
		t.Errorf("%+v, %v", info, err)
	}
	if err := os.RemoveAll(filepath.Join(s.activeDir("a"), "work")); err != nil {
		t.Fatal(err)
	}
	if got := findings(t, s); !strings.Contains(got, "/work: is not there") {
		t.Errorf("without work: %s", got)
	}
	if done, err := s.Repair(ctx, map[string]Claim{"a": claim}); err != nil || len(done) != 1 || findings(t, s) != "" {
		t.Errorf("repaired %q, %v: %s", done, err, findings(t, s))
	}
	lock, err := lockActive(s.activeDir("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(ctx, "a"); !errors.Is(err, ErrInUse) {
		t.Errorf("abandon what is mounted: %v", err)
	}
	lock.Close()
	for range 2 {
		if err := s.Abandon(ctx, "a"); err != nil || !gone(s.activeDir("a")) {
			t.Errorf("abandon: %v", err)
		}
	}
	if err := s.Remove(ctx, "top"); err != nil {
		t.Errorf("remove what it stood on: %v", err)
	}
}

func TestReplaceTree(t *testing.T) {
	s := checkedStore(t)
	ctx := context.Background()
	fresh := func() *Staging {
		st, err := s.NewStaging()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(st.Path(), "fs", "new"), 0o755); err != nil {
			t.Fatal(err)
		}
		return st
	}
	trees, err := s.Chain(ctx, "top")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := lockActive(s.activeDir("a"))
	if err != nil {
		t.Fatal(err)
	}
	st := fresh()
	if err := s.ReplaceTree(ctx, trees[1], st); !errors.Is(err, ErrInUse) {
		t.Errorf("below a mount: %v", err)
	}
	lock.Close()
	for range 2 { // the second time it is gone
		if err := s.ReplaceTree(ctx, trees[1], st); err != nil {
			t.Error(err)
		}
		if err := st.Discard(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(trees[1].Dir, "fs", "new")); err != nil {
			t.Error(err)
		}
		if names, err := dirNames(s.path("staging")); err != nil || len(names) > 0 {
			t.Errorf("left in staging: %q %v", names, err)
		}
		if got := findings(t, s); got != "" {
			t.Error(got)
		}
		if err := os.RemoveAll(trees[1].Dir); err != nil {
			t.Fatal(err)
		}
		st = fresh()
	}
	st.Discard()
}
