package monitor

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// stdin is the container's, to which clients send. What the container does not take at once waits, and somebody writes it: at most
// inFlight pieces a client, because each waits to be told that they were taken.
type stdin struct {
	mu      sync.Mutex
	f       *os.File
	rc      syscall.RawConn
	pipe    bool
	queue   []piece
	writing bool
	shut    bool    // the container takes no more of it
	owner   *client // with whom it ends
	ended   bool    // and it has
}

// piece is some input, or the end of it.
type piece struct {
	from *client
	data []byte
	end  bool
}

// begin connects stdin with a container's.
func (s *stdin) begin(f *os.File, pipe bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f, s.pipe = f, pipe
	var err error
	if pipe {
		s.f, s.rc, err = own(f)
	} else {
		s.rc, err = f.SyscallConn()
	}
	if err != nil {
		return err
	}
	if s.shut = false; s.ended && pipe {
		s.queue = append(s.queue, piece{end: true})
	}
	s.write()
	return nil
}

// own makes a client stdin's owner, if it has none.
func (s *stdin) own(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == nil {
		s.owner = c
	}
}

// hand gives a client an end of the pipe that is the container's stdin, so that its input needs neither frames nor the monitor. Where
// input ends with a client that one alone gets it: nobody else, stopped perhaps, can keep it open. A client for whom something waits does
// not get it, and goes on with frames, as all do that know nothing of this. The hub's lock must be held.
func (s *stdin) hand(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.Pipe || !c.Input || s.f == nil || !s.pipe || s.shut || s.ended || s.owner != nil && s.owner != c || c.gone || c.last != nil || c.waiting() > 0 {
		return
	}
	// It is opened anew, for who waits when it is full: that belongs to what was opened, and the monitor must not wait.
	fd := -1
	err := s.rc.Control(func(ours uintptr) {
		fd, _ = unix.Open(fmt.Sprintf("/proc/self/fd/%d", ours), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil || fd < 0 {
		return // nobody reads it any more
	}
	defer unix.Close(fd)
	if unix.SetNonblock(fd, false) != nil {
		return
	}
	frame := appendFrame(nil, frameStdin, nil)
	if n, err := c.conn.try(frame, nil, unix.UnixRights(fd)); err == nil && n > 0 && n < len(frame) {
		c.put(frame[n:], nil)
	}
}

// close disconnects it.
func (s *stdin) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f != nil && s.pipe {
		s.f.Close()
	}
	s.f, s.rc = nil, nil
	for _, p := range s.queue {
		if p.from != nil && !p.end {
			p.from.inputs--
			go p.from.taken(false)
		}
	}
	s.queue = nil
}

// takeInput takes what a client sent, and says whether the client keeps to the rules.
func (h *Hub) takeInput(c *client, data []byte) bool {
	if !h.o.Stdin || !c.Input {
		c.taken(false)
		return true
	}
	s := &h.stdin
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		c.taken(true)
		return true
	}
	if s.f != nil && len(s.queue) == 0 && !s.writing {
		n, err := writeNow(s.rc, data)
		if err != nil {
			s.shut = true
		}
		if data = data[n:]; len(data) == 0 || err != nil {
			s.mu.Unlock()
			c.taken(err != nil)
			return true
		}
	}
	defer s.mu.Unlock()
	c.inputs++
	s.queue = append(s.queue, piece{from: c, data: append([]byte(nil), data...)})
	s.write()
	return c.inputs <= inFlight+1
}

// endInput is that a client sends no more, because it said so, or is gone.
func (h *Hub) endInput(c *client, said bool) {
	s := &h.stdin
	s.mu.Lock()
	defer s.mu.Unlock()
	// A terminal's input ends when the user says so; one who has gone may come back.
	if s.owner == c && !s.ended && (said || !h.o.TTY) {
		s.ended = true
		s.queue = append(s.queue, piece{from: c, end: true})
		s.write()
	}
}

// taken tells a client that one of its inputs was taken, or that no more are wanted.
func (c *client) taken(shut bool) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if shut {
		c.send(frameFull, nil)
	}
	c.send(frameTaken, nil)
}

// write has somebody write what waits. The lock must be held.
func (s *stdin) write() {
	if s.f != nil && !s.writing && len(s.queue) > 0 {
		s.writing = true
		go s.run()
	}
}

func (s *stdin) run() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 && s.f != nil {
		p := s.queue[0]
		s.queue = s.queue[1:]
		f, pipe, shut := s.f, s.pipe, s.shut
		s.mu.Unlock()
		var err error
		switch {
		case shut:
		case p.end && pipe:
			err = f.Close()
			shut = true
		case p.end:
			_, err = f.Write([]byte{4}) // ^D, which ends input on a terminal
		default:
			_, err = f.Write(p.data)
		}
		if !p.end {
			p.from.taken(shut || err != nil)
		}
		s.mu.Lock()
		s.shut = s.shut || shut || err != nil
		if !p.end {
			p.from.inputs--
		}
	}
	s.writing = false
}

// writeNow writes what can be written without waiting.
func writeNow(rc syscall.RawConn, b []byte) (n int, err error) {
	cerr := rc.Control(func(fd uintptr) {
		for {
			if n, err = unix.Write(int(fd), b); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	if err == unix.EAGAIN {
		err = nil
	}
	return max(n, 0), err
}
