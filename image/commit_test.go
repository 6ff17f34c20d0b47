package image

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
)

// wrote makes a directory what a container's upper is: a file, and a whiteout of what no layer below has.
func wrote(t *testing.T, dir string) {
	t.Helper()
	at := time.Unix(1700000000, 0)
	x := filepath.Join(dir, "x")
	for _, err := range []error{os.WriteFile(x, []byte("x"), 0o644), unix.Mknod(filepath.Join(dir, "none"), unix.S_IFCHR, 0), os.Chtimes(x, at, at),
		os.Chmod(dir, 0o755), os.Chtimes(dir, at, at)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The layer that a container has written came from elsewhere, too, and was settled there: the container goes on showing what it wrote.
func TestCommitOfASettledLayer(t *testing.T) {
	ctx, s := context.Background(), testStore(t)
	dir := t.TempDir()
	wrote(t, dir)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var packed bytes.Buffer
	if err := layer.Pack(ctx, f, &packed, layer.PackOptions{Marks: true}); err != nil {
		t.Fatal(err)
	}
	base := layerTar(t, "./", "etc/", "etc/passwd=root")
	loadImage(t, s, "base:1", [][]byte{base}, []string{"ADD base"})
	loadImage(t, s, "app:1", [][]byte{base, packed.Bytes()}, []string{"ADD base", "ADD x"})
	of, err := s.Resolve(ctx, "base:1")
	if err != nil {
		t.Fatal(err)
	}
	app, err := s.Resolve(ctx, "app:1")
	if err != nil {
		t.Fatal(err)
	}
	if trees, err := s.snaps.Chain(ctx, app.Chain); err != nil || trees[1].Settling == "" {
		t.Fatalf("it was not settled: %v, %v", trees, err)
	}
	if err := s.snaps.Create(ctx, "c", of.Chain); err != nil {
		t.Fatal(err)
	}
	_, upper, err := s.snaps.Lowers(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	wrote(t, upper)
	made, err := s.Commit(ctx, Committed{Key: "c", Image: of.ID}, CommitOptions{Ref: "made:1", Author: "Ann"})
	if err != nil {
		t.Fatal(err)
	}
	if made.Chain != app.Chain {
		t.Fatalf("it is the chain %s, not %s", made.Chain, app.Chain)
	}
	if err := s.snaps.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	root, err := s.snaps.Attach(ctx, "c", snapshot.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.Faccessat(int(root.FD.Fd()), "x", unix.R_OK, 0); err != nil {
		t.Errorf("what it wrote: %v", err)
	}
}

// A step without a layer says who made it, as one with a layer does.
func TestCommitOfNothing(t *testing.T) {
	ctx, s := context.Background(), lookStore(t)
	of, err := s.Resolve(ctx, "base:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.snaps.Create(ctx, "c", of.Chain); err != nil {
		t.Fatal(err)
	}
	made, err := s.Commit(ctx, Committed{Key: "c", Image: of.ID, Command: []string{"true"}}, CommitOptions{Author: "Ann", Message: "nothing"})
	if err != nil {
		t.Fatal(err)
	}
	var cfg v1.ConfigFile
	if err := json.Unmarshal(made.Config, &cfg); err != nil {
		t.Fatal(err)
	}
	if h := cfg.History[len(cfg.History)-1]; h.Author != "Ann" || h.Comment != "nothing" || h.CreatedBy != "true" || !h.EmptyLayer || made.Chain != of.Chain {
		t.Errorf("its last step is %+v", h)
	}
}
