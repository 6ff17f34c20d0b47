package layer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"sort"
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

// writeIndex writes entries in the index's order and form.
func writeIndex(w io.Writer, entries []Entry) error {
	slices.SortFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
	bw := bufio.NewWriterSize(w, 64<<10)
	if _, err := bw.WriteString(indexMagic); err != nil {
		return err
	}
	var block []byte
	records, previous := 0, ""
	flush := func() error {
		var h [blockHeader]byte
		binary.LittleEndian.PutUint32(h[0:], uint32(len(block)))
		binary.LittleEndian.PutUint32(h[4:], uint32(records))
		binary.LittleEndian.PutUint32(h[8:], crc32.Checksum(block, castagnoli))
		if _, err := bw.Write(h[:]); err != nil {
			return err
		}
		_, err := bw.Write(block)
		block, records, previous = block[:0], 0, ""
		return err
	}
	for i := range entries {
		block = appendEntry(block, &entries[i], previous)
		previous = entries[i].Path
		records++
		if len(block) >= blockSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if records > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	if err := flush(); err != nil { // the end: a block of length 0
		return err
	}
	return bw.Flush()
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

// Index reads a layer index. Every block is verified before anything in it is believed.
type Index struct{ data []byte }

// OpenIndex reads the index at path. It returns ErrMalformed for a file that is none.
func OpenIndex(path string) (*Index, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(data, []byte(indexMagic)) {
		return nil, fmt.Errorf("%s: not an index of version 1: %w", path, ErrMalformed)
	}
	return &Index{data: data[len(indexMagic):]}, nil
}

// next splits the first block off data; an empty one is the end.
func nextBlock(data []byte) (block []byte, records int, rest []byte, err error) {
	if len(data) < blockHeader {
		return nil, 0, nil, fmt.Errorf("index ends in the middle of a block: %w", ErrMalformed)
	}
	n := int64(binary.LittleEndian.Uint32(data))
	records = int(binary.LittleEndian.Uint32(data[4:]))
	sum := binary.LittleEndian.Uint32(data[8:])
	data = data[blockHeader:]
	if n > maxBlock || n > int64(len(data)) {
		return nil, 0, nil, fmt.Errorf("index has a block of %d bytes where %d are left: %w", n, len(data), ErrMalformed)
	}
	block = data[:n]
	if crc32.Checksum(block, castagnoli) != sum {
		return nil, 0, nil, fmt.Errorf("index is damaged: %w", ErrMalformed)
	}
	return block, records, data[n:], nil
}

// All yields the entries in order. An error ends it.
func (x *Index) All() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		data := x.data
		for {
			block, records, rest, err := nextBlock(data)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if len(block) == 0 {
				if len(rest) > 0 || records > 0 {
					yield(Entry{}, fmt.Errorf("index goes on behind its end: %w", ErrMalformed))
				}
				return
			}
			d := decoder{data: block}
			for range records {
				e := d.entry()
				if d.bad {
					yield(Entry{}, fmt.Errorf("index has a record that does not parse: %w", ErrMalformed))
					return
				}
				if !yield(e, nil) {
					return
				}
			}
			data = rest
		}
	}
}

// Lookup finds the entry of a path, decoding only the block that can hold it. It returns fs.ErrNotExist where there is none.
func (x *Index) Lookup(path string) (Entry, error) {
	var candidate []byte
	n := 0
	for data := x.data; ; {
		block, records, rest, err := nextBlock(data)
		if err != nil {
			return Entry{}, err
		}
		if len(block) == 0 {
			break
		}
		first := (&decoder{data: block}).entry()
		if comparePaths(first.Path, path) > 0 {
			break
		}
		candidate, n, data = block, records, rest
	}
	d := decoder{data: candidate}
	for range n {
		e := d.entry()
		if d.bad {
			return Entry{}, fmt.Errorf("index has a record that does not parse: %w", ErrMalformed)
		}
		if e.Path == path {
			return e, nil
		}
	}
	return Entry{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

// decoder reads records off a block; a length that does not fit makes it bad, and it then yields nothing more.
type decoder struct {
	data     []byte
	previous string
	bad      bool
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

func (d *decoder) entry() Entry {
	var e Entry
	if b := d.bytes(1); len(b) == 1 {
		e.Type = b[0]
	}
	shared := d.uvarint()
	if shared > uint64(len(d.previous)) {
		d.bad, shared = true, 0
	}
	e.Path = d.previous[:shared] + d.string()
	d.previous = e.Path
	e.Mode, e.UID, e.GID = uint32(d.uvarint()), uint32(d.uvarint()), uint32(d.uvarint())
	e.Size, e.Dev = int64(d.uvarint()), d.uvarint()
	sec, n := binary.Varint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
	} else {
		d.data = d.data[n:]
	}
	e.ModTime = time.Unix(sec, int64(d.uvarint()%1e9))
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
