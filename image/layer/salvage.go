package layer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Salvage writes the canonical tar that the tree at dir would have if it were as its index says: names, owners, modes, times, links
// and attributes come from the index, and a file's content from wherever in the tree a file with that content is. It is how a layer
// that was made here, and of which there is no blob, comes out of a damaged tree. It returns fs.ErrNotExist where a content is nowhere.
func Salvage(ctx context.Context, dir string, w io.Writer) error {
	x, err := OpenIndex(filepath.Join(dir, "index"))
	if err != nil {
		return fmt.Errorf("salvage layer: %w", err)
	}
	defer x.Close()
	root, err := os.OpenRoot(filepath.Join(dir, "fs"))
	if err != nil {
		return fmt.Errorf("salvage layer: %w", err)
	}
	defer root.Close()
	s := &salvager{root: root, p: &packer{ctx: ctx, w: bufio.NewWriterSize(w, 256<<10), buf: make([]byte, 256<<10)}, first: map[string]string{}, files: map[string]Entry{}}
	if err := s.run(x); err != nil {
		return fmt.Errorf("salvage layer: %w", err)
	}
	return nil
}

type salvager struct {
	root  *os.Root
	p     *packer
	first map[string]string   // of each file with several names, the one that comes first: the canonical tar has the content there
	files map[string]Entry    // those files
	found map[[16]byte]string // where each content is; made when one is not where it should be
}

func (s *salvager) run(x *Index) error {
	err := each(x, func(e *Entry) error {
		if first, ok := s.first[e.Link]; e.Type == TypeHardlink && (!ok || comparePaths(e.Path, first) < 0) {
			s.first[e.Link] = e.Path
		}
		return nil
	})
	if err == nil {
		err = each(x, func(e *Entry) error {
			if first, ok := s.first[e.Path]; ok && e.Type != TypeHardlink {
				s.files[e.Path] = *e
				if comparePaths(e.Path, first) < 0 {
					s.first[e.Path] = e.Path
				}
			}
			return nil
		})
	}
	if err == nil {
		err = each(x, s.entry)
	}
	if err != nil {
		return err
	}
	if _, err := s.p.w.Write(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	return s.p.w.Flush()
}

func each(x *Index, fn func(*Entry) error) error {
	for e, err := range x.All() {
		if err == nil {
			err = fn(&e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *salvager) entry(e *Entry) error {
	if err := s.p.ctx.Err(); err != nil {
		return err
	}
	file, at := e.Path, e.Path
	if e.Type == TypeHardlink {
		file = e.Link
	}
	if first, ok := s.first[file]; ok {
		var known bool
		if *e, known = s.files[file]; !known {
			return fmt.Errorf("%q: its index has no %q: %w", at, file, ErrMalformed)
		}
		if at != first {
			st := statOf(e)
			return s.p.header(at, TypeHardlink, &st, 0, first, nil)
		}
	}
	st := statOf(e)
	switch e.Type {
	case TypeFile:
		return s.file(at, e, &st)
	case TypeOpaque:
		if err := s.p.header(at, TypeDir, &st, 0, "", e.Xattrs); err != nil {
			return err
		}
		return s.p.mark(path.Join(at, whOpaque))
	case TypeWhiteout:
		return s.p.mark(path.Join(path.Dir(at), whPrefix+path.Base(at)))
	case TypeDir, TypeSymlink, TypeChar, TypeBlock, TypeFifo:
		return s.p.header(at, e.Type, &st, 0, e.Link, e.Xattrs)
	}
	return fmt.Errorf("%q: an entry of type %q in a layer that was made here: %w", at, e.Type, ErrUnsupported)
}

func statOf(e *Entry) unix.Stat_t {
	return unix.Stat_t{Mode: e.Mode, Uid: e.UID, Gid: e.GID, Rdev: e.Dev,
		Mtim: unix.Timespec{Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}}
}

func (s *salvager) file(at string, e *Entry, st *unix.Stat_t) error {
	if err := s.p.header(at, TypeFile, st, e.Size, "", e.Xattrs); err != nil {
		return err
	}
	if e.Size == 0 {
		return nil
	}
	from := e.Path
	if sum, size, err := s.sum(from); err != nil || sum != e.Content || size != e.Size {
		if from, err = s.find(e); err != nil {
			return err
		}
	}
	f, err := s.root.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(s.p.w, f, e.Size); err != nil {
		return fmt.Errorf("read %q: %w", from, unwrapPath(err))
	}
	return s.p.pad(e.Size)
}

func (s *salvager) sum(name string) (sum [16]byte, size int64, err error) {
	if info, err := s.root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return sum, 0, fs.ErrNotExist
	}
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.CopyBuffer(h, struct{ io.Reader }{f}, s.p.buf)
	copy(sum[:], h.Sum(nil))
	return sum, size, err
}

// find looks for a content in the whole tree.
func (s *salvager) find(e *Entry) (string, error) {
	if s.found == nil {
		s.found = map[[16]byte]string{}
		err := fs.WalkDir(s.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if sum, _, err := s.sum(name); err == nil {
					s.found[sum] = name
				}
			}
			return s.p.ctx.Err() // what cannot be read is not found
		})
		if err != nil {
			return "", err
		}
	}
	if from, ok := s.found[e.Content]; ok {
		return from, nil
	}
	return "", fmt.Errorf("the content of %q is nowhere in the tree: %w", e.Path, fs.ErrNotExist)
}
