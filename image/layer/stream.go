package layer

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/layerctl/layerctl/image/direct"
)

// tarStream carries a tar from the one who makes it to those who use it, slab by slab, so that all of them are at work at once. Each
// user has a goroutine of its own and sees every slab, in order.
type tarStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	now    *slab
	free   chan *slab
	users  []chan *slab
	ended  sync.WaitGroup

	mu     sync.Mutex
	failed error // of a user
}

// slab is a part of the tar, and what was told of the entries that are in it.
type slab struct {
	buf  []byte
	used int
	told []told
	left atomic.Int32 // users who have not done with it
}

// told says of some bytes of a slab that they are content of an entry. The last of an entry's comes with the entry itself.
type told struct {
	from, to int
	entry    *Entry
}

const (
	streamSlabs = 4
	maxTold     = 4096 // a slab has room for half as many headers; entries without one are bounded here
)

func newTarStream(ctx context.Context, users ...func(*slab) error) *tarStream {
	t := &tarStream{free: make(chan *slab, streamSlabs)}
	t.ctx, t.cancel = context.WithCancel(ctx)
	for range streamSlabs {
		t.free <- &slab{}
	}
	for _, use := range users {
		pieces := make(chan *slab, streamSlabs)
		t.users = append(t.users, pieces)
		t.ended.Go(func() {
			var err error
			for p := range pieces {
				if err == nil {
					if err = use(p); err != nil {
						t.fail(err)
					}
				}
				if p.left.Add(-1) == 0 {
					p.used, p.told = 0, p.told[:0]
					t.free <- p
				}
			}
		})
	}
	return t
}

func (t *tarStream) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = errors.Join(t.failed, err)
	t.cancel()
}

// room is where the next bytes of the tar may be put.
func (t *tarStream) room() ([]byte, error) {
	if t.now != nil && t.now.used == len(t.now.buf) {
		t.send()
	}
	if t.now == nil {
		if err := t.ctx.Err(); err != nil {
			return nil, err
		}
		select {
		case t.now = <-t.free:
		case <-t.ctx.Done():
			return nil, t.ctx.Err()
		}
		if t.now.buf == nil {
			t.now.buf = direct.Buffer()
		}
	}
	return t.now.buf[t.now.used:], nil
}

// content says that so many bytes were put into the room, and that they are content of the entry that is told next.
func (t *tarStream) content(n int) {
	t.now.told = append(t.now.told, told{from: t.now.used, to: t.now.used + n})
	t.now.used += n
}

// tell hands an entry on to the users.
func (t *tarStream) tell(e *Entry) error {
	_, err := t.room()
	if err != nil {
		return err
	}
	t.now.told = append(t.now.told, told{entry: e})
	if len(t.now.told) >= maxTold {
		t.send()
	}
	return nil
}

// Write puts bytes that lie elsewhere into the room.
func (t *tarStream) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		room, err := t.room()
		if err != nil {
			return n, err
		}
		m := copy(room, b[n:])
		t.now.used += m
		n += m
	}
	return len(b), nil
}

// WriteString is Write of a string.
func (t *tarStream) WriteString(s string) (int, error) { return t.Write([]byte(s)) }

// Flush does nothing: end sends what is left.
func (t *tarStream) Flush() error { return nil }

func (t *tarStream) send() {
	p := t.now
	t.now = nil
	p.left.Store(int32(len(t.users)))
	for _, u := range t.users {
		u <- p
	}
}

// end waits until the users have done, and returns what went wrong: with one of them, or else with the maker.
func (t *tarStream) end(err error) error {
	if t.now != nil && err == nil {
		t.send()
	}
	for _, u := range t.users {
		close(u)
	}
	t.ended.Wait()
	t.cancel()
	if t.now != nil && t.now.buf != nil {
		direct.Release(t.now.buf)
	}
	for len(t.free) > 0 {
		if p := <-t.free; p.buf != nil {
			direct.Release(p.buf)
		}
	}
	if t.failed != nil {
		return t.failed
	}
	return err
}
