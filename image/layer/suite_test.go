package layer

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/continuity/fs/fstest"
)

// roundTrip gives each tree of containerd's file-system suite through Pack and Apply.
type roundTrip struct {
	t   *testing.T
	src string
}

// TestContext implements fstest.TestApplier.
func (r *roundTrip) TestContext(ctx context.Context) (context.Context, func(), error) {
	r.src = r.t.TempDir()
	return ctx, func() {}, nil
}

// Apply implements fstest.TestApplier.
func (r *roundTrip) Apply(ctx context.Context, change fstest.Applier) (string, func(), error) {
	if err := change.Apply(r.src); err != nil {
		return "", nil, err
	}
	src, err := os.Open(r.src)
	if err != nil {
		return "", nil, err
	}
	defer src.Close()
	var packed bytes.Buffer
	if err := Pack(ctx, src, &packed, PackOptions{}); err != nil {
		return "", nil, err
	}
	dir := r.t.TempDir()
	dst, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	defer dst.Close()
	if _, err := Apply(ctx, &packed, dst, Options{}); err != nil {
		return "", nil, err
	}
	return filepath.Join(dir, "fs"), nil, nil
}

func TestContainerdsSuite(t *testing.T) {
	fstest.FSSuite(t, &roundTrip{t: t})
}
