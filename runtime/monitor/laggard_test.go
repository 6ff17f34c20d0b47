package monitor

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A client that takes nothing holds nobody up where there is a log, and gets all of it in the end.
func TestLaggard(t *testing.T) {
	h := NewHub(HubOptions{Log: &kept{}})
	slow, quick := join(t, h, Hello{Output: true}), join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	want := strings.Repeat("0123456789abcdef", 1<<20) // more than all that lies between the two // 4 MiB
	ended := make(chan bool)
	go func() {
		io.WriteString(out, want)
		out.Close()
		errs.Close()
		h.Drain()
		close(ended)
		h.End(0)
	}()
	if o, _, last := quick.all(); o != want || last != frameExit {
		t.Errorf("the quick one: %d bytes, %c", len(o), last)
	}
	<-ended
	later := join(t, h, Hello{Output: true, FromStart: true})
	if o, _, last := slow.all(); o != want || last != frameExit {
		t.Errorf("the slow one: %d bytes, %c", len(o), last)
	}
	if o, _, last := later.all(); o != want || last != frameExit {
		t.Errorf("who came later: %d bytes, %c", len(o), last)
	}
}

// A client that lags and comes back to what is printed now misses nothing and gets nothing twice.
func TestCatchUp(t *testing.T) {
	h := NewHub(HubOptions{Log: &kept{}})
	u := join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	var want bytes.Buffer
	got := make(chan string)
	go func() {
		o, _, _ := u.all()
		got <- o
	}()
	for i := range 400 {
		line := []byte(fmt.Sprintf("%06d %s\n", i, strings.Repeat("x", i%7*3000)))
		want.Write(line)
		out.Write(line)
		if i%50 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	out.Close()
	errs.Close()
	h.Drain()
	h.End(0)
	if o := <-got; o != want.String() {
		t.Errorf("%d bytes of %d", len(o), want.Len())
	}
}

// What rotation would take from a client waits for it, and who takes nothing for long is let go.
func TestRotation(t *testing.T) {
	for _, comes := range []bool{true, false} {
		h := NewHub(HubOptions{Log: &kept{keeps: 3}})
		if !comes {
			h.patience = 200 * time.Millisecond
			fd, err := Bind(t.TempDir() + "/attach")
			if err == nil {
				err = h.Listen(fd)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		u := join(t, h, Hello{Output: true})
		s, _, out, errs := pipes(t)
		begin(t, h, s)
		want := strings.Repeat("0123456789abcdef", 1<<20) // more than all that lies between the two
		printed := make(chan bool)
		go func() {
			io.WriteString(out, want)
			out.Close()
			errs.Close()
			h.Drain()
			close(printed)
			h.End(3)
		}()
		if !comes {
			<-printed
		}
		o, _, last := u.all()
		if comes && (o != want || last != frameExit) {
			t.Errorf("%d bytes, %c", len(o), last)
		}
		if !comes && (!strings.HasPrefix(want, o) || last != frameLetGo) {
			t.Errorf("who takes nothing: %d bytes, %c", len(o), last)
		}
	}
}

// What a rotation took from a client is told to it.
func TestLostToRotation(t *testing.T) {
	log := &kept{}
	h := NewHub(HubOptions{Log: log})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	io.WriteString(out, "early")
	out.Close()
	errs.Close()
	h.Drain()
	log.mu.Lock()
	log.lost = 1
	log.mu.Unlock()
	u := join(t, h, Hello{Output: true, FromStart: true})
	h.End(0)
	kind, data, err := u.receive()
	if err != nil || kind != frameNote || !strings.Contains(string(data), "rotated away") {
		t.Errorf("%c %q, %v", kind, data, err)
	}
	if o, _, last := u.all(); o != "" || last != frameExit {
		t.Errorf("%q, %c", o, last)
	}
}

// Without a log the container waits for a lone client, however slow.
func TestLoneClientWithoutLog(t *testing.T) {
	h := NewHub(HubOptions{})
	u := join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	want := strings.Repeat("0123456789abcdef", 1<<20) // more than all that lies between the two
	go func() {
		io.WriteString(out, want)
		out.Close()
		errs.Close()
		h.Drain()
		h.End(3)
	}()
	time.Sleep(100 * time.Millisecond)
	if o, _, last := u.all(); o != want || last != frameExit {
		t.Errorf("%d bytes, %c", len(o), last)
	}
}

// A client leaves while it is written to: whoever writes and whoever sees it leave do not wait for each other.
func TestLeavesWhileWrittenTo(t *testing.T) {
	h := NewHub(HubOptions{})
	u := join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	for c := range h.clients {
		c.conn.rc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 64<<10) })
	}
	out.Write(make([]byte, 900_000)) // more than the socket takes
	out.Close()
	errs.Close()
	pause := func() { time.Sleep(50 * time.Millisecond) }
	pause()
	h.mu.Lock()
	if err := u.rc.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		t.Fatal(err)
	}
	pause() // who sees it leave waits for the lock
	u.f.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	for {
		if _, _, err := u.receive(); err != nil {
			break // all that the socket held: there is room, and who has written waits for the lock, too
		}
	}
	h.mu.Unlock()
	ended := make(chan bool)
	go func() {
		h.Drain()
		h.End(0)
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("they wait for each other")
	}
}
