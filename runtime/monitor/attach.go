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

// StartError is a container that could not be started: the status that layerctl should exit with, and why.
type StartError struct {
	Code   int
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

// ErrGone says that the monitor ended without telling how the container did.
var ErrGone = errors.New("the container's monitor is gone")

// Attach connects the user's terminal with a container's until the container ends, and returns its exit status. With input, stdin is
// read, in raw mode where it is a terminal; the window's size is kept the same on both sides; signals go to the container. The terminal
// is left as it was found.
func Attach(c *Conn, stdin, stdout *os.File, input bool) (int, error) {
	if input && term.IsTerminal(int(stdin.Fd())) {
		before, err := term.MakeRaw(int(stdin.Fd()))
		if err != nil {
			return 0, fmt.Errorf("set the terminal to raw mode: %w", err)
		}
		defer term.Restore(int(stdin.Fd()), before)
	}
	size := func() {
		for _, f := range []*os.File{stdout, stdin} {
			if cols, rows, err := term.GetSize(int(f.Fd())); err == nil {
				c.Send(Size, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(rows)), uint16(cols)))
				return
			}
		}
	}
	size()
	signals := Catch()
	go func() {
		for s := range signals {
			n := s.(unix.Signal)
			switch n {
			case unix.SIGWINCH:
				size()
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT:
			default:
				c.Send(Signal, []byte{byte(n)})
			}
		}
	}()
	if input {
		go func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := stdin.Read(buf)
				if n > 0 && c.Send(Input, buf[:n]) != nil {
					return
				}
				if err != nil {
					c.Send(End, nil)
					return
				}
			}
		}()
	}
	for {
		kind, data, err := c.Receive()
		switch {
		case err == io.EOF:
			return 0, ErrGone
		case err != nil:
			return 0, fmt.Errorf("talk to the container's monitor: %w", err)
		case kind == Output:
			if _, err := stdout.Write(data); err != nil && !errors.Is(err, unix.EPIPE) {
				return 0, fmt.Errorf("write the container's output: %w", err)
			}
		case kind == Exit && len(data) == 4:
			return int(binary.BigEndian.Uint32(data)), nil
		case kind == Failed && len(data) >= 4:
			return 0, &StartError{Code: int(binary.BigEndian.Uint32(data)), Reason: string(data[4:])}
		}
	}
}
