package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func never(string) bool { return false }

// What a lease holds stays, although nothing names it; what nobody holds goes.
func TestLease(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	addLayer(t, s, "top", "base", map[string]string{"b": "b0"})
	var lease Lease
	if err := s.AdoptChain(ctx, &lease, []ChainLayer{{Name: "base"}, {Name: "top", Parent: "base"}}); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.RemoveChain(ctx, "top", never); err != nil || len(removed) != 0 {
		t.Errorf("removed %q, %v, although a lease holds the chain", removed, err)
	}
	if err := s.Remove(ctx, "top"); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove of a chain that a lease holds: %v, want ErrInUse", err)
	}
	lease.Close()

	trees, err := s.LookupTrees(ctx, "diff-top")
	if err != nil || len(trees) != 1 {
		t.Fatal(trees, err)
	}
	if err := s.Hold(&lease, trees[0]); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.RemoveChain(ctx, "top", never); err != nil || fmt.Sprint(removed) != "[top base]" {
		t.Errorf("removed %q, %v", removed, err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirNames(s.path("trees")); len(names) != 1 || names[0] != trees[0].ID {
		t.Errorf("trees %q are left, want the one that is held", names)
	}
	if found, err := s.LookupTrees(ctx, "diff-top"); err != nil || len(found) != 1 {
		t.Errorf("the row of a tree that is held went: %v, %v", found, err)
	}
	lease.Close()
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirNames(s.path("trees")); len(names) != 0 {
		t.Errorf("trees %q are left", names)
	}
	// The number is another's by now; whoever looked the old one up must not take the new one for it.
	addLayer(t, s, "first", "", map[string]string{"c": "c0"})
	addLayer(t, s, "other", "", map[string]string{"c": "c0"})
	if now, err := s.LookupTrees(ctx, "diff-other"); err != nil || now[0].ID != trees[0].ID {
		t.Fatalf("trees %v, %v: the test needs the number to be used again", now, err)
	}
	if err := s.Hold(&lease, trees[0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("a tree that was replaced is held: %v", err)
	}
	lease.Close()
}

// Two chains with one tree: it goes with the second. A store whose rows were written before there was an index of that makes it.
func TestSharedTree(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "one", "", map[string]string{"a": "a0"})
	trees, err := s.LookupTrees(ctx, "diff-one")
	if err != nil {
		t.Fatal(err)
	}
	var lease Lease
	defer lease.Close()
	if err := s.AdoptChain(ctx, &lease, []ChainLayer{{Name: "two", Tree: trees[0]}}); err != nil {
		t.Fatal(err)
	}
	lease.Close()
	dropUsers(t, s)
	if _, err := s.RemoveChain(ctx, "one", never); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirNames(s.path("trees")); len(names) != 1 {
		t.Errorf("trees %q are left, want the one that the other chain has", names)
	}
	if _, err := s.RemoveChain(ctx, "two", never); err != nil {
		t.Fatal(err)
	}
	if err := s.Tidy(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"trees", "chains", "children", "trash"} {
		if names, _ := dirNames(s.path(dir)); len(names) != 0 {
			t.Errorf("%s holds %q", dir, names)
		}
	}
}

// Whatever a layer had, it can be deleted: deep, read-only, and not through a link or a mount.
func TestDelete(t *testing.T) {
	s := newStore(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	canary := filepath.Join(outside, "canary")
	if err := os.WriteFile(canary, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	make := func() string {
		dir := s.path("staging", "x")
		fd := unix.AT_FDCWD
		name := dir
		for range 1000 { // more than PATH_MAX
			if err := unix.Mkdirat(fd, name, 0o500); err != nil {
				t.Fatal(err)
			}
			next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Symlinkat(outside, next, "link"); err != nil {
				t.Fatal(err)
			}
			if fd != unix.AT_FDCWD {
				unix.Close(fd)
			}
			fd, name = next, "deep"
		}
		unix.Close(fd)
		return dir
	}
	if err := s.Discard(make()); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirNames(s.path("trash")); len(names) != 0 {
		t.Errorf("trash: %q", names)
	}
	// On the spot only a little is deleted.
	dir := make()
	d := deleter{trash: s.path("trash"), entries: 50, bytes: 1 << 20}
	if err := d.delete(dir); !errors.Is(err, errEnough) {
		t.Errorf("2,000 entries were deleted on the spot: %v", err)
	}
	if err := os.Rename(dir, s.path("trash", "x")); err != nil {
		t.Fatal(err)
	}
	mounted := s.path("trash", "y", "mounted")
	if err := os.MkdirAll(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, mounted, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err := s.EmptyTrash(ctx)
	if err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("a mount in the trash: %v", err)
	}
	if err := unix.Unmount(mounted, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := s.EmptyTrash(ctx); err != nil {
		t.Error(err)
	}
	if names, _ := dirNames(s.path("trash")); len(names) != 0 {
		t.Errorf("trash: %q", names)
	}
	if _, err := os.Lstat(canary); err != nil {
		t.Error(err)
	}
}

func dropUsers(t *testing.T, s *Store) {
	t.Helper()
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketUsers) }); err != nil {
		t.Fatal(err)
	}
}
