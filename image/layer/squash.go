package layer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Squash writes the canonical tar of the one layer that changes what is below it as layers, lowest first, do together. What they hide of each other is gone; a whiteout or an opaque directory is in it where it hides something
// below. Every content is verified by its digest in the index; one that differs is ErrMalformed.
//
// The files are copied, and neither linked nor cloned: a link would add to the number of names that the file has in the layer it came
// from, by which Pack tells hard links; and the diff ID takes reading every byte, so a clone would only spare the writing, and only on
// some filesystems.
func Squash(ctx context.Context, layers []*Tree, below Below, w io.Writer) error {
	r := newRepacker(ctx, w)
	defer r.close()
	for _, t := range slices.Backward(layers) {
		if err := r.add(t.Index, t.dir); err != nil {
			return err
		}
	}
	r.hides = func(name string, dir bool) (bool, error) {
		st, err := below.Lookup(name)
		if missing(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look at %q below: %w", name, err)
		}
		return !dir || st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	}
	return r.run()
}

// change is an entry of several layers taken together.
type change struct {
	Entry
	from  int  // which of the layers has it; 0 is the highest
	alone bool // nothing of the layers below all of these is seen in its directory
}

// combined yields what layers, highest first, change together in what is below them, in an index's order. A directory is opaque where
// anything hides what is below all of them, be it only that the name was deleted in one and made again in the next.
func combined(layers []*Index) iter.Seq2[change, error] {
	return func(yield func(change, error) bool) {
		var heads []reader
		for i, x := range layers {
			next, stop := iter.Pull2(x.All())
			defer stop()
			heads = append(heads, reader{from: i, next: next})
			if err := heads[i].advance(); err != nil {
				yield(change{}, err)
				return
			}
		}
		// The directories on the way to where we are, with the number of layers that are seen in each.
		type dir struct {
			path  string
			seen  int
			alone bool
		}
		way := []dir{{path: ".", seen: len(layers)}}
		for {
			at, more := lowest(heads)
			if !more {
				return
			}
			for top := way[len(way)-1].path; top != "." && !strings.HasPrefix(at, top+"/"); top = way[len(way)-1].path {
				way = way[:len(way)-1]
			}
			in := way[len(way)-1]
			c := change{alone: in.alone}
			there, opaque, seen := false, false, in.seen
			for i := range heads {
				if heads[i].done || heads[i].entry.Path != at {
					continue
				}
				e := heads[i].entry
				if err := heads[i].advance(); err != nil {
					yield(change{}, err)
					return
				}
				isDir := e.Type == TypeDir || e.Type == TypeOpaque
				switch {
				case i >= seen:
				case !there:
					c.Entry, c.from, there = e, i, true
					if opaque = e.Type == TypeOpaque; opaque {
						seen = i + 1
					} else if !isDir {
						seen = 0
					}
				case e.Type == TypeOpaque:
					opaque, seen = true, i+1
				case !isDir:
					opaque, seen = true, i
				}
			}
			if !there {
				continue
			}
			if opaque {
				c.Type = TypeOpaque
			}
			here := dir{at, seen, in.alone || opaque || seen == 0}
			if at == "." {
				way[0] = here
			} else {
				way = append(way, here)
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// reader is where the reading of an index is.
type reader struct {
	from  int
	next  func() (Entry, error, bool)
	entry Entry
	done  bool
}

func (h *reader) advance() error {
	e, err, ok := h.next()
	h.entry, h.done = e, !ok
	return err
}

// lowest is the first path that any of them has.
func lowest(heads []reader) (path string, ok bool) {
	for i := range heads {
		if !heads[i].done && (!ok || comparePaths(heads[i].entry.Path, path) < 0) {
			path, ok = heads[i].entry.Path, true
		}
	}
	return path, ok
}

// repacker writes a canonical tar of what indexes say, with the contents that the trees have.
type repacker struct {
	p       *packer
	indexes []*Index // highest first
	roots   []*os.Root
	first   map[fileAt]string                              // of each file with several names, the one that came first: the tar has the content there
	hides   func(path string, dir bool) (bool, error)      // says of a mark whether it is wanted; nil for all of them
	content func(i int, e *Entry) (name string, err error) // finds a content that is not where it should be; nil where that is an error
}

// fileAt is a file, by the name that its layer's index has for it.
type fileAt struct {
	from int
	path string
}

func newRepacker(ctx context.Context, w io.Writer) *repacker {
	return &repacker{p: &packer{ctx: ctx, w: bufio.NewWriterSize(w, 256<<10), buf: make([]byte, 256<<10)}, first: map[fileAt]string{}}
}

// add puts a layer under those that are there.
func (r *repacker) add(x *Index, dir string) error {
	r.indexes = append(r.indexes, x)
	root, err := os.OpenRoot(filepath.Join(dir, "fs"))
	if err == nil {
		r.roots = append(r.roots, root)
	}
	return err
}

func (r *repacker) close() {
	for _, root := range r.roots {
		root.Close()
	}
}

func (r *repacker) run() error {
	for c, err := range combined(r.indexes) {
		if err != nil {
			return err
		}
		if c.Type == TypeHardlink {
			r.first[fileAt{c.from, c.Link}] = ""
		}
	}
	for c, err := range combined(r.indexes) {
		if err == nil {
			err = r.p.ctx.Err()
		}
		if err == nil {
			err = r.entry(&c)
		}
		if err != nil {
			return err
		}
	}
	if _, err := r.p.w.Write(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	return r.p.w.Flush()
}

func (r *repacker) entry(c *change) error {
	at, e := c.Path, &c.Entry
	file := fileAt{c.from, at}
	if e.Type == TypeHardlink {
		file.path = e.Link
	}
	if first, several := r.first[file]; several {
		if e.Type == TypeHardlink {
			of, err := r.indexes[c.from].Lookup(e.Link)
			if err != nil {
				return fmt.Errorf("%q: its index has no %q: %w", at, e.Link, ErrMalformed)
			}
			e = &of
		}
		if first != "" {
			st := statOf(e)
			return r.p.header(at, TypeHardlink, &st, 0, first, nil)
		}
		r.first[file] = at
	}
	st := statOf(e)
	switch e.Type {
	case TypeFile:
		return r.file(c.from, at, e, &st)
	case TypeOpaque:
		if err := r.p.header(at, TypeDir, &st, 0, "", e.Xattrs); err != nil {
			return err
		}
		return r.mark(path.Join(at, whOpaque), at, c.alone, true)
	case TypeWhiteout:
		return r.mark(path.Join(path.Dir(at), whPrefix+path.Base(at)), at, c.alone, false)
	case TypeDir, TypeSymlink, TypeChar, TypeBlock, TypeFifo:
		return r.p.header(at, e.Type, &st, 0, e.Link, e.Xattrs)
	}
	return fmt.Errorf("%q: an entry of type %q in an index: %w", at, e.Type, ErrUnsupported)
}

// mark writes a whiteout or an opaque directory's mark, where it hides something.
func (r *repacker) mark(name, hidden string, alone, dir bool) error {
	if r.hides != nil {
		if alone {
			return nil
		}
		if ok, err := r.hides(hidden, dir); err != nil || !ok {
			return err
		}
	}
	return r.p.mark(name)
}

func statOf(e *Entry) unix.Stat_t {
	return unix.Stat_t{Mode: e.Mode, Uid: e.UID, Gid: e.GID, Rdev: e.Dev,
		Mtim: unix.Timespec{Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}}
}

// file writes a file as the entry e of the layer from has it.
func (r *repacker) file(from int, at string, e *Entry, st *unix.Stat_t) error {
	if err := r.p.header(at, TypeFile, st, e.Size, "", e.Xattrs); err != nil || e.Size == 0 {
		return err
	}
	name := e.Path
	if r.content != nil {
		var err error
		if name, err = r.content(from, e); err != nil {
			return err
		}
	}
	f, err := r.roots[from].OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read %q: %w", name, unwrapPath(err))
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(r.p.w, sum)}, io.LimitReader(contextReader{r.p.ctx, f}, e.Size), r.p.buf)
	if err != nil {
		return fmt.Errorf("read %q: %w", name, unwrapPath(err))
	}
	if n < e.Size || [16]byte(sum.Sum(nil)[:16]) != e.Content {
		return fmt.Errorf("%q: its content is damaged: %w", name, ErrMalformed)
	}
	return r.p.pad(e.Size)
}
