package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// StartError is a container that could not be started: the status that layerctl should exit with, what kind of error it was, and why.
type StartError struct {
	Code   int
	Kind   byte
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

var (
	// ErrGone says that the monitor ended without telling how the container did.
	ErrGone = errors.New("the container's monitor is gone")
	// ErrDetached says that the user has left the container, which goes on.
	ErrDetached = errors.New("detached from the container")
	// ErrTooSlow says that the monitor has let go of a client that took nothing for too long, of a container that keeps no log.
	ErrTooSlow = errors.New("the output was not taken for too long, and the container keeps no log: what it prints from here on is lost")
)

// AttachOptions are the user's side.
type AttachOptions struct {
	Stdin, Stdout, Stderr *os.File
	Input                 bool // stdin is read
	TTY                   bool // the container has a terminal
	// DetachKeys end the attachment where the container has a terminal and stdin is one; none for nil.
	DetachKeys []byte
	// Signals are those of this process. With Proxy they go to the container. Otherwise those that end a command end the attachment.
	Signals <-chan os.Signal
	Proxy   bool
	// Hangup: where the output cannot be written and nobody else has it, the container is told so, as it would be without a monitor in
	// between: by the hang-up of its terminal, or SIGPIPE. Attach then waits for its end. Without Hangup it ends.
	Hangup bool
	// Warn is given what the user should know. Lines have no newline.
	Warn func(line string)
}

// Window sets the size of the user's window: that of the first of the files that is a terminal.
func (h *Hello) Window(files ...*os.File) {
	for _, f := range files {
		if cols, rows, err := term.GetSize(int(f.Fd())); err == nil {
			h.Rows, h.Cols = uint16(rows), uint16(cols)
			return
		}
	}
}

// WaitStarted waits until the container runs, and returns its pid. The error is a *StartError where it could not be started, and ErrGone
// where it has ended.
func (c *Conn) WaitStarted() (pid int, err error) {
	for {
		kind, data, err := c.receive()
		switch {
		case err == io.EOF || kind == frameExit:
			return 0, ErrGone
		case err != nil:
			return 0, fmt.Errorf("talk to the container's monitor: %w", err)
		case kind == frameStarted && len(data) == 4:
			return int(binary.BigEndian.Uint32(data)), nil
		case kind == frameFailed && len(data) >= 5:
			return 0, startError(data)
		}
	}
}

func startError(data []byte) error {
	return &StartError{Code: int(binary.BigEndian.Uint32(data)), Kind: data[4], Reason: string(data[5:])}
}

// attachment is one Attach.
type attachment struct {
	AttachOptions
	c     *Conn
	raw   bool
	under chan bool               // a place for each input on its way
	full  atomic.Bool             // the container takes no more input
	pipe  atomic.Pointer[os.File] // the container's stdin, once the monitor has given it

	mu     sync.Mutex
	left   error // ErrDetached, when the user has left
	ended  bool  // there is no more input
	status int
}

// Attach connects the user's streams with a container until it ends, and returns its exit status; the monitor was greeted before. With
// input, stdin is read, in raw mode where it is a terminal and the container has one; the window's size is kept the same on both sides.
// The terminal is left as it was found. ErrDetached is returned with status 0 where the user pressed the detach keys, and with 128 and
// the signal where one ended the attachment; the end of a terminal in raw mode is SIGHUP, as in Docker: the container goes on, and one
// may attach to it again.
func Attach(c *Conn, o AttachOptions) (code int, err error) {
	a := &attachment{AttachOptions: o, c: c, under: make(chan bool, inFlight)}
	if o.Input && o.TTY && term.IsTerminal(int(o.Stdin.Fd())) {
		before, err := term.MakeRaw(int(o.Stdin.Fd()))
		if err != nil {
			return 0, fmt.Errorf("set the terminal to raw mode: %w", err)
		}
		a.raw = true
		defer term.Restore(int(o.Stdin.Fd()), before)
	}
	done := make(chan bool)
	defer close(done)
	go a.signals(done)
	c.takesFiles = true
	if o.Input {
		defer a.closePipe()
		go a.input()
	}
	return a.output()
}

// leave ends the attachment.
func (a *attachment) leave(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left == nil {
		a.left, a.status = ErrDetached, status
		a.c.f.SetReadDeadline(time.Unix(1, 0))
	}
}

func (a *attachment) signals(done <-chan bool) {
	for {
		var n unix.Signal
		select {
		case <-done:
			return
		case s := <-a.Signals:
			n, _ = s.(unix.Signal)
		}
		switch n {
		case 0:
			return // closed
		case unix.SIGWINCH:
			a.resize()
		case unix.SIGCONT:
			if a.raw {
				// Whoever had the terminal while we were stopped has left it as he likes it.
				term.MakeRaw(int(a.Stdin.Fd()))
				a.resize()
			}
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTSTP:
		case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM:
			if !a.Proxy || n == unix.SIGHUP && a.raw {
				a.leave(128 + int(n))
				continue
			}
			fallthrough
		default:
			if a.Proxy {
				a.c.send(frameSignal, []byte{byte(n)})
			}
		}
	}
}

func (a *attachment) resize() {
	var h Hello
	if h.Window(a.Stdout, a.Stdin); a.TTY && h.Rows+h.Cols > 0 {
		a.c.send(frameSize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, h.Rows), h.Cols))
	}
}

// output writes what comes from the monitor, to the last word.
func (a *attachment) output() (int, error) {
	var broken [2]error // what is wrong with stdout and stderr
	var m mover
	defer func() { m.from.Close() }()
	// print writes data, or where that is nil the next n bytes that were moved.
	print := func(stream byte, data []byte, n int) error {
		i, f := 0, a.Stdout
		if stream == Stderr {
			i, f = 1, a.Stderr
		}
		was := broken[i]
		switch {
		case was != nil && data == nil:
			return m.to(nil, n)
		case was != nil:
			return nil
		case data == nil:
			broken[i] = m.to(f, n)
		default:
			_, broken[i] = f.Write(data)
		}
		if broken[i] == nil {
			return nil
		}
		if a.raw && errors.Is(broken[i], unix.EIO) {
			a.leave(128 + int(unix.SIGHUP))
			return nil
		}
		if !a.Hangup {
			return fmt.Errorf("write the container's output: %w", broken[i])
		}
		a.c.send(frameHangup, []byte{stream})
		return nil
	}
	for {
		kind, data, err := a.c.receive()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.status, a.left
		case err == io.EOF:
			return 0, ErrGone
		default:
			return 0, fmt.Errorf("talk to the container's monitor: %w", err)
		}
		switch {
		case kind == frameTaken:
			select {
			case <-a.under:
			default:
			}
		case kind == frameFull:
			a.full.Store(true)
		case kind == frameStdin:
			if f := a.c.takeFile(); f != nil {
				a.setPipe(f)
			}
		case kind == frameOutput:
			err = print(Stdout, data, 0)
		case kind == frameErrors:
			err = print(Stderr, data, 0)
		case kind == framePipe:
			if f := a.c.takeFile(); f != nil {
				m.from.Close()
				m.from = f
			}
		case kind == frameMoved && len(data) == 5 && m.from != nil:
			err = print(data[0], nil, int(binary.BigEndian.Uint32(data[1:])))
		case kind == frameNote && a.Warn != nil:
			a.Warn(string(data))
		case kind == frameExit && len(data) == 4:
			code := int(binary.BigEndian.Uint32(data))
			for _, b := range broken {
				if b != nil && !errors.Is(b, unix.EPIPE) {
					return 0, fmt.Errorf("write the container's output (it was told that nobody reads, and it ended with status %d): %w", code, b)
				}
			}
			return code, nil
		case kind == frameFailed && len(data) >= 5:
			return 0, startError(data)
		case kind == frameLetGo:
			return 0, ErrTooSlow
		}
		if err != nil {
			return 0, err
		}
	}
}
