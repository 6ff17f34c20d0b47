package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// member is a file of a tar, or a link to one.
type member struct {
	at, size int64  // where it lies: an offset, or a number in the spool
	digest   string // where it is known
	link     string // the name that it leads to
}

// members are the files of a tar.
type members struct {
	byName map[string]member
	body   func(member) (io.ReadCloser, error)
}

// Spool keeps the files of a stream, each under its number in the order of their coming.
type Spool interface {
	Put(r io.Reader) (number, size int64, digest string, err error)
	Open(number int64) (io.ReadCloser, error)
}

// ReadTar reads an archive that lies on disk: now its headers and its JSON, its blobs when they are asked for. f must stay open.
func ReadTar(f io.ReaderAt, size int64) (*Archive, error) {
	whole := io.NewSectionReader(f, 0, size)
	byName, err := list(whole, func(_ io.Reader, h *tar.Header) (member, error) {
		at, err := whole.Seek(0, io.SeekCurrent) // archive/tar reads no further than it must
		if err == nil && at+h.Size > size {
			err = io.ErrUnexpectedEOF
		}
		return member{at: at, size: h.Size}, err
	})
	if err != nil {
		return nil, err
	}
	return read(&members{byName, func(m member) (io.ReadCloser, error) {
		return section{io.NewSectionReader(f, m.at, m.size)}, nil
	}})
}

type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

// ReadStream reads an archive once, to the tar's end, and keeps its files in spool.
func ReadStream(r io.Reader, spool Spool) (*Archive, error) {
	byName, err := list(r, func(body io.Reader, h *tar.Header) (member, error) {
		n, size, digest, err := spool.Put(body)
		if err == nil && size != h.Size {
			err = io.ErrUnexpectedEOF
		}
		return member{at: n, size: size, digest: digest}, err
	})
	if err != nil {
		return nil, err
	}
	return read(&members{byName, func(m member) (io.ReadCloser, error) { return spool.Open(m.at) }})
}

// list reads a tar's headers.
func list(r io.Reader, file func(io.Reader, *tar.Header) (member, error)) (map[string]member, error) {
	// Without the offset archive/tar would seek in what is handed to it, too; it does so only where it can.
	t := tar.NewReader(r)
	byName := map[string]member{}
	names, count := 0, 0
	for {
		h, err := t.Next()
		if err == io.EOF {
			if count == 0 {
				return nil, fmt.Errorf("no image archive: it is empty: %w", ErrMalformed)
			}
			return byName, nil
		}
		if err != nil {
			return nil, malformed(count, err)
		}
		if count++; count > maxMembers {
			return nil, fmt.Errorf("it has more than %d members: %w", maxMembers, ErrLimit)
		}
		if names += len(h.Name) + len(h.Linkname); names > maxNames {
			return nil, fmt.Errorf("the names in it have more than %d bytes: %w", maxNames, ErrLimit)
		}
		name, err := cleaned(h.Name)
		if err != nil {
			return nil, err
		}
		var m member
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
			if sparse(h) {
				return nil, fmt.Errorf("member %.200q is a sparse file: %w", name, ErrMalformed)
			}
			m, err = file(t, h)
			if err != nil {
				return nil, malformed(count, fmt.Errorf("member %.200q: %w", name, err))
			}
		case tar.TypeSymlink:
			m.link, err = cleaned(path.Join(path.Dir(name), h.Linkname))
			if err == nil && strings.HasPrefix(h.Linkname, "/") {
				err = outside(h.Linkname)
			}
		case tar.TypeLink:
			m.link, err = cleaned(h.Linkname)
		case tar.TypeXGlobalHeader:
			continue
		default:
			err = fmt.Errorf("member %.200q is neither a file nor a directory nor a link: %w", name, ErrMalformed)
		}
		if err != nil {
			return nil, err
		}
		if _, twice := byName[name]; twice {
			return nil, fmt.Errorf("member %.200q is there twice: %w", name, ErrMalformed)
		}
		byName[name] = m
	}
}

// sparse says whether a header is of a file with holes, whose bytes are not where they seem to be.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// malformed tells what is wrong with a tar apart from what is wrong with where it comes from.
func malformed(count int, err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) && count == 0:
		return fmt.Errorf("no image archive: it is no tar, or was cut short in its first header: %w", ErrMalformed)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it was cut short (%w): %w", err, ErrMalformed)
	case errors.Is(err, tar.ErrHeader) && count == 0:
		return fmt.Errorf("no image archive: it is no tar: %w", ErrMalformed)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return fmt.Errorf("after %d members comes no tar header: %w", count, ErrMalformed)
	}
	return err
}

// cleaned is a member's name as it is looked up. One that leads out of the archive is refused, although it could do no harm here: who
// packs such a thing means harm to somebody.
func cleaned(name string) (string, error) {
	c := path.Clean(name)
	if name == "" || strings.HasPrefix(name, "/") || c == ".." || strings.HasPrefix(c, "../") {
		return "", outside(name)
	}
	return c, nil
}

func outside(name string) error {
	return fmt.Errorf("the name %.200q leads out of the archive: %w", name, ErrMalformed)
}

// find follows links, which is done by names alone.
func (m *members) find(name string) (member, error) {
	at := name
	for range maxHops {
		f, ok := m.byName[at]
		if !ok {
			if at != name {
				return f, fmt.Errorf("%.200q leads to %.200q: %w", name, at, ErrNotFound)
			}
			return f, fmt.Errorf("%.200q: %w", name, ErrNotFound)
		}
		if f.link == "" {
			return f, nil
		}
		at = f.link
	}
	return member{}, fmt.Errorf("%.200q leads over more than %d links: %w", name, maxHops, ErrMalformed)
}

func (m *members) open(name string) (io.ReadCloser, int64, error) {
	f, err := m.find(name)
	if err != nil {
		return nil, 0, err
	}
	r, err := m.body(f)
	return r, f.size, err
}

func (m *members) digest(name string) string {
	f, _ := m.find(name)
	return f.digest
}
