package monitor

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// input sends what stdin gives: in frames, and directly to the container's stdin while the monitor has given it.
func (a *attachment) input() {
	var keys *scanner
	size := chunk
	if a.raw {
		size = 4 << 10
		if len(a.DetachKeys) > 0 {
			keys = &scanner{keys: a.DetachKeys}
		}
	}
	defer a.closePipe()
	buf, kept := make([]byte, size), []byte(nil)
	for {
		n, err := 0, error(nil)
		if to := a.pipe.Load(); to != nil && !a.raw {
			n, err = a.direct(to, buf)
		} else {
			n, err = a.Stdin.Read(buf)
		}
		data, left := buf[:n], false
		if keys != nil {
			kept, left = keys.scan(kept[:0], data)
			data = kept
		}
		if a.full.Load() && !a.raw {
			a.Stdin.Close() // so that whoever writes is told, as he would be by the container
			return
		}
		if len(data) > 0 {
			a.under <- true
			if a.c.send(frameInput, data) != nil {
				return
			}
		}
		if left {
			a.leave(0)
			return
		}
		if err != nil {
			if a.raw { // there is no other end of input in raw mode
				a.leave(128 + int(unix.SIGHUP))
				return
			}
			a.closePipe()
			a.c.send(frameEnd, nil)
			return
		}
	}
}

// direct writes what stdin gives to the container's, until stdin ends, which is an error, or nobody reads it there any more. How many bytes
// of buf it then has, which nobody took, is returned: the monitor knows whether they are for another run of the container, or for nobody.
func (a *attachment) direct(to *os.File, buf []byte) (n int, err error) {
	for range inFlight {
		a.under <- true // what went in frames was taken: nothing overtakes it
	}
	defer func() {
		if a.pipe.CompareAndSwap(to, nil) {
			to.Close()
		}
		for range inFlight {
			<-a.under
		}
	}()
	if isPipe(a.Stdin) {
		return 0, a.splice(to)
	}
	for err == nil {
		n, err = a.Stdin.Read(buf)
		if k, werr := to.Write(buf[:n]); werr != nil {
			return copy(buf, buf[k:n]), err
		}
	}
	return 0, err
}

// splice moves what is in a pipe to the container's stdin, and nobody looks at it (splice(2)). It waits in the kernel, and not in Go's
// poller: that would have to be told of stdin, which is the caller's and stays as it is.
func (a *attachment) splice(to *os.File) error {
	in := int(a.Stdin.Fd())
	rc, err := to.SyscallConn()
	for err == nil {
		var n int64
		cerr := rc.Control(func(out uintptr) {
			if n, err = unix.Splice(in, nil, int(out), nil, maxPipe, 0); err == unix.EAGAIN { // stdin does not block
				for _, end := range []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}, {Fd: int32(out), Events: unix.POLLOUT}} {
					unix.Poll([]unix.PollFd{end}, -1)
				}
			}
		})
		switch {
		case cerr != nil:
			return nil
		case err == nil && n == 0:
			return io.EOF
		case err == unix.EAGAIN || err == unix.EINTR:
			err = nil
		}
	}
	return nil
}

// setPipe takes what the monitor gives as the container's stdin, in the place of what was.
func (a *attachment) setPipe(f *os.File) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		f.Close()
		return
	}
	if old := a.pipe.Swap(f); old != nil {
		old.Close()
	}
}

// closePipe lets go of the container's stdin, and of what the monitor may still give: there is no more input, which the container is told
// when nobody has it any more.
func (a *attachment) closePipe() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	if f := a.pipe.Swap(nil); f != nil {
		f.Close()
	}
}
