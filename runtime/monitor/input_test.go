package monitor

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// given receives until the client has an end of the container's stdin, or the hub has begun to say something else.
func (u user) given() *os.File {
	u.t.Helper()
	u.takesFiles = true
	u.f.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if kind, _, err := u.receive(); err != nil || kind != frameStdin {
		return nil
	}
	f := u.takeFile()
	if f == nil {
		u.t.Fatal("the frame has no descriptor")
	}
	u.t.Cleanup(func() { f.Close() })
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		u.t.Errorf("it would be inherited: %d, %v", flags, err)
	}
	return f
}

// Who may send input gets the container's stdin, before its start and after; where it ends with the first one, nobody else.
func TestStdinIsGiven(t *testing.T) {
	want := Hello{Input: true, Pipe: true}
	for _, once := range []bool{true, false} {
		h := NewHub(HubOptions{Stdin: true, StdinOnce: once})
		first, second := join(t, h, want), join(t, h, want)
		s, in, _, _ := pipes(t)
		begin(t, h, s)
		later := join(t, h, want)
		f := first.given()
		if f == nil {
			t.Fatal("the first one has nothing")
		}
		f.WriteString("abc")
		if b := make([]byte, 3); once {
			if second.given() != nil || later.given() != nil {
				t.Error("others keep open what ends with the first")
			}
			f.Close()
			first.send(frameEnd, nil)
			if b, err := io.ReadAll(in); string(b) != "abc" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			if u := join(t, h, want); u.given() != nil {
				t.Error("it was given after its end")
			}
		} else if second.given() == nil || later.given() == nil {
			t.Error("not everybody has it")
		} else if _, err := io.ReadFull(in, b); string(b) != "abc" {
			t.Errorf("%q, %v", b, err)
		}
		h.Drain()
		h.End(0)
	}
	h := NewHub(HubOptions{Stdin: true})
	s, _, _, _ := pipes(t)
	begin(t, h, s)
	for _, hello := range []Hello{{Pipe: true, Output: true}, {Input: true, Output: true}} {
		if u := join(t, h, hello); u.given() != nil {
			t.Errorf("%+v was given it", hello)
		}
	}
	h.Drain()
	h.End(0)
	s3 := NewHub(HubOptions{TTY: true, Stdin: true})
	console, _ := terminal(t)
	begin(t, s3, Streams{Console: console})
	if u := join(t, s3, want); u.given() != nil {
		t.Error("a terminal was given")
	}
	s3.Drain()
	s3.End(0)
}

// Whatever stdin is, all of it arrives in order, and its end; and it is left as it was.
func TestInputDirectly(t *testing.T) {
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	pipe := func(flags int) (*os.File, func()) {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.SetNonblock(ends[0], flags != 0)
		w := os.NewFile(uintptr(ends[1]), "writer")
		return os.NewFile(uintptr(ends[0]), "stdin"), func() {
			for b := data; len(b) > 0; {
				n := min(len(b), 100_003)
				w.Write(b[:n])
				if b = b[n:]; len(b)%5 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			w.Close()
		}
	}
	for name, open := range map[string]func() (*os.File, func()){
		"pipe":                     func() (*os.File, func()) { return pipe(0) },
		"pipe that does not block": func() (*os.File, func()) { return pipe(unix.O_NONBLOCK) },
		"file": func() (*os.File, func()) {
			path := t.TempDir() + "/data"
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return f, func() {}
		},
		"socket": func() (*os.File, func()) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			w := os.NewFile(uintptr(pair[1]), "writer")
			return os.NewFile(uintptr(pair[0]), "stdin"), func() {
				w.Write(data)
				w.Close()
			}
		},
	} {
		h := NewHub(HubOptions{Stdin: true, StdinOnce: true})
		ours, theirs := connected(t)
		ours.Greet(Hello{Input: true, Output: true, Pipe: true})
		h.Join(theirs)
		stdin, write := open()
		flags, _ := unix.FcntlInt(stdin.Fd(), unix.F_GETFL, 0)
		go write()
		ended := make(chan int)
		go func() {
			code, _ := Attach(ours, AttachOptions{Stdin: stdin, Stdout: os.Stdout, Stderr: os.Stderr, Input: true})
			ended <- code
		}()
		time.Sleep(20 * time.Millisecond) // some of it is sent before there is a container
		s, in, _, _ := pipes(t)
		begin(t, h, s)
		got, err := io.ReadAll(in)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
		if now, _ := unix.FcntlInt(stdin.Fd(), unix.F_GETFL, 0); now != flags {
			t.Errorf("%s: its flags were %x and are %x", name, flags, now)
		}
		h.Drain()
		h.End(4)
		if code := <-ended; code != 4 {
			t.Errorf("%s: %d", name, code)
		}
		stdin.Close()
	}
}

// What is sent after a container was started again is for the new one; what nobody reads any more is told to the writer.
func TestInputAfterRestart(t *testing.T) {
	h := NewHub(HubOptions{Stdin: true})
	ours, theirs := connected(t)
	ours.Greet(Hello{Input: true, Output: true, Pipe: true})
	h.Join(theirs)
	a := attach(t, ours, AttachOptions{Input: true})
	b := make([]byte, 3)
	for i := range 3 {
		s, in, out, errs := pipes(t)
		begin(t, h, s)
		for _, text := range []string{"one", "two"} { // the first may go in a frame
			a.in.WriteString(text)
			if _, err := io.ReadFull(in, b); string(b) != text {
				t.Fatalf("%d: %q, %v", i, b, err)
			}
		}
		in.Close()
		for j := 0; i == 2; j++ {
			if _, err := a.in.WriteString("x"); err != nil {
				break
			}
			if time.Sleep(5 * time.Millisecond); j == 1000 {
				t.Fatal("who writes is not told that nobody reads")
			}
		}
		out.Close()
		errs.Close()
		h.Drain()
	}
	h.End(0)
	a.wait()
}

// A container's stdin that comes when there is no more input is let go of: it would never end.
func TestStdinAfterTheEnd(t *testing.T) {
	h := NewHub(HubOptions{Stdin: true, StdinOnce: true})
	ours, theirs := connected(t)
	ours.Greet(Hello{Input: true, Output: true, Pipe: true})
	h.Join(theirs)
	a := attach(t, ours, AttachOptions{Input: true})
	a.in.WriteString("all")
	a.in.Close()
	h.mu.Lock() // what the client says is taken in; what it is told waits
	s, in, _, _ := pipes(t)
	for range 1000 {
		h.stdin.mu.Lock()
		said := h.stdin.ended
		h.stdin.ended = false // as it is where the client has not been heard yet
		h.stdin.mu.Unlock()
		if said {
			break
		}
		time.Sleep(time.Millisecond)
	}
	h.mu.Unlock()
	begin(t, h, s)
	in.SetReadDeadline(time.Now().Add(5 * time.Second))
	if b, err := io.ReadAll(in); string(b) != "all" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	h.Drain()
	h.End(0)
	a.wait()
}
