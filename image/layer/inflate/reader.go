package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"
)

// ErrCorrupt is what a stream is refused with that was never made by gzip, or was damaged; test with errors.Is. One that is cut short
// is io.ErrUnexpectedEOF instead.
var ErrCorrupt = errors.New("corrupt gzip stream")

type corrupt string

func (c corrupt) Error() string        { return "gzip: " + string(c) }
func (c corrupt) Is(target error) bool { return target == ErrCorrupt }

const (
	errHeader   = corrupt("invalid header")
	errReserved = corrupt("header with reserved flags")
	errHeadSum  = corrupt("header of a wrong checksum")
	errBlock    = corrupt("block of an unknown type")
	errStored   = corrupt("stored block of a wrong length")
	errCounts   = corrupt("block with too many codes")
	errCode     = corrupt("block with lengths that are no code")
	errSymbol   = corrupt("code that does not exist")
	errDistance = corrupt("match before the beginning")
	errSum      = corrupt("wrong checksum")
	errSize     = corrupt("wrong length")
)

// History is how many bytes of what was decoded last the decoder refers to.
const History = 32 << 10

// Reader inflates the members of a gzip stream. It is an io.ReadCloser; who has large buffers uses Decode instead of Read, and saves a
// copy. It reads ahead of what it has given.
type Reader struct {
	d       *decoder
	started bool // in a member, beyond its header
	sum     uint32
	size    uint32
	err     error
	buf     []byte // of Read: history, then what was decoded
	at      int    // where the next byte goes
	given   int
}

// decoders holds those of closed readers: their tables and buffers are 90 KiB.
var decoders = sync.Pool{New: func() any { return &decoder{in: make([]byte, inSize)} }}

// NewReader returns a reader of the gzip stream in src. Nothing is read yet.
func NewReader(src io.Reader) *Reader {
	d := decoders.Get().(*decoder)
	d.src, d.srcErr, d.pos, d.filled = src, nil, 0, 0
	return &Reader{d: d}
}

// Close gives back the reader's memory. It does not close the source.
func (r *Reader) Close() error {
	if r.d != nil {
		r.d.src = nil
		decoders.Put(r.d)
		r.d = nil
		r.err = errors.New("gzip: read after close")
	}
	return nil
}

const bufSize = 256 << 10

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, r.err
	}
	if r.buf == nil {
		r.buf = make([]byte, History+bufSize)
	}
	for r.given == r.at {
		if r.err != nil {
			return 0, r.err
		}
		if r.at > History {
			r.at = copy(r.buf, r.buf[r.at-History:r.at])
			r.given = r.at
		}
		n, _ := r.Decode(r.buf, r.at)
		r.at += n
	}
	n := copy(p, r.buf[r.given:r.at])
	r.given += n
	return n, nil
}

// Decode inflates into buf from at on, until the stream ends, which is io.EOF, or fewer than Room bytes are free; at least that many must be
// free at the beginning. The History bytes before at must be the last that were decoded, or all where there were fewer.
func (r *Reader) Decode(buf []byte, at int) (n int, err error) {
	from := at
	for r.err == nil && len(buf)-at >= Room {
		if !r.started {
			r.err = r.header()
			continue
		}
		n, err := r.d.decode(buf, at)
		r.sum = crc32.Update(r.sum, crc32.IEEETable, buf[at:at+n])
		r.size += uint32(n)
		at += n
		switch err {
		case nil:
		case io.EOF:
			r.err = r.trailer()
		default:
			r.err = err
		}
	}
	return at - from, r.err
}

// Room is how much of a buffer must be free for Decode to use it.
const Room = outSlack

// header reads the header of a member. RFC 1952, 2.3. The end of the input is io.EOF, even before the first one, as in compress/gzip.
func (r *Reader) header() error {
	h, err := r.bytes(10)
	if err == io.ErrUnexpectedEOF && r.d.pos == r.d.filled {
		return io.EOF
	}
	if err != nil {
		return err
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return errHeader
	}
	flags := h[3]
	r.sum = crc32.ChecksumIEEE(h)
	if flags&4 != 0 { // extra field
		b, err := r.bytes(2)
		if err != nil {
			return err
		}
		r.sum = crc32.Update(r.sum, crc32.IEEETable, b)
		for left := int(binary.LittleEndian.Uint16(b)); left > 0; {
			b, err := r.bytes(min(left, headerSize))
			if err != nil {
				return err
			}
			left -= len(b)
			r.sum = crc32.Update(r.sum, crc32.IEEETable, b)
		}
	}
	for _, flag := range []byte{8, 16} { // name, comment
		if flags&flag == 0 {
			continue
		}
		if err := r.text(); err != nil {
			return err
		}
	}
	if flags&2 != 0 {
		sum := r.sum
		b, err := r.bytes(2)
		if err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(b) != uint16(sum) {
			return errHeadSum
		}
	}
	if flags>>5 != 0 {
		return errReserved
	}
	r.sum, r.size, r.started = 0, 0, true
	r.d.reset()
	return nil
}

// bytes takes n bytes of the input, at most headerSize. They are valid until more are taken.
func (r *Reader) bytes(n int) ([]byte, error) {
	if err := r.d.need(n); err != nil {
		return nil, err
	}
	if r.d.filled-r.d.pos < n {
		return nil, io.ErrUnexpectedEOF
	}
	b := r.d.in[r.d.pos : r.d.pos+n]
	r.d.pos += n
	return b, nil
}

// text passes over a text that a zero byte ends, of at most 512 bytes with it, which is compress/gzip's limit.
func (r *Reader) text() error {
	const limit = 512
	if err := r.d.need(limit); err != nil {
		return err
	}
	b := r.d.in[r.d.pos:min(r.d.filled, r.d.pos+limit)]
	n := bytes.IndexByte(b, 0) + 1
	switch {
	case n > 0:
	case len(b) < limit:
		return io.ErrUnexpectedEOF
	default:
		return errHeader
	}
	r.sum = crc32.Update(r.sum, crc32.IEEETable, b[:n])
	r.d.pos += n
	return nil
}

// trailer reads the checksum and length behind a member.
func (r *Reader) trailer() error {
	b, err := r.bytes(8)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b) != r.sum {
		return errSum
	}
	if binary.LittleEndian.Uint32(b[4:]) != r.size {
		return errSize
	}
	r.started = false
	return nil
}
