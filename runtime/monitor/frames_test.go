package monitor

import (
	"bytes"
	"io"
	"net"
	"testing"
)

func TestFrames(t *testing.T) {
	a, b := net.Pipe()
	from, to := NewConn(a), NewConn(b)
	big := bytes.Repeat([]byte("x"), 100_000)
	go func() {
		from.Send(Output, big)
		from.Send(End, nil)
		from.SendExit(137)
		from.SendFailed(127, 2, "no such command")
		a.Write([]byte{Output, 0, 0, 0, 9, 'h', 'a', 'l', 'f'})
		from.Close()
	}()
	for _, want := range []struct {
		kind byte
		data string
	}{{Output, string(big)}, {End, ""}, {Exit, "\x00\x00\x00\x89"}, {Failed, "\x00\x00\x00\x7f\x02no such command"}} {
		kind, data, err := to.Receive()
		if err != nil || kind != want.kind || string(data) != want.data {
			t.Fatalf("%c, %d bytes, %v; want %c", kind, len(data), err, want.kind)
		}
	}
	if kind, data, err := to.Receive(); err != io.EOF {
		t.Errorf("half a frame: %c %q, %v; want io.EOF", kind, data, err)
	}
}

type stream struct{ io.Reader }

func (stream) Write(p []byte) (int, error) { return len(p), nil }
func (stream) Close() error                { return nil }

func TestFramesBounded(t *testing.T) {
	c := NewConn(stream{bytes.NewReader([]byte{Output, 0xff, 0xff, 0xff, 0xff})})
	if _, data, err := c.Receive(); err == nil {
		t.Errorf("a frame of 4 GiB was taken: %d bytes", len(data))
	}
}
