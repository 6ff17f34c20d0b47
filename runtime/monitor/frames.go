package monitor

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Name is the name (argv[0]) under which the program is a container's monitor.
const Name = "layerctl-monitor"

// The kinds of frames: a byte, the length of what follows in 4 bytes, big-endian, and that. Those up to frameHangup go to the monitor,
// the others come from it.
const (
	frameHello  = 'H' // the first of all: see Hello
	frameInput  = 'i' // what the user typed
	frameEnd    = 'e' // there will be no more
	frameSize   = 'w' // the window: rows and columns, 2 bytes each
	frameSignal = 's' // 1 byte
	frameHangup = 'h' // nobody can see any more what the container prints on a stream, 1 byte: Stdout or Stderr

	frameStarted = 'b' // it runs: its pid, 4 bytes
	frameOutput  = 'o' // what the container printed
	frameErrors  = 'r' // the same, on its stderr
	frameTaken   = 't' // the container has taken one input
	frameFull    = 'c' // the container takes no more input
	frameStdin   = 'p' // an end of the container's stdin, a pipe, comes with it (SCM_RIGHTS, unix(7)): see Hello.Pipe
	framePipe    = 'q' // the reading end of a pipe comes with it, for what the container prints
	frameMoved   = 'm' // what the container printed is in that pipe: on which stream, 1 byte, and how many bytes, 4 bytes
	frameNote    = 'n' // a line for the user
	frameExit    = 'x' // its exit status, 4 bytes: the last frame
	frameFailed  = 'f' // it could not be started: exit status, 4 bytes, the kind of error, 1 byte, and the reason: the last frame
	frameLetGo   = 'g' // the client was too slow and gets no more: the last frame
)

const (
	// inFlight is how many inputs may be on their way. The sender waits for frameTaken beyond that, and not the receiver, which always
	// listens: a signal, or a window's size, never waits behind what was typed.
	inFlight = 8
	header   = 5        // bytes of a frame before what it holds
	maxFrame = 1 << 20  // bytes that it may hold
	chunk    = 64 << 10 // bytes that we put in one

	sendBuffer = 2 << 20   // bytes that the kernel takes for an end that does not read just now
	received   = 128 << 10 // bytes that are received at once
)

// Hello is what a client says first.
type Hello struct {
	Input      bool   // it may send input
	Output     bool   // it wants what the container prints
	FromStart  bool   // and what it has printed since its start, where there is a log
	Pipe       bool   // where the container has pipes, it would rather write to its stdin itself, and have what it prints in a pipe
	Rows, Cols uint16 // its window; 0 by 0 for none
}

func (h Hello) marshal() []byte {
	b := []byte{0}
	for i, set := range []bool{h.Input, h.Output, h.FromStart, h.Pipe} {
		if set {
			b[0] |= 1 << i
		}
	}
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, h.Rows), h.Cols)
}

func parseHello(b []byte) (h Hello, ok bool) {
	if len(b) != 5 {
		return h, false
	}
	return Hello{Input: b[0]&1 != 0, Output: b[0]&2 != 0, FromStart: b[0]&4 != 0, Pipe: b[0]&8 != 0,
		Rows: binary.BigEndian.Uint16(b[1:]), Cols: binary.BigEndian.Uint16(b[3:])}, true
}

// Conn is one end of the stream between a monitor and a client. What is sent may come from several goroutines; one receives.
type Conn struct {
	f  *os.File
	rc syscall.RawConn

	sending sync.Mutex

	buf         *[received]byte // nil where nothing is in it: a connection on which nothing comes holds no memory
	large       []byte          // instead of it, for a frame that is larger
	first, last int             // what is in it

	takesFiles bool       // descriptors that come are kept until somebody asks for them
	files      []*os.File // in the order of their frames
}

// buffers are for what is received.
var buffers = sync.Pool{New: func() any { return new([received]byte) }}

// NewConn speaks over a stream socket. The descriptor is the connection's from then on.
func NewConn(fd int) (*Conn, error) {
	f, rc, err := pollable(fd, "connection")
	if err != nil {
		return nil, err
	}
	// Fewer turns between the two ends: twice as fast as with the usual 208 kB. Where that is not allowed, those do.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	return &Conn{f: f, rc: rc}, nil
}

// pollable makes a file of a descriptor, for which no thread waits. The descriptor is closed where that fails.
func pollable(fd int, name string) (*os.File, syscall.RawConn, error) {
	err := unix.SetNonblock(fd, true)
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return nil, nil, fmt.Errorf("%s: %w", name, unix.EBADF)
	}
	var rc syscall.RawConn
	if err == nil {
		rc, err = f.SyscallConn()
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, rc, nil
}

// Close closes the stream.
func (c *Conn) Close() error { return c.f.Close() }

// takeFile returns the pipe that came with the frame that was received last, or nil. It is the caller's.
func (c *Conn) takeFile() *os.File {
	if len(c.files) == 0 {
		return nil
	}
	f := c.files[0]
	c.files = c.files[1:]
	return f
}

// appendHeader appends what a frame of n bytes begins with.
func appendHeader(b []byte, kind byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, kind), uint32(n))
}

func appendFrame(b []byte, kind byte, data []byte) []byte {
	return append(appendHeader(b, kind, len(data)), data...)
}

// parseFrame finds the frame that b begins with, and says how many bytes it takes: more than b has where some are still to come.
func parseFrame(b []byte) (kind byte, data []byte, n int, err error) {
	if len(b) < header {
		return 0, nil, header, nil
	}
	size := binary.BigEndian.Uint32(b[1:])
	if size > maxFrame {
		return 0, nil, 0, fmt.Errorf("a frame of %d bytes", size)
	}
	if n = header + int(size); len(b) < n {
		return 0, nil, n, nil
	}
	return b[0], b[header:n:n], n, nil
}

// send sends one frame.
func (c *Conn) send(kind byte, data []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.write(nil, appendHeader(nil, kind, len(data)), data)
}

// write writes all of two pieces, and calls progress after each part that was taken.
func (c *Conn) write(progress func(n int), first, second []byte) error {
	var err error
	werr := c.rc.Write(func(fd uintptr) bool {
		for len(first)+len(second) > 0 {
			var n int
			n, err = sendNow(fd, first, second, nil)
			if err == unix.EAGAIN {
				return false
			}
			if err != nil {
				return true
			}
			if progress != nil {
				progress(n)
			}
			k := min(n, len(first))
			first, second = first[k:], second[n-k:]
		}
		return true
	})
	if err == nil || err == unix.EAGAIN {
		err = werr
	}
	return err
}

// try writes of a frame what can be written without waiting, and says how many bytes that was.
func (c *Conn) try(first, second, rights []byte) (n int, err error) {
	if cerr := c.rc.Control(func(fd uintptr) { n, err = sendNow(fd, first, second, rights) }); cerr != nil {
		return 0, cerr
	}
	if err == unix.EAGAIN {
		return 0, nil
	}
	return n, err
}

// sendNow sends what the socket takes of two pieces. The rights (SCM_RIGHTS, unix(7)) go with the first byte.
func sendNow(fd uintptr, first, second, rights []byte) (int, error) {
	for {
		n, err := unix.SendmsgBuffers(int(fd), [][]byte{first, second}, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// receive returns the next frame, whose data is good until the one after it is asked for; io.EOF when the other end is gone.
func (c *Conn) receive() (kind byte, data []byte, err error) {
	for {
		kind, data, n, err := parseFrame(c.pending())
		if err != nil {
			return 0, nil, err
		}
		if n <= c.last-c.first {
			c.first += n
			return kind, data, nil
		}
		if err := c.fill(n); err != nil {
			return 0, nil, err
		}
	}
}

// space is where bytes are received.
func (c *Conn) space() []byte {
	switch {
	case c.large != nil:
		return c.large
	case c.buf != nil:
		return c.buf[:]
	}
	return nil
}

func (c *Conn) pending() []byte { return c.space()[c.first:c.last] }

// fill receives more, of a frame of n bytes at least.
func (c *Conn) fill(n int) error {
	if c.first == c.last {
		c.release()
	}
	switch old := c.pending(); {
	case n > received && n > len(c.space()):
		large := make([]byte, n)
		c.last = copy(large, old)
		c.release()
		c.large, c.first, c.last = large, 0, len(old)
	case c.space() != nil && n > len(c.space())-c.first:
		c.last = copy(c.space(), old)
		c.first = 0
	}
	var got int
	var err error
	rerr := c.rc.Read(func(fd uintptr) bool {
		if c.space() == nil {
			c.buf = buffers.Get().(*[received]byte)
		}
		for {
			if got, err = c.read(int(fd), c.space()[c.last:]); err != unix.EINTR {
				break
			}
		}
		if err == unix.EAGAIN {
			if c.last == 0 {
				c.release()
			}
			return false
		}
		return true
	})
	if err == nil || err == unix.EAGAIN {
		err = rerr
	}
	if err == nil && got == 0 || err == unix.ECONNRESET {
		err = io.EOF
	}
	if err == nil {
		c.last += got
	}
	return err
}

// read reads once. A descriptor that nobody asked for is closed by the kernel.
func (c *Conn) read(fd int, b []byte) (int, error) {
	if !c.takesFiles {
		return unix.Read(fd, b)
	}
	var rights [24]byte // a header and one descriptor: the kernel closes what is more
	n, m, _, _, err := unix.Recvmsg(fd, b, rights[:], unix.MSG_CMSG_CLOEXEC)
	if err != nil || m == 0 {
		return n, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		return n, err
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(files) != 1 {
		return n, err
	}
	c.files = append(c.files, os.NewFile(uintptr(files[0]), "pipe"))
	return n, nil
}

// release gives the buffer back, when nothing is in it.
func (c *Conn) release() {
	if c.buf != nil {
		buffers.Put(c.buf)
	}
	c.buf, c.large, c.first, c.last = nil, nil, 0, 0
}

// Greet says the first word to a monitor.
func (c *Conn) Greet(h Hello) error { return c.send(frameHello, h.marshal()) }
