package monitor

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Session is the monitor's side of one user: what he sends is taken in at once, whatever the container does with it, so that a signal
// or the window's new size never waits behind what was typed.
type Session struct {
	c       *Conn
	input   chan []byte // at most inFlight, because the other side waits to be told that it was taken, and the end
	signals chan os.Signal
	carried sync.WaitGroup

	mu         sync.Mutex
	console    *os.File
	rows, cols uint16
	hung       bool
}

// NewSession begins to listen to a user. It waits for the first frame, which says how large his window is.
func NewSession(c *Conn) *Session {
	s := &Session{c: c, input: make(chan []byte, inFlight+1), signals: make(chan os.Signal, 64)}
	s.receive()
	go func() {
		for s.receive() {
		}
	}()
	return s
}

// Signals are what the user sends to the container.
func (s *Session) Signals() <-chan os.Signal { return s.signals }

// receive takes one frame in, and says whether there may be another.
func (s *Session) receive() bool {
	kind, data, err := s.c.Receive()
	if err != nil {
		return false
	}
	switch {
	case kind == Input:
		s.input <- data
	case kind == End:
		s.input <- []byte{4} // ^D, which ends input on a terminal
	case kind == Size && len(data) == 4:
		s.change(func() { s.rows, s.cols = binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:]) })
	case kind == Signal && len(data) == 1:
		select {
		case s.signals <- unix.Signal(data[0]):
		default: // as the kernel does with one that is pending already
		}
	case kind == Hangup:
		s.change(func() { s.hung = true })
	}
	return true
}

// Take gives the session the container's terminal, before anybody in the container sees it.
func (s *Session) Take(console *os.File) { s.change(func() { s.console = console }) }

// change changes what the container's terminal should be, and makes it so.
func (s *Session) change(what func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what()
	switch {
	case s.console == nil:
	case s.hung:
		s.console.Close()
	default:
		setSize(s.console, s.rows, s.cols)
	}
}

// Carry begins to carry the terminal to and from the user, until the terminal is closed, which is when the container's last process that
// has it is gone. A user who goes away leaves the container running: what it prints then is dropped, so that it never waits.
func (s *Session) Carry() {
	go func() {
		for data := range s.input {
			s.console.Write(data)
			s.c.Send(Taken, nil)
		}
	}()
	s.carried.Go(func() {
		buf := make([]byte, 32<<10)
		there := true
		for {
			n, err := s.console.Read(buf)
			if n > 0 && there {
				there = s.c.Send(Output, buf[:n]) == nil
			}
			if err != nil {
				return // EIO: nobody has the other side
			}
		}
	})
}

// Wait waits until all has been carried.
func (s *Session) Wait() { s.carried.Wait() }

// setSize sets a terminal's window size, of which its processes are told by SIGWINCH.
func setSize(console *os.File, rows, cols uint16) {
	rc, err := console.SyscallConn()
	if err == nil {
		rc.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}) })
	}
}
