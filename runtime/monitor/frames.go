package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Name is the name (argv[0]) under which the program is a container's monitor.
const Name = "layerctl-monitor"

// The kinds of frames: a byte, the length of what follows in 4 bytes, big-endian, and that. Those from Input to Hangup go to the
// monitor, the others come from it.
const (
	Input  = 'i' // what the user typed
	End    = 'e' // there will be no more
	Size   = 'w' // the window: rows and columns, 2 bytes each; the first frame of all
	Signal = 's' // 1 byte
	Hangup = 'h' // nobody can see any more what the container prints
	Output = 'o' // what the container printed
	Taken  = 't' // the container's terminal has taken one Input
	Exit   = 'x' // its exit status, 4 bytes: the last frame
	Failed = 'f' // it could not be started: exit status, 4 bytes, the kind of error, 1 byte, and the reason
)

// inFlight is how many Inputs may be on their way. The sender waits for Taken beyond that, and not the receiver, which always listens.
const inFlight = 8

const maxFrame = 1 << 20

// Conn sends and receives frames. Send may be called by several goroutines.
type Conn struct {
	rw io.ReadWriteCloser
	mu sync.Mutex
}

// NewConn speaks over a stream.
func NewConn(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw} }

// Close closes the stream.
func (c *Conn) Close() error { return c.rw.Close() }

// Send sends one frame.
func (c *Conn) Send(kind byte, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := make([]byte, 5, 5+len(data))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(data)))
	_, err := c.rw.Write(append(b, data...))
	return err
}

// Receive returns the next frame; io.EOF when the other end is gone.
func (c *Conn) Receive() (kind byte, data []byte, err error) {
	var h [5]byte
	if _, err := io.ReadFull(c.rw, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(c.rw, data); err != nil {
		return 0, nil, io.EOF
	}
	return h[0], data, nil
}

// SendExit sends the last frame.
func (c *Conn) SendExit(code int) error {
	return c.Send(Exit, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

// SendFailed says why there is no container. What kind means is between the two ends.
func (c *Conn) SendFailed(code int, kind byte, reason string) error {
	return c.Send(Failed, append(append(binary.BigEndian.AppendUint32(nil, uint32(code)), kind), reason...))
}
