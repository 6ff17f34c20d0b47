package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Packing is a way to compress a layer's tar: Gzip or Zstd at a level.
type Packing struct {
	Compression Compression
	Level       int
}

// DefaultPacking is gzip, which everybody reads, at the level that is best for its time.
var DefaultPacking = Packing{Gzip, 5}

// The versions of what NewCompressor makes, one higher whenever the same tar gives other bytes than before: by a change here, or in the
// library that compresses. A test knows the bytes.
const (
	gzipVersion = 1
	zstdVersion = 1
)

// ParsePacking reads gzip[:1-9] or zstd[:1-22]. Without a level it is the one that each is used with: 5 and 3. zstd has four grades, each
// for several levels: 1 (1, 2), 3 (3 to 5), 6 (6 to 9) and 10 (10 to 22).
func ParsePacking(s string) (Packing, error) {
	name, given, leveled := strings.Cut(s, ":")
	level, err := strconv.Atoi(given)
	switch {
	case name == "gzip" && !leveled:
		return DefaultPacking, nil
	case name == "zstd" && !leveled:
		return Packing{Zstd, 3}, nil
	case name == "gzip" && err == nil && level >= 1 && level <= 9:
		return Packing{Gzip, level}, nil
	case name == "zstd" && err == nil && level >= 1 && level <= 22:
		grade := map[zstd.EncoderLevel]int{zstd.SpeedFastest: 1, zstd.SpeedDefault: 3, zstd.SpeedBetterCompression: 6, zstd.SpeedBestCompression: 10}
		return Packing{Zstd, grade[zstd.EncoderLevelFromZstd(level)]}, nil
	}
	return Packing{}, fmt.Errorf("compression %.50q: want gzip, gzip:1 to gzip:9, zstd, or zstd:1 to zstd:22: %w", s, ErrUnsupported)
}

// String is what ParsePacking reads.
func (p Packing) String() string { return p.Compression.String() + ":" + strconv.Itoa(p.Level) }

// Key names the bytes that come of a tar: as long as it is the same, they are.
func (p Packing) Key() string {
	version := gzipVersion
	if p.Compression == Zstd {
		version = zstdVersion
	}
	return p.String() + ":" + strconv.Itoa(version)
}

// How much is compressed in one piece. It is part of the format: other sizes give other bytes.
const (
	gzipPiece  = 1 << 20
	zstdPiece  = 4 << 20
	gzipWindow = 32 << 10 // how far back deflate looks (RFC 1951, 2)
)

// compressor compresses on all cores. The stream is cut into pieces of one size, which are compressed at the same time and written in
// their order, so that the bytes are the same whatever the number of cores and the sizes of the writes.
type compressor struct {
	packing Packing
	out     io.Writer
	plain   io.Writer

	piece  *piece      // that is being filled
	dict   []byte      // of deflate: the end of the one before
	work   chan *piece // for the workers
	order  chan *piece // for the writer, as they were filled
	idle   chan *piece // to be filled again
	made   int
	most   int
	ended  chan struct{}
	failed atomic.Pointer[error]
	wg     sync.WaitGroup
	closed bool
}

// piece is a part of the stream on its way.
type piece struct {
	in    []byte
	dict  []byte
	out   bytes.Buffer
	last  bool
	first bool
	done  chan struct{}
}

// NewCompressor returns a writer that compresses to out, on as many cores as there are. Gzip is one member without a name or time, zstd
// is frames of 4 MiB. plain, where it is not nil, is given the stream as it was written, in order and in the goroutine that writes to
// out. Close ends the stream, and must be called; after an error, which Write or Close returns, nothing more is written.
func NewCompressor(out io.Writer, p Packing, plain io.Writer) io.WriteCloser {
	workers := runtime.GOMAXPROCS(0)
	c := &compressor{packing: p, out: out, plain: plain, most: workers + 2, ended: make(chan struct{})}
	c.work, c.order, c.idle = make(chan *piece, c.most), make(chan *piece, c.most), make(chan *piece, c.most)
	for range workers {
		c.wg.Go(c.compress)
	}
	go c.write()
	return c
}

func (c *compressor) size() int {
	if c.packing.Compression == Zstd {
		return zstdPiece
	}
	return gzipPiece
}

func (c *compressor) err() error {
	if e := c.failed.Load(); e != nil {
		return *e
	}
	return nil
}

func (c *compressor) fail(err error) {
	if err != nil {
		c.failed.CompareAndSwap(nil, &err)
	}
}

// Write takes the next bytes.
func (c *compressor) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		if err := c.err(); err != nil {
			return n, err
		}
		if c.piece == nil {
			c.piece = c.next()
		}
		k := copy(c.piece.in[len(c.piece.in):c.size()], b)
		c.piece.in = c.piece.in[:len(c.piece.in)+k]
		b, n = b[k:], n+k
		if len(c.piece.in) == c.size() {
			c.send(false)
		}
	}
	return n, nil
}

// next is a piece to fill, and waits for one where as many are on their way as may be.
func (c *compressor) next() *piece {
	if c.made < c.most {
		c.made++
		return &piece{in: make([]byte, 0, c.size()), first: c.made == 1, done: make(chan struct{}, 1)}
	}
	p := <-c.idle
	p.in, p.first = p.in[:0], false
	p.out.Reset()
	return p
}

func (c *compressor) send(last bool) {
	p := c.piece
	p.last, p.dict = last, c.dict
	if c.packing.Compression == Gzip && !last {
		c.dict = slices.Clone(p.in[len(p.in)-gzipWindow:]) // p may be filled again before its successor is compressed
	}
	c.piece = nil
	c.order <- p
	c.work <- p
}

// Close ends the stream and waits until all of it is written.
func (c *compressor) Close() error {
	if c.closed {
		return c.err()
	}
	c.closed = true
	if c.piece == nil {
		c.piece = c.next()
	}
	c.send(true)
	close(c.work)
	close(c.order)
	c.wg.Wait()
	<-c.ended
	return c.err()
}

// compress is a worker.
func (c *compressor) compress() {
	pack := deflater(c.packing.Level)
	if c.packing.Compression == Zstd {
		pack = zstder(c.packing.Level)
	}
	for p := range c.work {
		if c.err() == nil {
			c.fail(pack(p))
		}
		p.done <- struct{}{}
	}
}

func deflater(level int) func(*piece) error {
	var w *flate.Writer
	return func(p *piece) (err error) {
		if w == nil {
			if w, err = flate.NewWriter(nil, level); err != nil {
				return err
			}
		}
		w.ResetDict(&p.out, p.dict)
		if _, err = w.Write(p.in); err != nil {
			return err
		}
		if p.last {
			return w.Close()
		}
		return w.Flush() // up to a whole byte, and without the mark of the end
	}
}

func zstder(level int) func(*piece) error {
	var w *zstd.Encoder
	return func(p *piece) (err error) {
		if w == nil {
			w, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(zstdPiece), zstd.WithZeroFrames(true))
			if err != nil {
				return err
			}
		}
		if len(p.in) == 0 && !p.first {
			return nil // only an empty stream is an empty frame
		}
		p.out.Grow(len(p.in)/2 + 1024)
		b := w.EncodeAll(p.in, p.out.AvailableBuffer())
		_, err = p.out.Write(b)
		return err
	}
}

// write writes the pieces in their order.
func (c *compressor) write() {
	defer close(c.ended)
	emit := func(b []byte) {
		if c.err() == nil {
			_, err := c.out.Write(b)
			c.fail(err)
		}
	}
	crc, size := uint32(0), uint32(0)
	if c.packing.Compression == Gzip {
		// RFC 1952, 2.3: no flags, no time, no word on the effort, an unknown system.
		emit([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	}
	for p := range c.order {
		if c.plain != nil && c.err() == nil {
			_, err := c.plain.Write(p.in)
			c.fail(err)
		}
		if c.packing.Compression == Gzip {
			crc, size = crc32.Update(crc, crc32.IEEETable, p.in), size+uint32(len(p.in))
		}
		<-p.done
		emit(p.out.Bytes())
		c.idle <- p
	}
	if c.packing.Compression == Gzip {
		emit(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, crc), size))
	}
}
