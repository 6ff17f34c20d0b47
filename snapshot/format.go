package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Format is the first line of a store's format file.
const Format = "layerctl 1"

// CheckFormat makes sure that root (the store's own, above snapshots/) holds a store that this program understands. An absent or empty
// directory becomes one. It returns ErrFormat for another format and ErrNotStore for a directory that holds something else.
func CheckFormat(root string) error {
	path := filepath.Join(root, "format")
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if got := strings.TrimSuffix(string(b), "\n"); got != Format {
			return fmt.Errorf("%s says %.40q, this program reads %q: %w", path, got, Format, ErrFormat)
		}
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is no directory: %w", root, ErrNotStore)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// Another process may be making the store at this moment, with the same files.
		if e.Name() != "format" && !strings.HasPrefix(e.Name(), ".format-") && e.Name() != "lost+found" {
			if _, err := os.Stat(path); err == nil {
				return CheckFormat(root)
			}
			return fmt.Errorf("%s is not empty and has no format file: %w", root, ErrNotStore)
		}
	}
	if err := SweepTemporary(root); err != nil {
		return err
	}
	return WriteFile(path, []byte(Format+"\n"), true)
}

// WriteFile replaces the file at path by rename, so that it is seen whole or not at all; with durable it is on disk before its name
// is, and its name before WriteFile returns.
func WriteFile(path string, data []byte, durable bool) (err error) {
	var f *os.File
	for { // held, so that it is not swept, and made again where it was before that
		if f, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-"); err != nil {
			return err
		}
		if holdNew(f, f.Name()) {
			break
		}
		f.Close()
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	failpoint.Hit("file/made")
	if _, err := f.Write(data); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	failpoint.Hit("file/written")
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	failpoint.Hit("file/renamed")
	if !durable {
		return nil
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
