package layer

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sort"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Entry is one name of a layer.
type Entry = diff.Entry

// The types of an entry: see package diff.
const (
	TypeFile     = diff.TypeFile
	TypeSymlink  = diff.TypeSymlink
	TypeChar     = diff.TypeChar
	TypeBlock    = diff.TypeBlock
	TypeDir      = diff.TypeDir
	TypeFifo     = diff.TypeFifo
	TypeHardlink = diff.TypeHardlink
	TypeWhiteout = diff.TypeWhiteout
	TypeOpaque   = diff.TypeOpaque
)

const (
	indexMagic  = "layerctl-index 1\n"
	blockSize   = 64 << 10
	maxBlock    = 64 << 20 // a record with the largest attributes fits
	blockHeader = 12
	maxPath     = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func comparePaths(a, b string) int { return diff.ComparePaths(a, b) }

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
