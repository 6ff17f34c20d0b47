package monitor

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ahead is how many bytes may wait for a client that is fed from the log when there are more, and aheadAlone where there is no log.
	ahead      = 256 << 10
	aheadAlone = 1 << 20
	// patience is for how long the container waits for a client that takes nothing, where no log keeps what the client has not seen.
	patience = 10 * time.Second
)

// client is the hub's side of one Conn. What it is sent goes to the socket at once where there is room; only where there is not a
// goroutine writes what waits, so that a client to whom nothing is to be said costs one goroutine that listens.
type client struct {
	h    *Hub
	conn *Conn
	Hello
	inputs int      // which wait for the container. Below stdin's lock
	pipe   *os.File // for what is printed; nil where there is none

	// Below the hub's lock:
	out      []byte    // what waits
	writing  int       // bytes that are being written of what waited
	flushing bool      // somebody writes
	progress time.Time // when the client last took something, while somebody writes
	behind   bool      // it is fed from the log, from pos on
	pos      int64
	last     []byte        // the last frame, when all else was sent
	gone     bool          // it takes nothing more
	credit   time.Duration // for how long it may be waited for: see pass
}

// serve listens to the client for as long as it is there. The first frame was taken already.
func (c *client) serve() {
	defer c.leave()
	for {
		kind, data, err := c.conn.receive()
		if err != nil {
			return
		}
		switch {
		case kind == frameInput:
			if !c.h.takeInput(c, data) {
				return
			}
		case kind == frameEnd:
			c.h.endInput(c, true)
		case kind == frameSize && len(data) == 4:
			c.h.resize(binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:]), false)
		case kind == frameSignal && len(data) == 1 && data[0] > 0 && data[0] <= 64:
			select {
			case c.h.signals <- os.Signal(unix.Signal(data[0])):
			default: // as the kernel does with one that is pending already
			}
		case kind == frameHangup && len(data) == 1:
			c.h.hangUp(c, data[0])
		}
	}
}

// leave takes the client out of the hub.
func (c *client) leave() {
	c.h.endInput(c, false)
	c.h.mu.Lock()
	c.drop()
	c.h.mu.Unlock()
	c.pipe.Close()
	c.conn.Close() // which waits for who is writing, who may want the lock
}

// drop forgets the client: it takes nothing more. What it has sent is still taken in. The hub's lock must be held, as for what follows.
func (c *client) drop() {
	c.gone, c.out, c.behind = true, nil, false
	delete(c.h.clients, c)
	c.h.moved.Broadcast()
}

// waiting says how many bytes the client has still to take.
func (c *client) waiting() int { return len(c.out) + c.writing }

// listens says whether the client is to be given what is printed.
func (c *client) listens() bool { return c.Output && !c.gone && c.last == nil }

// full says whether so much waits that b should not wait, too.
func (c *client) full(b []byte) bool {
	limit := ahead
	if c.h.log == nil {
		limit = aheadAlone
	}
	return c.waiting() > 0 && c.waiting()+len(b) > limit
}

// blocks says whether the client could not be given b if it was printed now.
func (c *client) blocks(b []byte) bool {
	switch {
	case c.behind:
		return c.pos < c.h.log.Floor(b)
	case !c.full(b):
		return false
	}
	return c.h.log == nil || c.h.log.Mark() < c.h.log.Floor(b)
}

// send sends a frame, or puts it where it waits for the client.
func (c *client) send(kind byte, data []byte) {
	if c.gone || c.last != nil {
		return
	}
	c.put(appendHeader(nil, kind, len(data)), data)
}

func (c *client) put(first, second []byte) {
	n := 0
	if !c.flushing {
		var err error
		if n, err = c.conn.try(first, second, nil); err != nil {
			c.drop()
			return
		}
	}
	k := min(n, len(first))
	c.out = append(append(c.out, first[k:]...), second[n-k:]...)
	if len(c.out) > 0 {
		c.flush()
	}
}

// flush has somebody write what waits.
func (c *client) flush() {
	if !c.flushing && !c.gone {
		c.flushing, c.progress = true, time.Now()
		go c.write()
	}
}

// finish sends the last frame, when all that the container printed was sent.
func (c *client) finish(kind byte, data []byte) {
	if c.gone || c.last != nil {
		return
	}
	last := appendFrame(nil, kind, data)
	if c.behind {
		c.last = last
		c.flush()
		return
	}
	c.put(last, nil)
	c.last = last
}

// finished says whether the last frame is on its way, or there is nobody to send it to.
func (c *client) finished() bool { return c.gone || c.last != nil && !c.flushing }

// write writes what waits, and feeds the client from the log until it has caught up.
func (c *client) write() {
	h := c.h
	h.mu.Lock()
	defer h.mu.Unlock()
	for !c.gone {
		if len(c.out) == 0 && c.behind {
			c.feed()
			continue
		}
		if len(c.out) == 0 {
			c.flushing = false
			h.moved.Broadcast()
			return
		}
		b := c.out
		c.out, c.writing = nil, len(b)
		h.mu.Unlock()
		err := c.conn.write(func(n int) {
			h.mu.Lock()
			c.writing -= n
			c.progress = time.Now()
			h.moved.Broadcast()
			h.mu.Unlock()
		}, b, nil)
		h.mu.Lock()
		c.writing = 0
		if err != nil {
			c.drop()
		}
	}
}

// feed takes the next of what the client has missed from the log. It lets go of the hub's lock while it reads, until there is so little
// that it can be read within: then the client has caught up.
func (c *client) feed() {
	h := c.h
	from, n := c.pos, 0
	var b []byte
	read := func(max int) {
		add := func(stream byte, data []byte) {
			n += len(data)
			b = appendFrame(b, kindOf(stream), data)
		}
		next, err := h.log.Next(from, max, add)
		if err != nil {
			b = appendFrame(b, frameNote, []byte("some of the output is missing here: "+err.Error()))
		}
		from = next
	}
	h.mu.Unlock()
	read(chunk)
	h.mu.Lock()
	if n < chunk {
		before := from
		read(ahead)
		c.behind = from != h.log.Mark() && from != before
	}
	if c.gone {
		return
	}
	c.pos, c.out = from, append(c.out, b...)
	if !c.behind && c.last != nil {
		c.out = append(c.out, c.last...)
	}
}

func kindOf(stream byte) byte {
	if stream == Stderr {
		return frameErrors
	}
	return frameOutput
}
