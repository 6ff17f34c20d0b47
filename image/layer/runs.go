package layer

import (
	"bufio"
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// record is an entry on its way into an index, or what became of one: something that was done at a path, after all that has a lower
// number.
type record struct {
	Entry
	mark mark
	seq  uint64
}

// mark says what a record tells of its path.
type mark byte

const (
	markEntry      mark = iota // what is there now; all that is no directory ends what lay there and below
	markInvented               // a directory that the layer uses and does not bring, if there is none yet
	markOwn                    // the invented directory is the layer's own after all
	markOpaque                 // the directory hides what is below it
	markContent                // the digest of the file's content
	markAttributes             // other attributes
)

// sorter brings any number of records into the order of an index in constant memory: when a few megabytes are full, they are sorted and
// written to a file without a name.
type sorter struct {
	dir  int // a directory on the filesystem that takes the files
	seq  uint64
	held []record
	size int
	runs []*os.File
}

const (
	runSize    = 4 << 20
	recordSize = 240 // of a record in memory without its strings, with what the collector needs for it
)

func (s *sorter) add(m mark, e Entry) error {
	s.seq++
	s.held = append(s.held, record{e, m, s.seq})
	s.size += recordSize + len(e.Path) + len(e.Link)
	for name, value := range e.Xattrs {
		s.size += 64 + len(name) + len(value)
	}
	if s.size < runSize {
		return nil
	}
	return s.spill()
}

func (s *sorter) sort() {
	slices.SortFunc(s.held, func(a, b record) int { return compareRecords(&a, &b) })
}

func compareRecords(a, b *record) int {
	if c := comparePaths(a.Path, b.Path); c != 0 {
		return c
	}
	return int(int64(a.seq - b.seq))
}

func (s *sorter) spill() error {
	s.sort()
	f, err := tempFile(s.dir)
	if err != nil {
		return err
	}
	s.runs = append(s.runs, f)
	w := runWriter{w: bufio.NewWriterSize(f, 64<<10)}
	for i := range s.held {
		if err := w.add(&s.held[i]); err != nil {
			return err
		}
	}
	clear(s.held)
	s.held, s.size = s.held[:0], 0
	return w.w.Flush()
}

func (s *sorter) close() {
	for _, f := range s.runs {
		f.Close()
	}
	s.runs = nil
}

// tempFile makes a file that no name leads to, so that nothing of it can be left behind.
func tempFile(dir int) (*os.File, error) {
	fd, err := unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == unix.EOPNOTSUPP || err == unix.EISDIR || err == unix.ENOENT { // a filesystem that has no such files
		const name = "sorting"
		if fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
			err = unix.Unlinkat(dir, name, 0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a file to sort the index in: %w", err)
	}
	return os.NewFile(uintptr(fd), "run"), nil
}

// runWriter writes records one after the other: a uvarint of the length, uvarint seq, mark, and the entry as in an index.
type runWriter struct {
	w        *bufio.Writer
	buf      []byte
	previous string
}

func (w *runWriter) add(r *record) error {
	w.buf = binary.AppendUvarint(w.buf[:0], r.seq)
	w.buf = append(w.buf, byte(r.mark))
	w.buf = appendEntry(w.buf, &r.Entry, w.previous)
	w.previous = r.Path
	var n [binary.MaxVarintLen64]byte
	if _, err := w.w.Write(n[:binary.PutUvarint(n[:], uint64(len(w.buf)))]); err != nil {
		return fmt.Errorf("sort the index: %w", err)
	}
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("sort the index: %w", err)
	}
	return nil
}

// runReader reads them again.
type runReader struct {
	r   *bufio.Reader
	buf []byte
	d   decoder
}

func newRunReader(f *os.File) (*runReader, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("sort the index: %w", err)
	}
	return &runReader{r: bufio.NewReaderSize(f, 32<<10)}, nil
}

// next returns io.EOF after the last record.
func (r *runReader) next() (record, error) {
	n, err := binary.ReadUvarint(r.r)
	if err == io.EOF {
		return record{}, err
	}
	if err == nil {
		r.buf = slices.Grow(r.buf[:0], int(n))[:n]
		_, err = io.ReadFull(r.r, r.buf)
	}
	if err != nil {
		return record{}, fmt.Errorf("sort the index: %w", err)
	}
	d := &r.d
	d.data, d.at = r.buf, 0
	rec := record{seq: d.uvarint()}
	if b := d.bytes(1); len(b) == 1 {
		rec.mark = mark(b[0])
	}
	rec.Entry = d.entry()
	if d.bad {
		return record{}, fmt.Errorf("sort the index: what was written does not come back: %w", io.ErrUnexpectedEOF)
	}
	return rec, nil
}

// cursor is a run that is being merged, at its first record.
type cursor struct {
	record
	next func() (record, error)
}

type cursors []cursor

func (c cursors) Len() int           { return len(c) }
func (c cursors) Less(i, j int) bool { return compareRecords(&c[i].record, &c[j].record) < 0 }
func (c cursors) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)        { *c = append(*c, x.(cursor)) }
func (c *cursors) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// sorted yields all records by path, and those of one path in the order in which they were added. It is the end of adding.
func (s *sorter) sorted() iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		s.sort()
		at := 0
		all := cursors{{next: func() (record, error) {
			if at == len(s.held) {
				return record{}, io.EOF
			}
			at++
			return s.held[at-1], nil
		}}}
		for _, f := range s.runs {
			r, err := newRunReader(f)
			if err != nil {
				yield(record{}, err)
				return
			}
			all = append(all, cursor{next: r.next})
		}
		open := all[:0]
		for _, c := range all {
			var err error
			if c.record, err = c.next(); err == nil {
				open = append(open, c)
			} else if err != io.EOF {
				yield(record{}, err)
				return
			}
		}
		heap.Init(&open)
		for len(open) > 0 {
			if !yield(open[0].record, nil) {
				return
			}
			next, err := open[0].next()
			switch err {
			case nil:
				open[0].record = next
				heap.Fix(&open, 0)
			case io.EOF:
				heap.Pop(&open)
			default:
				yield(record{}, err)
				return
			}
		}
	}
}

// fold makes of sorted records the entries that are there in the end, and calls emit with each, in order.
func fold(records iter.Seq2[record, error], emit func(e *Entry, invented bool) error) error {
	// Where something that was no directory lay, all that was made below it earlier is gone.
	var ends []end
	var f folding
	flush := func() error {
		if f.ended > 0 {
			ends = append(ends, end{f.path, max(f.ended, f.outer)})
		}
		if !f.there {
			return nil
		}
		if f.opaque {
			f.entry.Type = TypeOpaque
		}
		return emit(&f.entry, f.invented)
	}
	first := true
	for r, err := range records {
		if err != nil {
			return err
		}
		if first || r.Path != f.path {
			if !first {
				if err := flush(); err != nil {
					return err
				}
			}
			first = false
			for len(ends) > 0 && !strings.HasPrefix(r.Path, ends[len(ends)-1].path+"/") {
				ends = ends[:len(ends)-1]
			}
			f = folding{path: r.Path}
			if len(ends) > 0 {
				f.outer = ends[len(ends)-1].seq
			}
		}
		if r.seq > f.outer {
			f.take(&r)
		}
	}
	if first {
		return nil
	}
	return flush()
}

// end is a path below which nothing older is left.
type end struct {
	path string
	seq  uint64
}

// folding is one path's records so far.
type folding struct {
	path                    string
	entry                   Entry
	there, invented, opaque bool
	ended, outer            uint64
}

func (f *folding) take(r *record) {
	isDir := f.there && f.entry.Type == TypeDir
	switch r.mark {
	case markInvented:
		if !isDir {
			f.entry, f.there, f.invented, f.opaque = r.Entry, true, true, false
		}
	case markEntry:
		switch {
		case r.Type != TypeDir:
			f.ended, f.opaque = r.seq, false
		case isDir:
			r.Xattrs = union(r.Xattrs, f.entry.Xattrs) // nothing took the older ones away
		default:
			f.opaque = false
		}
		f.entry, f.there, f.invented = r.Entry, true, false
	case markOwn:
		f.invented = false
	case markOpaque:
		f.opaque = isDir
	case markContent:
		f.entry.Content = r.Content
	case markAttributes:
		f.entry.Mode, f.entry.UID, f.entry.GID, f.entry.ModTime = r.Mode, r.UID, r.GID, r.ModTime
		f.entry.Xattrs = union(r.Xattrs, f.entry.Xattrs)
	}
}

// union adds to m what only older has.
func union(m, older map[string]string) map[string]string {
	if len(older) == 0 {
		return m
	}
	if m == nil {
		return older
	}
	for name, value := range older {
		if _, ok := m[name]; !ok {
			m[name] = value
		}
	}
	return m
}
