package monitor

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HubOptions say what a hub is for.
type HubOptions struct {
	TTY   bool // one console, in place of three pipes
	Stdin bool // the container's stdin is open for what clients send
	// StdinOnce: the first client that may send input takes the container's stdin with it when it ends. (On a terminal there is no such end.)
	StdinOnce bool
	Log       Log // nil for none
}

// Streams are the outer ends of what the container has: a console, or pipes. They are the hub's from Begin on.
type Streams struct {
	Console               *os.File
	Stdin, Stdout, Stderr *os.File // nil where there is none
}

// Hub is the monitor's side: it reads what the container prints, writes it to the log, gives it to whoever is attached, and gives the
// container what they send. It outlives the container's restarts.
//
// What the container prints is read at once, or as quickly as a quick client takes it (pass). A client that does not keep up is fed from the
// log, at its own pace, until it has caught up.
// Where there is no log, or it would be rotated away, or the disk is full, some of it waits for the client, and then the container does:
// as long as it takes where the client came with the monitor and no other can come, otherwise until it has taken nothing for some
// seconds, and then it is let go.
type Hub struct {
	o        HubOptions
	log      Log
	patience time.Duration
	signals  chan os.Signal
	readers  sync.WaitGroup

	mu       sync.Mutex
	moved    *sync.Cond // a client took something, or is gone
	clients  map[*client]bool
	listener *os.File
	streams  map[byte]*stream // by Stdout and Stderr
	hung     map[byte]bool    // streams that nobody can see any more
	begun    int64            // the log's position at the start
	pid      int
	over     func(c *client) // says the last word to a client
	rows     uint16
	cols     uint16

	stdin stdin
}

// stream is what the container prints on.
type stream struct {
	f  *os.File
	rc syscall.RawConn
}

// NewHub makes a hub for a container that has not started.
func NewHub(o HubOptions) *Hub {
	h := &Hub{o: o, log: o.Log, patience: patience, signals: make(chan os.Signal, 64), clients: map[*client]bool{}, streams: map[byte]*stream{}, hung: map[byte]bool{}}
	h.moved = sync.NewCond(&h.mu)
	return h
}

// Signals are what clients send to the container.
func (h *Hub) Signals() <-chan os.Signal { return h.signals }

// Listen takes in whoever connects with a listening socket, until the end. The descriptor is the hub's from then on.
func (h *Hub) Listen(fd int) error {
	f, rc, err := pollable(fd, "attach socket")
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.listener = f
	h.mu.Unlock()
	go func() {
		for {
			nfd := -1
			err := rc.Read(func(fd uintptr) bool {
				var err error
				nfd, _, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				switch err {
				case unix.EAGAIN:
					return false
				case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS:
					time.Sleep(100 * time.Millisecond) // there is one that we cannot take now
				}
				return true
			})
			if err != nil {
				return // closed
			}
			if nfd < 0 {
				continue
			}
			if c, err := NewConn(nfd); err == nil {
				go h.Join(c)
			}
		}
	}()
	return nil
}

// Join takes a client in. It waits for the client's first word.
func (h *Hub) Join(conn *Conn) {
	kind, data, err := conn.receive()
	greeting, ok := parseHello(data)
	if err != nil || kind != frameHello || !ok {
		conn.Close()
		return
	}
	c := &client{h: h, conn: conn, Hello: greeting}
	if h.o.Stdin && h.o.StdinOnce && c.Input {
		h.stdin.own(c)
	}
	h.resize(c.Rows, c.Cols, c.Output)
	h.mu.Lock()
	h.clients[c] = true
	if c.Output {
		clear(h.hung)
	}
	if h.pid != 0 {
		c.send(frameStarted, binary.BigEndian.AppendUint32(nil, uint32(h.pid)))
	}
	h.stdin.hand(c)
	c.givePipe()
	if c.Output && c.FromStart && h.log != nil {
		c.behind, c.pos = true, h.begun
		c.flush()
	}
	if h.over != nil {
		h.over(c)
	}
	h.mu.Unlock()
	go c.serve()
}

// Begin connects the hub with a container that is about to start, or has. After Drain it may be called again.
func (h *Hub) Begin(s Streams) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.log != nil {
		h.begun = h.log.Mark()
	}
	var err error
	in := s.Stdin
	for _, from := range []struct {
		kind byte
		f    *os.File
	}{{Stdout, s.Console}, {Stdout, s.Stdout}, {Stderr, s.Stderr}} {
		if from.f == nil {
			continue
		}
		st := &stream{}
		if st.f, st.rc, err = own(from.f); err != nil {
			return err
		}
		if from.f == s.Console {
			in = st.f
		}
		if h.hung[from.kind] {
			st.f.Close()
		}
		h.streams[from.kind] = st
		h.readers.Go(func() { h.read(st, from.kind) })
	}
	h.setSize(h.rows, h.cols)
	if h.o.Stdin && in != nil {
		err = h.stdin.begin(in, in == s.Stdin)
		for c := range h.clients {
			h.stdin.hand(c)
		}
	}
	return err
}

// own makes a file pollable.
func own(f *os.File) (*os.File, syscall.RawConn, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, nil, err
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, maxPipe) // fewer turns between the two ends; a smaller one will do
	return pollable(fd, f.Name())
}

// Started tells the clients that the container runs.
func (h *Hub) Started(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pid = pid
	for c := range h.clients {
		c.send(frameStarted, binary.BigEndian.AppendUint32(nil, uint32(pid)))
	}
}

// Drain waits until all that the container has printed was read and logged, and disconnects the hub from it. Its processes must be gone:
// what others still print is lost.
func (h *Hub) Drain() {
	h.mu.Lock()
	h.pid = 0
	for _, s := range h.streams {
		s.f.SetReadDeadline(time.Unix(1, 0)) // they read what there is, and end
	}
	h.mu.Unlock()
	h.readers.Wait()
	h.stdin.close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for kind, s := range h.streams {
		s.f.Close()
		delete(h.streams, kind)
	}
}

// End tells each client the container's exit status, behind all that it printed, and returns when each has it or is gone. Nothing should
// be held any more that others wait for: a client may take its time.
func (h *Hub) End(code int) {
	h.end(frameExit, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

// Fail tells each client why there is no container, as End does. What kind means is between the two ends.
func (h *Hub) Fail(code int, kind byte, reason string) {
	h.end(frameFailed, append(append(binary.BigEndian.AppendUint32(nil, uint32(code)), kind), reason...))
}

func (h *Hub) end(kind byte, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = func(c *client) { c.finish(kind, data) }
	for c := range h.clients {
		h.over(c)
	}
	for {
		left := 0
		for c := range h.clients {
			if !c.finished() {
				left++
			}
		}
		if left == 0 {
			break
		}
		h.moved.Wait()
	}
	if h.listener != nil {
		h.listener.Close()
	}
}

// outputs are for what is read.
var outputs = sync.Pool{New: func() any { return new([chunk]byte) }}

// read reads what the container prints on one stream until nothing can come any more. That nobody has the other end of a console says
// nothing: somebody may open it again.
func (h *Hub) read(s *stream, kind byte) {
	var buf *[chunk]byte
	var n int
	var rerr error
	take := func(fd uintptr) bool {
		if n = h.pass(int(fd), kind); n > 0 {
			buf = nil
			return true
		}
		buf = outputs.Get().(*[chunk]byte)
		for {
			if n, rerr = unix.Read(int(fd), buf[:]); rerr != unix.EINTR {
				break
			}
		}
		if rerr == unix.EAGAIN || rerr == unix.EIO {
			outputs.Put(buf)
			buf = nil
			return false
		}
		return true
	}
	for drained := 0; ; {
		if s.rc.Read(take) != nil {
			// It is time to drain, or it was hung up. A stranger who has the other end may print for ever; what was there before fits in a pipe.
			taken := false
			if err := s.rc.Control(func(fd uintptr) { taken = take(fd) }); err != nil || !taken || drained > maxPipe {
				return
			}
			drained += max(n, 0)
		}
		if n <= 0 {
			return
		}
		if buf != nil {
			h.print(kind, buf[:n])
			outputs.Put(buf)
		}
	}
}

// maxPipe is what a pipe holds at most (fs.pipe-max-size, proc_sys_fs(5)), as it comes.
const maxPipe = 1 << 20

// print gives what was read to the log and the clients.
func (h *Hub) print(kind byte, b []byte) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.await(b)
	marked, mark := false, int64(0)
	var live []*client
	for c := range h.clients {
		switch {
		case !c.listens() || c.behind:
		case !c.full(b):
			live = append(live, c)
		default:
			if !marked {
				marked, mark = true, h.log.Mark()
			}
			c.behind, c.pos = true, mark
		}
	}
	if h.log != nil {
		h.log.Append(kind, b, now)
	}
	for _, c := range live {
		c.send(kindOf(kind), b)
	}
}

// await waits until every client can be given b, by what waits for it or by the log, and lets go of those for which that takes too long.
func (h *Hub) await(b []byte) {
	for {
		var left time.Duration
		blocked := false
		for c := range h.clients {
			if !c.listens() || !c.blocks(b) {
				continue
			}
			rest := h.patience - time.Since(c.progress)
			switch {
			case h.listener == nil:
				blocked = true
			case rest <= 0:
				c.behind = false
				c.finish(frameLetGo, nil)
			case !blocked || rest < left:
				blocked, left = true, rest
			}
		}
		if !blocked {
			return
		}
		if left > 0 {
			wake := time.AfterFunc(left, func() {
				h.mu.Lock()
				h.moved.Broadcast()
				h.mu.Unlock()
			})
			h.moved.Wait()
			wake.Stop()
			continue
		}
		h.moved.Wait()
	}
}

// hangUp is a client that cannot show any more what the container prints on a stream. Where nobody else does, the container is told as it
// would be without a monitor: by the end of the terminal, or of the pipe.
func (h *Hub) hangUp(from *client, kind byte) {
	h.mu.Lock()
	for c := range h.clients {
		if c != from && c.Output {
			h.mu.Unlock()
			return
		}
	}
	h.hung[kind] = true
	s := h.streams[kind]
	if s != nil && h.o.TTY {
		h.stdin.close()
	}
	h.mu.Unlock()
	if s != nil {
		s.f.Close() // which waits for who is reading, who may want the lock
	}
}

// resize is a client's window. With redraw, which a client asks for who comes later, the programs of the container are made to draw anew.
func (h *Hub) resize(rows, cols uint16, redraw bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.o.TTY || rows == 0 && cols == 0 {
		return
	}
	h.rows, h.cols = rows, cols
	if redraw && rows > 1 && h.streams[Stdout] != nil {
		// Programs draw only what has another size than before, and see only the last of two that come at once.
		h.setSize(rows-1, cols)
		time.AfterFunc(redrawPause, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.setSize(h.rows, h.cols)
		})
		return
	}
	h.setSize(rows, cols)
}

// redrawPause is between the two sizes that make programs draw anew.
const redrawPause = 40 * time.Millisecond

// setSize sets the console's size, of which its programs are told by SIGWINCH.
func (h *Hub) setSize(rows, cols uint16) {
	if s := h.streams[Stdout]; s != nil && h.o.TTY {
		s.rc.Control(func(fd uintptr) {
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		})
	}
}
