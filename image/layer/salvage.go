package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Salvage writes the canonical tar that the tree at dir would have if it were as its index says: names, owners, modes, times, links
// and attributes come from the index, and a file's content from wherever in the tree a file with that content is. It is how a layer
// that was made here, and of which there is no blob, comes out of a damaged tree. It returns fs.ErrNotExist where a content is nowhere.
func Salvage(ctx context.Context, dir string, w io.Writer) error {
	s := &salvager{r: newRepacker(ctx, w)}
	defer s.r.close()
	s.r.content = s.content
	x, err := OpenIndex(filepath.Join(dir, "index"))
	if err == nil {
		defer x.Close()
		err = s.r.add(x, dir)
	}
	if err == nil {
		err = s.r.run()
	}
	if err != nil {
		return fmt.Errorf("salvage layer: %w", err)
	}
	return nil
}

// salvager finds contents in a damaged tree.
type salvager struct {
	r     *repacker
	found map[[16]byte]string // where each content is; made when one is not where it should be
}

// content is where the content of an entry is.
func (s *salvager) content(_ int, e *Entry) (string, error) {
	if sum, size, err := s.sum(e.Path); err == nil && sum == e.Content && size == e.Size {
		return e.Path, nil
	}
	return s.find(e)
}

func (s *salvager) sum(name string) (sum [16]byte, size int64, err error) {
	if info, err := s.r.roots[0].Lstat(name); err != nil || !info.Mode().IsRegular() {
		return sum, 0, fs.ErrNotExist
	}
	f, err := s.r.roots[0].OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.CopyBuffer(h, struct{ io.Reader }{f}, s.r.p.buf)
	copy(sum[:], h.Sum(nil))
	return sum, size, err
}

// find looks for a content in the whole tree.
func (s *salvager) find(e *Entry) (string, error) {
	if s.found == nil {
		s.found = map[[16]byte]string{}
		err := fs.WalkDir(s.r.roots[0].FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if sum, _, err := s.sum(name); err == nil {
					s.found[sum] = name
				}
			}
			return s.r.p.ctx.Err() // what cannot be read is not found
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
