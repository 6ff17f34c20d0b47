package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/layerctl/layerctl/image/files"
)

// What comes to be at the destination while it is copied is somebody else's.
func TestCopyNew(t *testing.T) {
	dir := t.TempDir()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, err := range []error{os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644), os.WriteFile(filepath.Join(dir, "his"), []byte("his"), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	src := files.Place{Root: root, Path: "/a"}
	for name, want := range map[string]error{"new": nil, "his": fs.ErrExist, "none/new": fs.ErrNotExist} {
		if _, err := copyNew(context.Background(), src, filepath.Join(dir, name), files.Options{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	src.Path = "/nosuch"
	if _, err := copyNew(context.Background(), src, filepath.Join(dir, "failed"), files.Options{}); err == nil {
		t.Error("nothing was copied, and nothing was said")
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".export-*"))
	if err != nil || len(names) != 3 || len(hidden) != 0 {
		t.Errorf("%q, %q, %v", names, hidden, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "his")); string(b) != "his" {
		t.Errorf("his is %q", b)
	}
}
