package monitor

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// connected are the two ends of a stream.
func connected(t testing.TB) (a, b *Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range pair {
		if ends[i], err = NewConn(fd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

func TestFrames(t *testing.T) {
	from, to := connected(t)
	big := bytes.Repeat([]byte("x"), 100_000)
	huge := bytes.Repeat([]byte("y"), maxFrame)
	frames := []struct {
		kind byte
		data []byte
	}{{frameOutput, big}, {frameEnd, nil}, {frameOutput, huge}, {frameExit, []byte{0, 0, 0, 137}}, {frameErrors, huge}, {frameErrors, big}}
	go func() {
		for _, f := range frames {
			from.send(f.kind, f.data)
		}
		from.f.Write([]byte{frameOutput, 0, 0, 0, 9, 'h', 'a', 'l', 'f'})
		from.Close()
	}()
	for i, want := range frames {
		kind, data, err := to.receive()
		if err != nil || kind != want.kind || !bytes.Equal(data, want.data) {
			t.Fatalf("%d: %c, %d bytes, %v; want %c", i, kind, len(data), err, want.kind)
		}
	}
	if kind, data, err := to.receive(); err != io.EOF {
		t.Errorf("half a frame: %c %q, %v; want io.EOF", kind, data, err)
	}
}

func TestFramesBounded(t *testing.T) {
	from, to := connected(t)
	from.f.Write([]byte{frameOutput, 0xff, 0xff, 0xff, 0xff})
	if _, data, err := to.receive(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a frame of 4 GiB was taken: %d bytes, %v", len(data), err)
	}
}

// A connection on which nothing comes holds no buffer.
func TestIdleConnection(t *testing.T) {
	from, to := connected(t)
	done := make(chan bool)
	go func() {
		defer close(done)
		to.receive()
		to.receive()
	}()
	from.send(frameEnd, nil)
	from.Close()
	<-done
	if to.release(); to.space() != nil {
		t.Error("it holds a buffer")
	}
}

// FuzzFrames compares what is received of a stream, however it is cut, with what is in it.
func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameOutput, []byte("text")), frameExit, []byte{0, 0, 0, 1}), uint16(3))
	f.Add([]byte{frameOutput, 0, 0, 0, 9, 'h', 'a', 'l', 'f'}, uint16(1))
	f.Add([]byte{frameOutput, 0xff, 0xff, 0xff, 0xff}, uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		if len(stream) > 1<<16 {
			return
		}
		from, to := connected(t)
		go func() {
			defer from.Close()
			for b, n := stream, int(cut)+1; len(b) > 0; {
				k := min(n, len(b))
				if _, err := from.f.Write(b[:k]); err != nil {
					return
				}
				b = b[k:]
			}
		}()
		var again []byte
		for {
			kind, data, err := to.receive()
			if err != nil {
				break
			}
			again = appendFrame(again, kind, data)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Fatalf("of %q came %q", stream, again)
		}
		if rest := stream[len(again):]; len(rest) >= header {
			if _, _, n, err := parseFrame(rest); err == nil && n <= len(rest) {
				t.Fatalf("a whole frame did not come: %q", rest)
			}
		}
	})
}
