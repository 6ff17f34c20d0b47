package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// kept is a log in memory, whose positions are pieces.
type kept struct {
	mu     sync.Mutex
	pieces []struct {
		stream byte
		data   string
	}
	lost int // pieces that are gone
}

func (k *kept) Append(stream byte, b []byte, _ time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pieces = append(k.pieces, struct {
		stream byte
		data   string
	}{stream, string(b)})
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

// A client that takes nothing holds nobody up where there is a log, and gets all of it in the end.
func TestLaggard(t *testing.T) {
	h := NewHub(HubOptions{Log: &kept{}})
	slow, quick := join(t, h, Hello{Output: true}), join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	want := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
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
	want := strings.Repeat("0123456789abcdef", 1<<18)
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

// terminal is a pty: the hub's console and the container's side.
func terminal(t testing.TB) (console, inner *os.File) {
	t.Helper()
	console, inner, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { console.Close(); inner.Close() })
	if _, err := term.MakeRaw(int(inner.Fd())); err != nil {
		t.Fatal(err)
	}
	return console, inner
}

func TestConsole(t *testing.T) {
	h := NewHub(HubOptions{TTY: true, Stdin: true})
	a := join(t, h, Hello{Input: true, Output: true, Rows: 30, Cols: 100})
	console, inner := terminal(t)
	begin(t, h, Streams{Console: console})
	size := func() string {
		rows, cols, _ := pty.Getsize(inner)
		return fmt.Sprint(rows, " ", cols)
	}
	if s := size(); s != "30 100" {
		t.Errorf("the first size: %s", s)
	}
	b := join(t, h, Hello{Input: true, Output: true, Rows: 20, Cols: 80})
	if s := size(); s != "19 80" {
		t.Errorf("a second one: %s, and no redraw", s)
	}
	for range 200 {
		if size() == "20 80" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if s := size(); s != "20 80" {
		t.Errorf("a second one: %s", s)
	}
	for i, u := range []user{a, b} {
		u.send(frameInput, []byte{byte('a' + i)})
		got := make([]byte, 1)
		if _, err := io.ReadFull(inner, got); err != nil || got[0] != byte('a'+i) {
			t.Errorf("%q, %v", got, err)
		}
	}
	// All inner ends are closed for a while.
	name := inner.Name()
	io.WriteString(inner, "before ")
	inner.Close()
	time.Sleep(50 * time.Millisecond)
	again, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(again, "after")
	again.Close()
	h.Drain()
	h.End(0)
	for _, u := range []user{a, b} {
		if o, _, last := u.all(); o != "before after" || last != frameExit {
			t.Errorf("%q, %c", o, last)
		}
	}
}

// Where nobody can show what is printed, the container is told.
func TestHangup(t *testing.T) {
	h := NewHub(HubOptions{})
	a, b := join(t, h, Hello{Output: true}), join(t, h, Hello{Output: true})
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	a.send(frameHangup, []byte{Stdout})
	a.send(frameSignal, []byte{1})
	<-h.Signals() // both were seen
	if _, err := out.WriteString("x"); err != nil {
		t.Errorf("somebody else has it, and the container is told %v", err)
	}
	b.Close()
	broken := false
	for range 400 {
		a.send(frameHangup, []byte{Stdout})
		if _, err := out.WriteString("x"); errors.Is(err, unix.EPIPE) {
			broken = true
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if !broken {
		t.Error("the container is not told")
	}
	if _, err := errs.WriteString("x"); err != nil {
		t.Errorf("stderr: %v", err)
	}
	h.Drain()
	h.End(0)
}
