package layer

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/layerctl/layerctl/image/direct"
	"github.com/layerctl/layerctl/image/layer/inflate"
)

// overlap reads ahead of its consumer in a goroutine of its own, through a fixed ring of buffers, so that what makes the bytes and
// what uses them run at the same time.
type overlap struct {
	full  chan chunk
	empty chan []byte
	now   chunk
	quit  chan struct{}
}

// chunk is a piece of the stream. Its data lies within buf, which goes back to the ring.
type chunk struct {
	buf, data []byte
	err       error
}

const (
	ringBuffers = 4
	ringSize    = inflate.History + 256<<10
)

var ringPool = sync.Pool{New: func() any { b := make([]byte, ringSize); return &b }}

// newOverlap begins to fill buffers. What fill returns lies within the buffer that it was given; it is called until it returns an error.
func newOverlap(fill func(buf []byte) ([]byte, error)) *overlap {
	o := &overlap{full: make(chan chunk, ringBuffers), empty: make(chan []byte, ringBuffers), quit: make(chan struct{})}
	for range ringBuffers {
		o.empty <- nil // a buffer is taken when it is needed: most layers need one
	}
	go func() {
		defer close(o.full)
		for {
			var buf []byte
			select {
			case buf = <-o.empty:
			case <-o.quit:
				return
			}
			if buf == nil {
				buf = *ringPool.Get().(*[]byte)
			}
			data, err := fill(buf)
			select {
			case o.full <- chunk{buf, data, err}:
			case <-o.quit:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return o
}

// through passes what o makes on to another consumer, who must be the only one, and lets f look at it on the way, in a goroutine of its
// own. An error of f ends the stream. Both are stopped together.
func (o *overlap) through(f func([]byte) error) *overlap {
	next := &overlap{full: make(chan chunk, ringBuffers), empty: o.empty, quit: o.quit}
	go func() {
		defer close(next.full)
		for c := range o.full {
			if err := f(c.data); err != nil {
				c.data, c.err = nil, err
			}
			select {
			case next.full <- c:
			case <-o.quit:
				return
			}
			if c.err != nil {
				return
			}
		}
	}()
	return next
}

// reading fills buffers from a reader.
func reading(r io.Reader) func([]byte) ([]byte, error) {
	return func(buf []byte) ([]byte, error) {
		n, err := fill(r, buf)
		return buf[:n], err
	}
}

// inflating fills buffers from a gzip stream, each behind the end of the one before it, to which matches refer.
func inflating(z *inflate.Reader) func([]byte) ([]byte, error) {
	var last []byte
	return func(buf []byte) ([]byte, error) {
		at := copy(buf, last)
		n, err := z.Decode(buf, at)
		last = buf[max(0, at+n-inflate.History) : at+n] // nobody but us writes to it, even when it comes around
		return buf[at : at+n], err
	}
}

// fill reads until the buffer is full; unlike io.ReadFull it hands an error on as it is.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (o *overlap) Read(p []byte) (int, error) {
	for len(o.now.data) == 0 {
		if o.now.err != nil {
			return 0, o.now.err
		}
		if o.now.buf != nil {
			o.empty <- o.now.buf
			o.now.buf = nil
		}
		select {
		case next, ok := <-o.full:
			if !ok {
				return 0, io.ErrUnexpectedEOF
			}
			o.now = next
		case <-o.quit:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(p, o.now.data)
	o.now.data = o.now.data[n:]
	return n, nil
}

// stop ends the goroutine, which may still be in its last read.
func (o *overlap) stop() { close(o.quit) }

// wait returns when the goroutine has ended, so that what it read from may be closed, and gives its buffers to the next layer. What it
// reads must have been stopped before, or have come to its end.
func (o *overlap) wait() {
	if o.now.buf != nil {
		ringPool.Put(&o.now.buf)
	}
	for c := range o.full {
		ringPool.Put(&c.buf)
	}
	for {
		select {
		case buf := <-o.empty:
			if buf != nil {
				ringPool.Put(&buf)
			}
		default:
			return
		}
	}
}

// summing hashes and counts what passes.
type summing struct {
	h     hash.Hash
	n     int64
	limit int64
}

func (s *summing) add(p []byte) error {
	s.h.Write(p)
	s.n += int64(len(p))
	if s.n > s.limit {
		return fmt.Errorf("more than %d bytes unpacked: %w", s.limit, ErrLimit)
	}
	return nil
}

// arenas hold the contents of small files on their way to the writer. There are few, so that what waits for it is bounded in bytes.
type arenas struct {
	free chan *arena
	now  *arena
}

// arena is the memory of several files; it is free when all of them are written.
type arena struct {
	buf  []byte
	used int
	refs atomic.Int32
	home chan *arena
}

const arenaCount = 3

func newArenas() *arenas {
	a := &arenas{free: make(chan *arena, arenaCount)}
	for range arenaCount {
		a.free <- nil
	}
	return a
}

// take returns memory for n bytes, at most smallFile, and the arena that it is to be given back to.
func (a *arenas) take(ctx context.Context, n int64) ([]byte, *arena, error) {
	if a.now != nil && int64(len(a.now.buf)-a.now.used) < n {
		a.now.release()
		a.now = nil
	}
	if a.now == nil {
		select {
		case a.now = <-a.free:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if a.now == nil {
			a.now = &arena{buf: direct.Buffer(), home: a.free}
		}
		a.now.used = 0
		a.now.refs.Store(1) // ours, until it is full
	}
	from := a.now.used
	a.now.used += int(n)
	a.now.refs.Add(1)
	return a.now.buf[from:a.now.used:a.now.used], a.now, nil
}

// close gives the memory of arenas that nobody uses to the next layer.
func (a *arenas) close() {
	if a.now != nil {
		a.now.release()
	}
	for {
		select {
		case free := <-a.free:
			if free != nil {
				direct.Release(free.buf)
			}
		default:
			return
		}
	}
}

// release gives back what one call of take gave.
func (a *arena) release() {
	if a != nil && a.refs.Add(-1) == 0 {
		a.home <- a
	}
}
