package runtime

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// What stands in the place of a record is told of, and neither waited for nor taken in.
func TestNoRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exit.json")
	for what, c := range map[string]struct {
		put  func() error
		want error
	}{
		"nothing":     {func() error { return nil }, fs.ErrNotExist},
		"empty":       {func() error { return os.WriteFile(path, nil, 0o600) }, fs.ErrNotExist},
		"zeroes":      {func() error { return os.WriteFile(path, make([]byte, 100), 0o600) }, fs.ErrNotExist},
		"a directory": {func() error { return os.Mkdir(path, 0o700) }, snapshot.ErrDamaged},
		"a pipe":      {func() error { return unix.Mkfifo(path, 0o600) }, snapshot.ErrDamaged},
		"a link":      {func() error { return os.Symlink("/etc/passwd", path) }, snapshot.ErrDamaged},
		"huge":        {func() error { os.WriteFile(path, nil, 0o600); return os.Truncate(path, 1<<40) }, snapshot.ErrDamaged},
	} {
		if err := c.put(); err != nil {
			t.Fatal(what, err)
		}
		if b, err := readBytes(path); !errors.Is(err, c.want) {
			t.Errorf("%s: %d bytes, %v", what, len(b), err)
		}
		os.RemoveAll(path)
	}
	big, err := json.Marshal(make([]byte, 3<<20)) // and in the buffer of the huge one
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, big, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readBytes(path); err != nil || string(b) != string(big) {
		t.Errorf("a large one: %d bytes, %v", len(b), err)
	}
}
