package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Index reads a layer index. Every block is verified before anything in it is believed, and of each that reads one block is in memory. It
// may be used by several goroutines.
type Index struct {
	path string
	heal func() error // makes the file again, byte for byte, when it turns out to be damaged; may be nil

	mu     sync.Mutex
	file   *os.File
	size   int64
	blocks []blockAt // made of the headers by the first search
	found  foundBlock
}

// foundBlock is the block that a search found last, so that looking a path's parents up and then the path reads it once. It is never written.
type foundBlock struct {
	at, next int64
	data     []byte
	records  int
}

// blockAt is where a block begins, and its first path once that was needed.
type blockAt struct {
	at    int64
	first string
	known bool
}

// OpenIndex opens the index at path. It returns ErrMalformed for a file that is none.
func OpenIndex(path string) (*Index, error) {
	x := &Index{path: path}
	return x, x.open()
}

func (x *Index) open() error {
	f, err := os.Open(x.path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	magic := make([]byte, len(indexMagic))
	if _, err := f.ReadAt(magic, 0); err != nil && err != io.EOF {
		f.Close()
		return err
	}
	if string(magic) != indexMagic {
		f.Close()
		return fmt.Errorf("%s: not an index of version 1: %w", x.path, ErrMalformed)
	}
	x.file, x.size, x.blocks, x.found = f, info.Size(), nil, foundBlock{}
	return nil
}

// Close lets the file go. An index that nothing refers to any more lets it go by itself.
func (x *Index) Close() error { return x.file.Close() }

// header reads where a block's data begins and ends, and what its sum is.
func (x *Index) header(file *os.File, size, at int64) (n int64, records int, sum uint32, err error) {
	var h [blockHeader]byte
	if _, err := file.ReadAt(h[:], at); err == io.EOF {
		return 0, 0, 0, fmt.Errorf("index ends in the middle of a block: %w", ErrMalformed)
	} else if err != nil {
		return 0, 0, 0, fmt.Errorf("read index: %w", err)
	}
	n = int64(binary.LittleEndian.Uint32(h[:]))
	if left := size - at - blockHeader; n > maxBlock || n > left {
		return 0, 0, 0, fmt.Errorf("index has a block of %d bytes where %d are left: %w", n, left, ErrMalformed)
	}
	return n, int(binary.LittleEndian.Uint32(h[4:])), binary.LittleEndian.Uint32(h[8:]), nil
}

// block reads and verifies the block at an offset into buf, which grows where it must. An empty one is the end.
func (x *Index) block(at int64, buf []byte) (block []byte, records int, next int64, err error) {
	x.mu.Lock()
	file, size := x.file, x.size
	x.mu.Unlock()
	read := func() {
		var n int64
		var sum uint32
		if n, records, sum, err = x.header(file, size, at); err != nil {
			return
		}
		next = at + blockHeader + n
		block = slices.Grow(buf[:0], int(n))[:n]
		if _, err = file.ReadAt(block, at+blockHeader); err != nil {
			err = fmt.Errorf("read index: %w", err)
		} else if crc32.Checksum(block, castagnoli) != sum {
			err = fmt.Errorf("index is damaged: %w", ErrMalformed)
		} else if n == 0 && (next < size || records > 0) {
			err = fmt.Errorf("index goes on behind its end: %w", ErrMalformed)
		}
	}
	if read(); errors.Is(err, ErrMalformed) {
		if err = x.mend(file, err); err == nil {
			x.mu.Lock()
			file, size = x.file, x.size
			x.mu.Unlock()
			read()
		}
	}
	if err != nil {
		return nil, 0, 0, err
	}
	return block, records, next, nil
}

// searched is block for a search.
func (x *Index) searched(at int64) (block []byte, records int, next int64, err error) {
	x.mu.Lock()
	f := x.found
	x.mu.Unlock()
	if f.data != nil && f.at == at {
		return f.data, f.records, f.next, nil
	}
	if f.data, f.records, f.next, err = x.block(at, nil); err == nil {
		f.at = at
		x.mu.Lock()
		x.found = f
		x.mu.Unlock()
	}
	return f.data, f.records, f.next, err
}

// mend makes a damaged index again, which damaged is, unless another goroutine was faster. The new one has the same bytes in the same
// places, so whoever was reading goes on.
func (x *Index) mend(damaged *os.File, why error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.file != damaged {
		return nil
	}
	if x.heal == nil {
		return why
	}
	heal := x.heal
	x.heal = nil
	if err := heal(); err != nil {
		return fmt.Errorf("%w: %w", why, err)
	}
	if err := x.open(); err != nil {
		return err
	}
	damaged.Close()
	return nil
}

// table finds where the blocks are, of their headers alone.
func (x *Index) table() ([]blockAt, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.blocks != nil {
		return x.blocks, nil
	}
	blocks := []blockAt{}
	for at := int64(len(indexMagic)); ; {
		n, _, _, err := x.header(x.file, x.size, at)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		blocks = append(blocks, blockAt{at: at})
		at += blockHeader + n
	}
	x.blocks = blocks
	return blocks, nil
}

// seek finds the block that has a path, if any has: the last one that begins at or before it, or else the first. Blocks before from are
// not looked at. It reads as many as a binary search asks for. ok is false for an index without entries.
func (x *Index) seek(path string, from int64) (at int64, ok bool, err error) {
	blocks, err := x.table()
	if errors.Is(err, ErrMalformed) {
		x.mu.Lock()
		file := x.file
		x.mu.Unlock()
		if err = x.mend(file, err); err == nil {
			blocks, err = x.table()
		}
	}
	if err != nil || len(blocks) == 0 {
		return 0, false, err
	}
	low, _ := slices.BinarySearchFunc(blocks, from, func(b blockAt, from int64) int { return int(b.at - from) })
	high := len(blocks) // the answer is at low or behind it, and before high
	var buf []byte
	for low+1 < high {
		middle := (low + high) / 2
		x.mu.Lock()
		b := blocks[middle]
		x.mu.Unlock()
		if !b.known {
			if buf, _, _, err = x.block(b.at, buf); err != nil {
				return 0, false, err
			}
			d := decoder{data: buf}
			d.head()
			if d.bad {
				return 0, false, errRecord
			}
			b.first, b.known = string(d.path), true
			x.mu.Lock()
			blocks[middle] = b
			x.mu.Unlock()
		}
		if diff.ComparePaths(b.first, path) <= 0 {
			low = middle
		} else {
			high = middle
		}
	}
	if low >= len(blocks) {
		return 0, false, nil
	}
	return blocks[low].at, true, nil
}

// All yields the entries in order. An error ends it.
func (x *Index) All() iter.Seq2[Entry, error] { return x.Under(".") }

// Under yields the entries of a path and what is below it, from the block on that has it. An error ends it.
func (x *Index) Under(dir string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		c := x.Cursor()
		for ok := c.Seek(dir); ok && diff.Within(c.Path(), dir); ok = c.Next() {
			e, err := c.Entry()
			if err != nil {
				break
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := c.Err(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// Lookup finds the entry of a path, in as many blocks as a binary search asks for. It returns fs.ErrNotExist where there is none.
func (x *Index) Lookup(path string) (Entry, error) {
	c := x.Cursor()
	if c.Seek(path) && string(c.Path()) == path {
		return c.Entry()
	}
	if err := c.Err(); err != nil {
		return Entry{}, err
	}
	return Entry{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

// Cursor goes over the entries: see diff.Cursor.
func (x *Index) Cursor() diff.Cursor { return &indexCursor{x: x, next: int64(len(indexMagic))} }

type indexCursor struct {
	x    *Index
	d    decoder
	buf  []byte // what blocks are read into that follow one another
	kind byte
	at   bool // it stands at a record, whose path is read
	left int  // records of the block behind this one
	next int64
	end  bool
	err  error
}

func (c *indexCursor) Path() []byte { return c.d.path }
func (c *indexCursor) Type() byte   { return c.kind }
func (c *indexCursor) Err() error   { return c.err }
func (c *indexCursor) Close()       {}

func (c *indexCursor) stop(err error) bool {
	c.err, c.end, c.at = err, true, false
	return false
}

// Next reads the next record's path.
func (c *indexCursor) Next() bool {
	if c.end {
		return false
	}
	if c.at {
		c.d.skip(c.kind)
	}
	if c.d.bad {
		return c.stop(errRecord)
	}
	if c.left == 0 {
		if c.d.left() > 0 {
			return c.stop(errRecord)
		}
		block, records, next, err := c.x.block(c.next, c.buf)
		c.buf = block
		if !c.enter(block, records, next, err) {
			return false
		}
	}
	c.kind, c.at = c.d.head(), true
	c.left--
	if c.d.bad {
		return c.stop(errRecord)
	}
	return true
}

// enter begins a block, whose end is next.
func (c *indexCursor) enter(block []byte, records int, next int64, err error) bool {
	if err != nil || len(block) == 0 {
		return c.stop(err)
	}
	if records == 0 {
		return c.stop(errRecord)
	}
	c.left, c.next, c.at = records, next, false
	c.d.begin(block)
	return true
}

// Seek looks in the rest of the block, and then in that which has the path.
func (c *indexCursor) Seek(path string) bool {
	if c.at && diff.CompareTo(c.d.path, path) >= 0 {
		return true
	}
	for c.left > 0 {
		if !c.Next() || diff.CompareTo(c.d.path, path) >= 0 {
			return !c.end
		}
	}
	if c.end {
		return false
	}
	at, ok, err := c.x.seek(path, c.next)
	if err != nil || !ok {
		return c.stop(err)
	}
	if !c.enter(c.x.searched(at)) {
		return false
	}
	for c.Next() {
		if diff.CompareTo(c.d.path, path) >= 0 {
			return true
		}
	}
	return false
}

// Entry decodes what the cursor stands at.
func (c *indexCursor) Entry() (Entry, error) {
	d := c.d
	e := d.rest(c.kind)
	if d.bad {
		c.stop(errRecord)
		return Entry{}, errRecord
	}
	return e, nil
}

// Tree is a layer unpacked, as a layer of a view: its index, and the files beside that.
type Tree struct {
	*Index
	dir, id string
}

// OpenTree opens the layer unpacked at dir (which holds fs and index). Trees of the same id are taken for the same. A damaged index is
// made again by heal, if that is not nil: see Reindex.
func OpenTree(dir, id string, heal func() error) (*Tree, error) {
	x := &Index{path: dir + "/index", heal: heal}
	err := x.open()
	if heal != nil && (errors.Is(err, ErrMalformed) || errors.Is(err, fs.ErrNotExist)) {
		x.heal = nil
		if herr := heal(); herr != nil {
			return nil, fmt.Errorf("%w: %w", err, herr)
		}
		err = x.open()
	}
	if err != nil {
		return nil, err
	}
	return &Tree{Index: x, dir: dir, id: id}, nil
}

// ID tells trees apart.
func (t *Tree) ID() string { return t.id }

// Open opens the content of a regular file that the layer brings, following no link.
func (t *Tree) Open(path string) (*os.File, error) {
	return diff.Dir(strings.TrimSuffix(t.dir, "/") + "/fs").Open(path)
}

// Found is an entry of a view of several layers.
type Found = diff.Found

// Merge is the view of a stack of layers, lowest first, whose indexes are read side by side.
func Merge(indexes []*Index) iter.Seq2[Found, error] {
	layers := make([]diff.Layer, len(indexes))
	for i, x := range indexes {
		layers[i] = &Tree{Index: x}
	}
	return diff.NewStack(layers...).Merged()
}
