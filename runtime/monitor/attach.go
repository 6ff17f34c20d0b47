package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

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

// ErrGone says that the monitor ended without telling how the container did.
var ErrGone = errors.New("the container's monitor is gone")

// SendSize tells the monitor how large the user's window is: that of the first of the files that is a terminal, or 0 by 0.
func (c *Conn) SendSize(files ...*os.File) error {
	var rows, cols int
	for _, f := range files {
		var err error
		if cols, rows, err = term.GetSize(int(f.Fd())); err == nil {
			break
		}
	}
	return c.Send(Size, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(rows)), uint16(cols)))
}

// Attach connects the user's terminal with a container's until the container ends, and returns its exit status. With input, stdin is
// read, in raw mode where it is a terminal; the window's size is kept the same on both sides; signals go to the container. The terminal
// is left as it was found. Where the output cannot be written, the container's terminal is hung up: it is told as it would be without
// a monitor in between.
func Attach(c *Conn, stdin, stdout *os.File, input bool, signals <-chan os.Signal) (int, error) {
	if input && term.IsTerminal(int(stdin.Fd())) {
		before, err := term.MakeRaw(int(stdin.Fd()))
		if err != nil {
			return 0, fmt.Errorf("set the terminal to raw mode: %w", err)
		}
		defer term.Restore(int(stdin.Fd()), before)
	}
	go func() {
		for s := range signals {
			n := s.(unix.Signal)
			switch n {
			case unix.SIGWINCH:
				c.SendSize(stdout, stdin)
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTSTP, unix.SIGCONT:
			default:
				c.Send(Signal, []byte{byte(n)})
			}
		}
	}()
	under := make(chan bool, inFlight)
	if input {
		go func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := stdin.Read(buf)
				if n > 0 {
					under <- true
					if c.Send(Input, buf[:n]) != nil {
						return
					}
				}
				if err != nil {
					c.Send(End, nil)
					return
				}
			}
		}()
	}
	var broken error // what is wrong with the output
	for {
		kind, data, err := c.Receive()
		switch {
		case err == io.EOF:
			return 0, ErrGone
		case err != nil:
			return 0, fmt.Errorf("talk to the container's monitor: %w", err)
		case kind == Taken:
			select {
			case <-under:
			default:
			}
		case kind == Output && broken == nil:
			if _, broken = stdout.Write(data); broken != nil {
				c.Send(Hangup, nil)
			}
		case kind == Exit && len(data) == 4:
			code := int(binary.BigEndian.Uint32(data))
			if broken != nil && !errors.Is(broken, unix.EPIPE) {
				return 0, fmt.Errorf("write the container's output (its terminal was hung up, and it ended with status %d): %w", code, broken)
			}
			return code, nil
		case kind == Failed && len(data) >= 5:
			return 0, &StartError{Code: int(binary.BigEndian.Uint32(data)), Kind: data[4], Reason: string(data[5:])}
		}
	}
}
