package monitor

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Serve carries a container's terminal to and from one user until the terminal is closed, which is when the container's last process
// that has it is gone. A user who goes away leaves the container running: what it prints then is dropped, so that it never waits.
// signal hands a signal to the container.
func Serve(c *Conn, console *os.File, signal func(unix.Signal)) {
	go func() {
		for {
			kind, data, err := c.Receive()
			if err != nil {
				return
			}
			switch {
			case kind == Input:
				console.Write(data)
			case kind == End:
				console.Write([]byte{4}) // ^D, which ends input on a terminal
			case kind == Size && len(data) == 4:
				SetSize(console, binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:]))
			case kind == Signal && len(data) == 1:
				signal(unix.Signal(data[0]))
			}
		}
	}()
	buf := make([]byte, 32<<10)
	there := true
	for {
		n, err := console.Read(buf)
		if n > 0 && there {
			there = c.Send(Output, buf[:n]) == nil
		}
		if err != nil {
			return // EIO: nobody has the other side
		}
	}
}

// SetSize sets a terminal's window size, of which its processes are told by SIGWINCH.
func SetSize(console *os.File, rows, cols uint16) {
	rc, err := console.SyscallConn()
	if err == nil {
		rc.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}) })
	}
}
