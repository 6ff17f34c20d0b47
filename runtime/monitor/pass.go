package monitor

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What the container prints into a pipe can go to a client without being copied: the hub moves it from that pipe to one between the two
// (splice(2), tee(2) where it is logged, too), and the client from there to its stdout. The frames still say what is next: they are in order,
// and the pipe has only what a frame tells of.

// givePipe makes the pipe for a client that wants one. Without, everything goes in frames.
func (c *client) givePipe() {
	if c.h.o.TTY || !c.Pipe || !c.Output {
		return
	}
	var ends [2]int
	if unix.Pipe2(ends[:], unix.O_CLOEXEC) != nil {
		return
	}
	defer unix.Close(ends[0])
	to := os.NewFile(uintptr(ends[1]), "pipe")
	unix.FcntlInt(to.Fd(), unix.F_SETPIPE_SZ, maxPipe) // a smaller one will do
	frame := appendFrame(nil, framePipe, nil)
	if n, err := c.conn.try(frame, nil, unix.UnixRights(ends[0])); err != nil || n != len(frame) {
		to.Close()
		return
	}
	c.pipe, c.credit = to, maxCredit
}

// pass moves what the container prints on a stream to the one client that wants it, and to the log, and says how many bytes that were. None
// does not mean that there are none: another client wants them, or the only one has not taken what came before. A quick one is waited for:
// it costs less than what has to be done for one that has fallen behind.
func (h *Hub) pass(from int, kind byte) int {
	for {
		n, to, wait := h.move(from, kind)
		if n > 0 || to == nil || wait < time.Millisecond || !ready(from, unix.POLLIN, 0) {
			return n
		}
		began := time.Now()
		room := to.room(wait)
		h.mu.Lock()
		to.credit -= time.Since(began)
		h.mu.Unlock()
		if !room {
			return 0
		}
	}
}

// A client is waited for as long as it takes 100 MB in a second, and maxCredit on top of that.
const (
	creditPerByte = 10 * time.Nanosecond
	maxCredit     = 20 * time.Millisecond
)

// room waits until something fits in the client's pipe.
func (c *client) room(wait time.Duration) (is bool) {
	rc, err := c.pipe.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { is = ready(int(fd), unix.POLLOUT, int(wait.Milliseconds())) })
	}
	return is && err == nil
}

// ready waits for an event of a descriptor, for some milliseconds.
func ready(fd int, event int16, wait int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: event}}
	n, err := unix.Poll(p, wait)
	return err == nil && n > 0 && p[0].Revents&event != 0 && p[0].Revents&unix.POLLERR == 0
}

// move is pass without waiting. It returns the client who could have had it, too, and how long that may be waited for.
func (h *Hub) move(from int, kind byte) (int, *client, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var to *client
	for c := range h.clients {
		switch {
		case !c.listens():
		case to != nil:
			return 0, nil, 0
		default:
			to = c
		}
	}
	if to == nil || to.pipe == nil || to.behind || to.flushing || to.waiting() > 0 {
		return 0, nil, 0
	}
	now := time.Now()
	n := int64(0)
	out := int(to.pipe.Fd())
	if h.log == nil {
		n, _ = unix.Splice(from, nil, out, nil, maxPipe, unix.SPLICE_F_NONBLOCK)
	} else if n, _ = unix.Tee(from, out, chunk, unix.SPLICE_F_NONBLOCK); n > 0 {
		buf := outputs.Get().(*[chunk]byte)
		for b := buf[:n]; len(b) > 0; { // it is there
			k, err := unix.Read(from, b)
			if err != nil && err != unix.EINTR {
				break
			}
			b = b[max(k, 0):]
		}
		h.log.Append(kind, buf[:n], now)
		outputs.Put(buf)
	}
	if n <= 0 {
		return 0, to, to.credit
	}
	to.credit = min(to.credit+time.Duration(n)*creditPerByte, maxCredit)
	to.send(frameMoved, binary.BigEndian.AppendUint32([]byte{kind}, uint32(n)))
	return int(n), to, 0
}

// isPipe says whether a file is one, and makes it hold more: the fewer turns take who writes to it and who reads, the less of the time goes
// to the kernel's scheduler. That it does not block, or does, is the caller's and stays.
func isPipe(f *os.File) bool {
	fd := f.Fd()
	size, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
	if err == nil && size < callersPipe {
		unix.FcntlInt(fd, unix.F_SETPIPE_SZ, callersPipe)
	}
	return err == nil
}

// callersPipe is what a pipe of the caller's holds at least: with more it is no faster.
const callersPipe = 256 << 10

// mover is the client's end of the pipe.
type mover struct {
	from *os.File // nil where there is none
	buf  []byte
}

// to writes the next n bytes to a file, or drops them where it is nil. What cannot be written is dropped.
func (m *mover) to(f *os.File, n int) error {
	var err error
	if f != nil && isPipe(f) {
		n, err = m.splice(int(f.Fd()), n)
		f = nil
	}
	for n > 0 {
		if m.buf == nil {
			m.buf = make([]byte, chunk)
		}
		k, rerr := m.from.Read(m.buf[:min(n, chunk)])
		if rerr != nil {
			return ErrGone
		}
		if n -= k; f == nil {
			continue
		}
		if _, err = f.Write(m.buf[:k]); err != nil {
			f = nil
		}
	}
	return err
}

// splice moves n bytes to a pipe, and returns how many it did not.
func (m *mover) splice(to, n int) (left int, err error) {
	for n > 0 {
		k, err := unix.Splice(int(m.from.Fd()), nil, to, nil, n, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN: // stdout does not block
			unix.Poll([]unix.PollFd{{Fd: int32(to), Events: unix.POLLOUT}}, -1)
		case err != nil:
			return n, err
		case k == 0:
			return 0, ErrGone
		}
		n -= int(max(k, 0))
	}
	return 0, nil
}
