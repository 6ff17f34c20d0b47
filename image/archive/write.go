package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/layerctl/layerctl/image/content"
)

// Writer writes an archive's members, each name once.
type Writer struct {
	tar     *tar.Writer
	root    *os.Root
	written map[string]bool
}

// NewTarWriter writes a tar to w.
func NewTarWriter(w io.Writer) *Writer {
	return &Writer{tar: tar.NewWriter(w), written: map[string]bool{}}
}

// NewDirWriter writes files below root, which is empty.
func NewDirWriter(root *os.Root) *Writer { return &Writer{root: root, written: map[string]bool{}} }

// File writes a file of size bytes, which body writes. One that has been written is passed over.
func (w *Writer) File(name string, size int64, body func(io.Writer) error) (err error) {
	if w.written[name] {
		return nil
	}
	w.written[name] = true
	var to io.Writer
	if w.tar != nil {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
		if err := w.tar.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		to = w.tar
	} else {
		if err := w.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		to = f
	}
	n := &sized{w: to, left: size}
	if err := body(n); err != nil {
		return err
	}
	if n.left != 0 {
		return fmt.Errorf("%s came out %d bytes shorter than it was, so it is damaged: %w", name, n.left, content.ErrCorrupt)
	}
	return nil
}

// sized takes a file of a known size.
type sized struct {
	w    io.Writer
	left int64
}

func (s *sized) Write(b []byte) (int, error) {
	if s.left -= int64(len(b)); s.left < 0 {
		return 0, fmt.Errorf("it came out longer than it was, so it is damaged: %w", content.ErrCorrupt)
	}
	return s.w.Write(b)
}

// Bytes writes a small file.
func (w *Writer) Bytes(name string, b []byte) error {
	return w.File(name, int64(len(b)), func(to io.Writer) error { _, err := to.Write(b); return err })
}

// Link writes a symlink, which only a tar has.
func (w *Writer) Link(name, target string) error {
	if w.written[name] {
		return nil
	}
	w.written[name] = true
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(0, 0)})
}

// Close ends the archive.
func (w *Writer) Close() error {
	if w.tar != nil {
		return w.tar.Close()
	}
	return nil
}
