package monitor

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kept is a log in memory, whose positions are pieces.
type kept struct {
	mu     sync.Mutex
	pieces []struct {
		stream byte
		data   string
	}
	lost  int // pieces that are gone
	keeps int // pieces that are not; 0 for all
}

func (k *kept) Append(stream byte, b []byte, _ time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pieces = append(k.pieces, struct {
		stream byte
		data   string
	}{stream, string(b)})
	if k.keeps > 0 {
		k.lost = max(0, len(k.pieces)-k.keeps)
	}
}

func (k *kept) Mark() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return int64(len(k.pieces))
}

func (k *kept) Next(from int64, max int, f func(stream byte, b []byte)) (next int64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if int(from) < k.lost {
		return int64(k.lost), errors.New("it was rotated away")
	}
	for n := 0; n < max && int(from) < len(k.pieces); from++ {
		p := k.pieces[from]
		f(p.stream, []byte(p.data))
		n += len(p.data)
	}
	return from, nil
}

func (k *kept) Floor(b []byte) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keeps > 0 {
		return int64(max(0, len(k.pieces)+1-k.keeps))
	}
	return 0
}

// user is a client of a hub.
type user struct {
	t testing.TB
	*Conn
}

func join(t testing.TB, h *Hub, hello Hello) user {
	t.Helper()
	ours, theirs := connected(t)
	if err := ours.Greet(hello); err != nil {
		t.Fatal(err)
	}
	h.Join(theirs)
	return user{t, ours}
}

// all is what comes until the last word, and that.
func (u user) all() (out, errs string, last byte) {
	u.t.Helper()
	var o, e strings.Builder
	for {
		kind, data, err := u.receive()
		if err != nil {
			u.t.Errorf("receive: %v", err)
			return o.String(), e.String(), 0
		}
		switch kind {
		case frameOutput:
			o.Write(data)
		case frameErrors:
			e.Write(data)
		case frameExit, frameFailed, frameLetGo:
			return o.String(), e.String(), kind
		}
	}
}

// pipes are a container's.
func pipes(t testing.TB) (s Streams, in, out, errs *os.File) {
	t.Helper()
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	in, s.Stdin = pipe()
	s.Stdout, out = pipe()
	s.Stderr, errs = pipe()
	return s, in, out, errs
}

func begin(t testing.TB, h *Hub, s Streams) {
	t.Helper()
	if err := h.Begin(s); err != nil {
		t.Fatal(err)
	}
}

func TestPipes(t *testing.T) {
	log := &kept{}
	h := NewHub(HubOptions{Stdin: true, StdinOnce: true, Log: log})
	a, b := join(t, h, Hello{Input: true, Output: true}), join(t, h, Hello{Output: true})
	s, in, out, errs := pipes(t)
	begin(t, h, s)
	h.Started(77)
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	go func() { // the container: stdin to stdout, and a word on stderr
		io.Copy(out, in)
		errs.WriteString("all\x00\xff")
		out.Close()
		errs.Close()
		h.Drain()
		h.End(5)
	}()
	user := attach(t, a.Conn, AttachOptions{Input: true})
	go func() {
		user.in.Write(data)
		user.in.Close()
	}()
	if o, e, last := b.all(); o != string(data) || e != "all\x00\xff" || last != frameExit {
		t.Errorf("%d bytes, %q, %c", len(o), e, last)
	}
	if o, e := user.out(), user.errs(); o != string(data) || e != "all\x00\xff" {
		t.Errorf("attached: %d bytes, %q", len(o), e)
	}
	if code, err := user.wait(); code != 5 || err != nil {
		t.Errorf("attached: %d, %v", code, err)
	}
	var o strings.Builder
	log.mu.Lock()
	defer log.mu.Unlock()
	for _, p := range log.pieces {
		if p.stream == Stdout {
			o.WriteString(p.data)
		}
	}
	if o.String() != string(data) {
		t.Error("the log has something else")
	}
}

// attached is a running Attach.
type attached struct {
	in        *os.File
	out, errs func() string // all of it
	wait      func() (int, error)
}

func attach(t testing.TB, c *Conn, o AttachOptions) (a attached) {
	t.Helper()
	var err error
	o.Stdin, a.in, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	collect := func() (*os.File, func() string) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		text := make(chan string, 1)
		go func() {
			b, _ := io.ReadAll(r)
			r.Close()
			text <- string(b)
		}()
		return w, func() string { return <-text }
	}
	o.Stdout, a.out = collect()
	o.Stderr, a.errs = collect()
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := Attach(c, o)
		o.Stdout.Close()
		o.Stderr.Close()
		ended <- end{code, err}
	}()
	t.Cleanup(func() { a.in.Close() })
	a.wait = func() (int, error) { e := <-ended; return e.code, e.err }
	return a
}

// A client that is gone holds up nothing.
func TestGone(t *testing.T) {
	h := NewHub(HubOptions{})
	u := join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	time.AfterFunc(100*time.Millisecond, func() { u.Close() })
	io.WriteString(out, strings.Repeat("0123456789abcdef", 1<<18))
	out.Close()
	errs.Close()
	h.Drain()
	h.End(3)
}

// What others hold of the container's streams does not hold up the end.
func TestDrainIsBounded(t *testing.T) {
	h := NewHub(HubOptions{Log: &kept{}})
	u := join(t, h, Hello{Output: true})
	s, _, out, _ := pipes(t)
	begin(t, h, s)
	io.WriteString(out, "the last words")
	h.Drain() // out is open
	h.End(0)
	if o, _, last := u.all(); o != "the last words" || last != frameExit {
		t.Errorf("%q, %c", o, last)
	}
}

func TestRestart(t *testing.T) {
	h := NewHub(HubOptions{Stdin: true, Log: &kept{}})
	u := join(t, h, Hello{Input: true, Output: true})
	for i := range 3 {
		s, in, out, errs := pipes(t)
		begin(t, h, s)
		h.Started(100 + i)
		u.send(frameInput, []byte{byte('0' + i)})
		b := make([]byte, 1)
		io.ReadFull(in, b)
		out.Write(b)
		out.Close()
		errs.Close()
		h.Drain()
	}
	h.Fail(127, 4, "no such command")
	var o string
	for {
		kind, data, err := u.receive()
		if err != nil {
			t.Fatal(err)
		}
		if kind == frameOutput {
			o += string(data)
		}
		if kind == frameFailed {
			if binary.BigEndian.Uint32(data) != 127 || data[4] != 4 || string(data[5:]) != "no such command" {
				t.Errorf("%q", data)
			}
			break
		}
	}
	if o != "012" {
		t.Errorf("%q", o)
	}
}

// Input that nobody reads holds neither signals nor windows up.
func TestSignalBehindInput(t *testing.T) {
	h := NewHub(HubOptions{Stdin: true})
	u := join(t, h, Hello{Input: true})
	s, _, _, _ := pipes(t)
	begin(t, h, s)
	for range inFlight {
		u.send(frameInput, make([]byte, chunk))
	}
	u.send(frameSignal, []byte{byte(unix.SIGTERM)})
	select {
	case got := <-h.Signals():
		if got != unix.SIGTERM {
			t.Errorf("%v", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("it does not come")
	}
	h.Drain()
	h.End(0)
}

func TestStdinOnce(t *testing.T) {
	for _, how := range []string{"end", "gone"} {
		h := NewHub(HubOptions{Stdin: true, StdinOnce: true})
		owner, other := join(t, h, Hello{Input: true}), join(t, h, Hello{Input: true})
		s, in, _, _ := pipes(t)
		begin(t, h, s)
		other.send(frameInput, []byte("a"))
		io.ReadFull(in, make([]byte, 1))
		other.Close()
		owner.send(frameInput, []byte("bc"))
		if how == "end" {
			owner.send(frameEnd, nil)
		} else {
			owner.Close()
		}
		if b, err := io.ReadAll(in); string(b) != "bc" || err != nil {
			t.Errorf("%s: %q, %v", how, b, err)
		}
		h.Drain()
		h.End(0)
	}
}

// A container that reads no more has its input's writer told.
func TestInputNobodyWants(t *testing.T) {
	h := NewHub(HubOptions{Stdin: true, StdinOnce: true})
	u := join(t, h, Hello{Input: true})
	s, in, _, _ := pipes(t)
	begin(t, h, s)
	in.Close()
	u.send(frameInput, []byte("a"))
	for _, want := range []byte{frameFull, frameTaken} {
		if kind, _, err := u.receive(); kind != want || err != nil {
			t.Errorf("%c, %v; want %c", kind, err, want)
		}
	}
	h.Drain()
	h.End(0)
}

func TestSocket(t *testing.T) {
	path := t.TempDir() + "/" + strings.Repeat("d", 200)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	path += "/attach"
	if _, err := Dial(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	for range 2 { // the second finds what the first left
		fd, err := Bind(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		h := NewHub(HubOptions{})
		if err := h.Listen(fd); err != nil {
			t.Fatal(err)
		}
		c, err := Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		c.Greet(Hello{})
		h.Started(5)
		if pid, err := c.WaitStarted(); pid != 5 || err != nil {
			t.Errorf("%d, %v", pid, err)
		}
		h.End(0)
		c.Close()
		if _, err := Dial(path); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a stale socket: %v", err)
		}
	}
}
