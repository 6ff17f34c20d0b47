package archive

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFile makes a file of what write writes. It appears at its path whole or not at all: what was there stays until then, and a link
// stays a link. A device or a FIFO is written to instead of being replaced; a directory is EISDIR. Errors do not say the path, which the
// caller knows.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		real, err = path, nil
	}
	if err != nil {
		return bare(err)
	}
	info, err := os.Stat(real)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bare(err)
	}
	if err == nil && info.IsDir() {
		return unix.EISDIR
	}
	if err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(real, os.O_WRONLY, 0)
		if err != nil {
			return bare(err)
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(real), "."+filepath.Base(real)+"-")
	if err != nil {
		return bare(err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return bare(os.Rename(f.Name(), real))
}

// bare is an error without the path that it happened at.
func bare(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}
