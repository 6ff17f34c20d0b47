package layer

import (
	"encoding/binary"
	"fmt"
	"time"
)

var errRecord = fmt.Errorf("index has a record that does not parse: %w", ErrMalformed)

// decoder reads records off a block; a length that does not fit makes it bad, and it then yields nothing more. It goes on by a number: a
// slice that is cut anew for each field would have the collector look at each.
type decoder struct {
	data []byte
	at   int
	path []byte // of the record that was read last
	bad  bool
}

// begin goes to the beginning of a block.
func (d *decoder) begin(block []byte) { d.data, d.at, d.path, d.bad = block, 0, d.path[:0], false }

// left is how many bytes are to be read.
func (d *decoder) left() int { return len(d.data) - d.at }

func (d *decoder) fail() { d.bad, d.at = true, len(d.data) }

func (d *decoder) uvarint() uint64 {
	if d.at < len(d.data) && d.data[d.at] < 0x80 {
		d.at++
		return uint64(d.data[d.at-1])
	}
	v, n := binary.Uvarint(d.data[d.at:])
	if n <= 0 {
		d.fail()
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(d.left()) {
		d.fail()
		return nil
	}
	d.at += int(n)
	return d.data[d.at-int(n) : d.at]
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
	if n := d.uvarint(); n > 0 && n <= uint64(d.left()) {
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
	v, n := binary.Varint(d.data[d.at:])
	if n <= 0 {
		d.fail()
		return 0
	}
	d.at += n
	return v
}
