package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var ctx = context.Background()

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addLayer commits a chain ID over parent whose tree holds the given files.
func addLayer(t testing.TB, s *Store, name, parent string, files map[string]string) {
	t.Helper()
	st, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(st.Path(), "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if content == "whiteout" {
			err = unix.Mknod(path, unix.S_IFCHR, 0)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n := &NewTree{Staging: st, DiffID: "diff-" + name, Usage: Usage{Inodes: 1, Size: 4096}}
	var lease Lease
	defer lease.Close()
	if err := s.PutTrees(ctx, &lease, []*NewTree{n}); err != nil {
		t.Fatal(err)
	}
	if err := s.AdoptChain(ctx, &lease, []ChainLayer{{Name: name, Parent: parent, Tree: n.Tree}}); err != nil {
		t.Fatal(err)
	}
	if err := st.Discard(); err != nil {
		t.Fatal(err)
	}
}

// read reads a file beneath a detached mount.
func read(t testing.TB, r *Root, name string) (string, error) {
	t.Helper()
	fd, err := unix.Openat(int(r.FD.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.String(), err
}

func write(t testing.TB, r *Root, name, content string) {
	t.Helper()
	fd, err := unix.Openat(int(r.FD.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
}

func TestAttach(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		s := newStore(t)
		addLayer(t, s, "base", "", map[string]string{"a": "a0", "b": "b0", "gone": "x"})
		addLayer(t, s, "top", "base", map[string]string{"a": "a1", "gone": "whiteout"})
		if err := s.Create(ctx, "c", "top", WithVolatile()); err != nil {
			t.Fatal(err)
		}
		r, err := s.Attach(ctx, "c", AttachOptions{Init: true, Volatile: true, Legacy: legacy})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"a": "a1", "b": "b0", "etc/hosts": ""} {
			if got, err := read(t, r, name); err != nil || got != want {
				t.Errorf("legacy=%v: %s: %q, %v; want %q", legacy, name, got, err, want)
			}
		}
		if _, err := read(t, r, "gone"); err != unix.ENOENT {
			t.Errorf("legacy=%v: the whiteout shows what it hides: %v", legacy, err)
		}
		write(t, r, "b", "b1")
		if _, err := s.Attach(ctx, "c", AttachOptions{}); !errors.Is(err, ErrInUse) {
			t.Errorf("a second mount of the upper: %v, want ErrInUse", err)
		}
		if err := s.Remove(ctx, "c"); !errors.Is(err, ErrInUse) {
			t.Errorf("Remove of a mounted snapshot: %v, want ErrInUse", err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(s.activeDir("c"), "fs", "b")); err != nil || string(b) != "b1" {
			t.Errorf("the upper holds %q, %v", b, err)
		}
		if err := s.Remove(ctx, "c"); err != nil {
			t.Fatal(err)
		}
		if info, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(info), s.root) {
			t.Error("a mount is left")
		}
	}
}

func TestOddPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep,er:", 20), strings.Repeat(`b\ck "quoted" `, 10), "\xff\xfe")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	if err := s.Create(ctx, "c", "base"); err != nil {
		t.Fatal(err)
	}
	r, err := s.Attach(ctx, "c", AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := read(t, r, "a"); err != nil || got != "a0" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLifeOfASnapshot(t *testing.T) {
	s := newStore(t)
	if _, err := s.Prepare(ctx, "one", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(ctx, "one", ""); !errors.Is(err, ErrExists) {
		t.Errorf("a key twice: %v", err)
	}
	if _, err := s.Prepare(ctx, "two", "nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such parent: %v", err)
	}
	_, upper, err := s.Lowers(ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "f"), []byte("first"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "A", "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "one"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the key is still there: %v", err)
	}
	if _, err := s.Prepare(ctx, "two", "A"); err != nil {
		t.Fatal(err)
	}
	if _, upper, err = s.Lowers(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "g"), []byte("second"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "A", "two"); !errors.Is(err, ErrExists) {
		t.Errorf("a name twice: %v", err)
	}
	if _, err := os.Stat(filepath.Join(upper, "g")); err != nil {
		t.Errorf("the refused commit took the upper: %v", err)
	}
	if err := s.Remove(ctx, "A"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove a parent: %v", err)
	}
	if err := s.Commit(ctx, "B", "two"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "A"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove a parent of a committed one: %v", err)
	}
	mounts, err := s.View(ctx, "v", "A")
	if err != nil || len(mounts) != 1 || mounts[0].Type != "bind" || !slices.Contains(mounts[0].Options, "ro") {
		t.Errorf("view of one layer: %v, %v", mounts, err)
	}
	if err := s.Commit(ctx, "C", "v"); !errors.Is(err, ErrInvalid) {
		t.Errorf("commit of a view: %v", err)
	}
	var walked []string
	if err := s.Walk(ctx, func(i Info) error { walked = append(walked, i.Name+" "+string(i.Kind)+" "+i.Parent); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"A Committed ", "B Committed A", "v View A"}; !slices.Equal(walked, want) {
		t.Errorf("walked %q, want %q", walked, want)
	}
	if u, err := s.Usage(ctx, "A"); err != nil || u.Inodes != 2 || u.Size < 4096 {
		t.Errorf("usage %+v, %v", u, err)
	}
	for _, key := range []string{"v", "B", "A"} {
		if err := s.Remove(ctx, key); err != nil {
			t.Errorf("remove %s: %v", key, err)
		}
	}
	for _, dir := range []string{"trees", "active", "staging", "trash", "children", "chains"} {
		if names, _ := dirNames(s.path(dir)); len(names) > 0 {
			t.Errorf("%s still holds %q", dir, names)
		}
	}
}

// A crash between any two steps leaves what Sweep deletes, and a lost children directory is made again.
func TestSweepAndHeal(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"a": "a0"})
	addLayer(t, s, "top", "base", map[string]string{"b": "b0"})
	for _, left := range []string{"staging/dead/fs/x", "trees/77/fs/x", "active/half/fs/x", "trash/old/x"} {
		if err := os.MkdirAll(s.path(left), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What a kill leaves of a volatile snapshot between making its record and writing it, and what a power cut does.
	for name, record := range map[string]string{"active/empty/record.json": "", "active/zeroes/record.json": "\x00\x00\x00"} {
		if err := os.MkdirAll(s.path(name, "../fs"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.path(name), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := s.NewStaging()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Discard()
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"staging/dead", "trees/77", "active/half", "active/empty", "active/zeroes", "trash/old"} {
		if _, err := os.Lstat(s.path(left)); err == nil {
			t.Errorf("%s is left", left)
		}
	}
	if _, err := os.Lstat(held.Path()); err != nil {
		t.Errorf("a staging in use was swept: %v", err)
	}
	if err := os.RemoveAll(s.path("children", hashName("top"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path("chains", hashName("top")+".json")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "c", "top"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemoveChain(ctx, "top", func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "top"); err != nil {
		t.Errorf("a snapshot with a container on it was removed: %v", err)
	}
	if err := s.Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemoveChain(ctx, "top", func(name string) bool { return name == "base" }); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirNames(s.path("trees")); !slices.Equal(names, []string{"1"}) {
		t.Errorf("trees %q are left, want the base's alone", names)
	}
}

func TestTooManyLowers(t *testing.T) {
	s := newStore(t)
	dirs := make([]string, MaxLowers+1)
	for i := range dirs {
		dirs[i] = t.TempDir()
	}
	if err := s.Create(ctx, "c", "", WithLowers(dirs)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Attach(ctx, "c", AttachOptions{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("%d lowers: %v", len(dirs), err)
	}
	if err := s.Create(ctx, "d", "", WithLowers(dirs[:MaxLowers])); err != nil {
		t.Fatal(err)
	}
	for _, o := range []AttachOptions{{}, {Init: true}} {
		r, err := s.Attach(ctx, "d", o)
		if err != nil {
			t.Fatalf("%d lowers, %+v: %v", MaxLowers, o, err)
		}
		r.Close()
	}
}

func TestCheckFormat(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	for range 2 {
		if err := CheckFormat(root); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "format"), []byte("layerctl 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CheckFormat(root); !errors.Is(err, ErrFormat) {
		t.Errorf("a newer format: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "letter.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CheckFormat(other); !errors.Is(err, ErrNotStore) {
		t.Errorf("somebody's directory: %v", err)
	}
}

// BenchmarkStart is what a container's start and end cost the store.
func BenchmarkStart(b *testing.B) {
	s := newStore(b)
	addLayer(b, s, "base", "", map[string]string{"a": "a0"})
	for b.Loop() {
		if err := s.Create(ctx, "c", "base", WithVolatile()); err != nil {
			b.Fatal(err)
		}
		r, err := s.Attach(ctx, "c", AttachOptions{Init: true, Volatile: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		if err := s.Remove(ctx, "c"); err != nil {
			b.Fatal(err)
		}
	}
}

// overlayfs asks no layer's root whether it is opaque.
func TestOpaqueRoot(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "base", "", map[string]string{"below": "x", "d/below": "x"})
	addLayer(t, s, "hides", "base", map[string]string{"d/own": "y"})
	trees, err := s.Chain(ctx, "hides")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(trees[1].Dir, "fs"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	addLayer(t, s, "top", "hides", map[string]string{"top": "z"})
	if err := s.Create(ctx, "c", "top", WithVolatile()); err != nil {
		t.Fatal(err)
	}
	r, err := s.Attach(ctx, "c", AttachOptions{Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, want := range map[string]string{"top": "z", "d/own": "y", "below": "", "d/below": ""} {
		if got, err := read(t, r, name); got != want || want == "" && err != unix.ENOENT {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	var dirs []string
	for _, tree := range slices.Backward(append(trees, Tree{})) {
		if tree.Dir != "" {
			dirs = append(dirs, filepath.Join(tree.Dir, "fs"))
		}
	}
	stack, err := OpenStack(dirs)
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	if names, err := stack.Root().Names(); err != nil || !slices.Equal(names, []string{"d"}) {
		t.Errorf("the stack shows %q, %v", names, err)
	}
}
