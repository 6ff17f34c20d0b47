package layer

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"sort"
	"sync"
	"time"
)

// The types of an entry, as in a tar header, and of what only a layer has.
const (
	TypeFile     = '0'
	TypeSymlink  = '2'
	TypeChar     = '3'
	TypeBlock    = '4'
	TypeDir      = '5'
	TypeFifo     = '6'
	TypeHardlink = '1'
	TypeWhiteout = 'w'
	TypeOpaque   = 'O' // a directory that hides what is below
)

// Entry is one name of a layer.
type Entry struct {
	Path     string // relative and clean; "." is the root
	Type     byte
	Mode     uint32 // permission bits, setuid, setgid and sticky
	UID, GID uint32
	Size     int64
	Dev      uint64 // of a device
	ModTime  time.Time
	Content  [16]byte // the first half of the SHA-256 of a regular file's content
	Link     string   // a symbolic link's target, or the path of the file that a hard link names
	Xattrs   map[string]string
}

const (
	indexMagic  = "layerctl-index 1\n"
	blockSize   = 64 << 10
	maxBlock    = 64 << 20 // a record with the largest attributes fits
	blockHeader = 12
	maxPath     = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// comparePaths sorts a directory directly before what is in it.
func comparePaths(a, b string) int {
	if a == b {
		return 0
	}
	if a == "." {
		return -1
	}
	if b == "." {
		return 1
	}
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			x, y := a[i], b[i]
			if x == '/' {
				return -1
			}
			if y == '/' {
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// indexWriter writes entries, which come in the index's order, in its form.
type indexWriter struct {
	w        *bufio.Writer
	block    []byte
	records  int
	previous string
}

func newIndexWriter(w io.Writer) (*indexWriter, error) {
	x := &indexWriter{w: bufio.NewWriterSize(w, 64<<10)}
	_, err := x.w.WriteString(indexMagic)
	return x, err
}

func (x *indexWriter) add(e *Entry) error {
	x.block = appendEntry(x.block, e, x.previous)
	x.previous = e.Path
	x.records++
	if len(x.block) < blockSize {
		return nil
	}
	return x.flush()
}

func (x *indexWriter) flush() error {
	var h [blockHeader]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(len(x.block)))
	binary.LittleEndian.PutUint32(h[4:], uint32(x.records))
	binary.LittleEndian.PutUint32(h[8:], crc32.Checksum(x.block, castagnoli))
	if _, err := x.w.Write(h[:]); err != nil {
		return err
	}
	_, err := x.w.Write(x.block)
	x.block, x.records, x.previous = x.block[:0], 0, ""
	return err
}

// end writes what is left, and the block of length 0.
func (x *indexWriter) end() error {
	if x.records > 0 {
		if err := x.flush(); err != nil {
			return err
		}
	}
	if err := x.flush(); err != nil {
		return err
	}
	return x.w.Flush()
}

func appendEntry(b []byte, e *Entry, previous string) []byte {
	shared := 0
	for shared < len(previous) && shared < len(e.Path) && previous[shared] == e.Path[shared] {
		shared++
	}
	b = append(b, e.Type)
	b = binary.AppendUvarint(b, uint64(shared))
	b = appendString(b, e.Path[shared:])
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = binary.AppendUvarint(b, uint64(e.Size))
	b = binary.AppendUvarint(b, e.Dev)
	b = binary.AppendVarint(b, e.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	if e.Type == TypeFile {
		b = append(b, e.Content[:]...)
	}
	b = appendString(b, e.Link)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, name := range sortedKeys(e.Xattrs) {
		b = appendString(b, name)
		b = appendString(b, e.Xattrs[name])
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Index reads a layer index. Every block is verified before anything in it is believed, and no more than one is in memory at a time. It
// may be used by several goroutines.
type Index struct {
	file *os.File
	size int64

	once   sync.Once
	blocks []blockAt // made by the first Lookup
	broken error
}

// blockAt is where a block begins, and its first path.
type blockAt struct {
	at    int64
	first string
}

// OpenIndex opens the index at path. It returns ErrMalformed for a file that is none.
func OpenIndex(path string) (*Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	magic := make([]byte, len(indexMagic))
	if _, err := f.ReadAt(magic, 0); err != nil && err != io.EOF {
		f.Close()
		return nil, err
	}
	if string(magic) != indexMagic {
		f.Close()
		return nil, fmt.Errorf("%s: not an index of version 1: %w", path, ErrMalformed)
	}
	return &Index{file: f, size: info.Size()}, nil
}

// Close lets the file go. An index that nothing refers to any more lets it go by itself.
func (x *Index) Close() error { return x.file.Close() }

// block reads and verifies the block at an offset into buf, which grows where it must. An empty one is the end.
func (x *Index) block(at int64, buf []byte) (block []byte, records int, next int64, err error) {
	var h [blockHeader]byte
	if _, err := x.file.ReadAt(h[:], at); err == io.EOF {
		return nil, 0, 0, fmt.Errorf("index ends in the middle of a block: %w", ErrMalformed)
	} else if err != nil {
		return nil, 0, 0, fmt.Errorf("read index: %w", err)
	}
	n := int64(binary.LittleEndian.Uint32(h[:]))
	if left := x.size - at - blockHeader; n > maxBlock || n > left {
		return nil, 0, 0, fmt.Errorf("index has a block of %d bytes where %d are left: %w", n, left, ErrMalformed)
	}
	block = slices.Grow(buf[:0], int(n))[:n]
	if _, err := x.file.ReadAt(block, at+blockHeader); err != nil {
		return nil, 0, 0, fmt.Errorf("read index: %w", err)
	}
	if crc32.Checksum(block, castagnoli) != binary.LittleEndian.Uint32(h[8:]) {
		return nil, 0, 0, fmt.Errorf("index is damaged: %w", ErrMalformed)
	}
	return block, int(binary.LittleEndian.Uint32(h[4:])), at + blockHeader + n, nil
}

// All yields the entries in order. An error ends it.
func (x *Index) All() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var buf []byte
		for at := int64(len(indexMagic)); ; {
			block, records, next, err := x.block(at, buf)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if len(block) == 0 {
				if next < x.size || records > 0 {
					yield(Entry{}, fmt.Errorf("index goes on behind its end: %w", ErrMalformed))
				}
				return
			}
			d := decoder{data: block}
			for range records {
				e := d.entry()
				if d.bad {
					yield(Entry{}, errRecord)
					return
				}
				if !yield(e, nil) {
					return
				}
			}
			buf, at = block, next
		}
	}
}

var errRecord = fmt.Errorf("index has a record that does not parse: %w", ErrMalformed)

// scan finds the blocks.
func (x *Index) scan() {
	var buf []byte
	for at := int64(len(indexMagic)); ; {
		block, _, next, err := x.block(at, buf)
		if err != nil || len(block) == 0 {
			x.broken = err
			return
		}
		d := decoder{data: block}
		first := d.entry()
		if d.bad {
			x.broken = errRecord
			return
		}
		x.blocks = append(x.blocks, blockAt{at, first.Path})
		buf, at = block, next
	}
}

// Lookup finds the entry of a path; after the first one, which goes over the whole index, it reads one block. It returns fs.ErrNotExist
// where there is none.
func (x *Index) Lookup(path string) (Entry, error) {
	x.once.Do(x.scan)
	if x.broken != nil {
		return Entry{}, x.broken
	}
	i, _ := slices.BinarySearchFunc(x.blocks, path, func(b blockAt, path string) int {
		if comparePaths(b.first, path) <= 0 {
			return -1
		}
		return 1
	})
	if i > 0 {
		block, records, _, err := x.block(x.blocks[i-1].at, nil)
		if err != nil {
			return Entry{}, err
		}
		d := decoder{data: block}
		for range records {
			kind := d.head()
			if !d.bad && string(d.path) == path {
				e := d.rest(kind)
				if !d.bad {
					return e, nil
				}
			}
			d.skip(kind)
			if d.bad {
				return Entry{}, errRecord
			}
		}
	}
	return Entry{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

// decoder reads records off a block; a length that does not fit makes it bad, and it then yields nothing more.
type decoder struct {
	data []byte
	path []byte // of the record that was read last
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.data)) {
		d.bad, d.data = true, nil
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) string() string { return string(d.bytes(d.uvarint())) }

func (d *decoder) entry() Entry { return d.rest(d.head()) }

// head reads a record up to its path.
func (d *decoder) head() (kind byte) {
	if b := d.bytes(1); len(b) == 1 {
		kind = b[0]
	}
	shared := d.uvarint()
	tail := d.bytes(d.uvarint())
	if shared > uint64(len(d.path)) || shared+uint64(len(tail)) >= maxPath {
		d.bad, shared, tail = true, 0, nil
	}
	d.path = append(d.path[:shared], tail...)
	return kind
}

// rest reads what follows the path.
func (d *decoder) rest(kind byte) Entry {
	e := Entry{Path: string(d.path), Type: kind}
	e.Mode, e.UID, e.GID = uint32(d.uvarint()), uint32(d.uvarint()), uint32(d.uvarint())
	e.Size, e.Dev = int64(d.uvarint()), d.uvarint()
	e.ModTime = time.Unix(d.varint(), int64(d.uvarint()%1e9))
	if e.Type == TypeFile {
		copy(e.Content[:], d.bytes(16))
	}
	e.Link = d.string()
	if n := d.uvarint(); n > 0 && n <= uint64(len(d.data)) {
		e.Xattrs = make(map[string]string)
		for range n {
			name := d.string()
			e.Xattrs[name] = d.string()
		}
	} else if n > 0 {
		d.bad = true
	}
	return e
}

// skip goes over what follows the path.
func (d *decoder) skip(kind byte) {
	for range 5 { // mode, owner, size, device
		d.uvarint()
	}
	d.varint()
	d.uvarint()
	if kind == TypeFile {
		d.bytes(16)
	}
	d.bytes(d.uvarint())
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		d.bytes(d.uvarint())
		d.bytes(d.uvarint())
	}
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
		return 0
	}
	d.data = d.data[n:]
	return v
}
