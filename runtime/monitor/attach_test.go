package monitor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// window is a user's terminal: what he sees of it, and what his programs have.
type window struct {
	t         testing.TB
	user, tty *os.File
	before    unix.Termios
}

func openWindow(t testing.TB) *window {
	t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close(); tty.Close() })
	w := &window{t: t, user: user, tty: tty}
	w.before = w.modes()
	pty.Setsize(user, &pty.Winsize{Rows: 25, Cols: 81})
	return w
}

func (w *window) modes() unix.Termios {
	w.t.Helper()
	m, err := unix.IoctlGetTermios(int(w.tty.Fd()), unix.TCGETS)
	if err != nil {
		w.t.Fatal(err)
	}
	return *m
}

func (w *window) eventually(what string, ok func() bool) {
	w.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("never: %s", what)
}

// session is an Attach from a window to a container with a terminal.
type session struct {
	*window
	h       *Hub
	inner   *os.File // the container's
	signals chan os.Signal
	ended   chan string
}

func attachWindow(t testing.TB, o AttachOptions) *session {
	t.Helper()
	s := &session{window: openWindow(t), h: NewHub(HubOptions{TTY: true, Stdin: true, StdinOnce: true, Log: &kept{}}), signals: make(chan os.Signal, 9), ended: make(chan string, 1)}
	ours, theirs := connected(t)
	var console *os.File
	console, s.inner = terminal(t)
	begin(t, s.h, Streams{Console: console})
	hello := Hello{Input: true, Output: true}
	hello.Window(s.tty)
	ours.Greet(hello)
	s.h.Join(theirs)
	o.Stdin, o.Stdout, o.Stderr, o.Signals, o.Input, o.TTY = s.tty, s.tty, s.tty, s.signals, true, true
	go func() {
		code, err := Attach(ours, o)
		s.ended <- fmt.Sprintf("%d, %v", code, err)
	}()
	s.eventually("the terminal is raw", func() bool { return s.modes() != s.before })
	return s
}

func (s *session) end(want string) {
	s.t.Helper()
	select {
	case got := <-s.ended:
		if got != want {
			s.t.Errorf("%q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		s.t.Fatal("it does not end")
	}
}

func (s *session) finish() {
	s.h.Drain()
	s.h.End(7)
}

func TestAttachAndDetach(t *testing.T) {
	keys, err := ParseDetachKeys(DefaultDetachKeys)
	if err != nil {
		t.Fatal(err)
	}
	s := attachWindow(t, AttachOptions{DetachKeys: keys})
	defer s.finish()
	s.user.WriteString("a\x03\x10b\x10\x10\x11") // Ctrl-C, and Ctrl-P, are the container's
	got := make([]byte, 0, 16)
	for buf := make([]byte, 16); len(got) < 5; {
		n, err := s.inner.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != "a\x03\x10b\x10" {
		t.Errorf("the container has %q", got)
	}
	s.end("0, " + ErrDetached.Error())
	if s.modes() != s.before {
		t.Error("the terminal is not as it was")
	}
}

func TestAttachToTheEnd(t *testing.T) {
	s := attachWindow(t, AttachOptions{})
	s.inner.WriteString("the last words")
	s.finish()
	s.end("7, <nil>")
	if s.modes() != s.before {
		t.Error("the terminal is not as it was")
	}
	b := make([]byte, 14)
	if _, err := s.user.Read(b); string(b) != "the last words" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestAttachFollowsTheWindow(t *testing.T) {
	s := attachWindow(t, AttachOptions{})
	defer s.finish()
	size := func(rows, cols int) {
		t.Helper()
		s.eventually(fmt.Sprintf("%d %d", rows, cols), func() bool {
			r, c, _ := pty.Getsize(s.inner)
			return r == rows && c == cols
		})
	}
	size(25, 81)
	pty.Setsize(s.user, &pty.Winsize{Rows: 40, Cols: 132})
	s.signals <- unix.SIGWINCH
	size(40, 132)
	// A shell that had the terminal while we were stopped has set it as it likes it.
	unix.IoctlSetTermios(int(s.tty.Fd()), unix.TCSETS, &s.before)
	pty.Setsize(s.user, &pty.Winsize{Rows: 30, Cols: 100})
	s.signals <- unix.SIGCONT
	size(30, 100)
	if s.modes() == s.before {
		t.Error("the terminal is not raw again")
	}
}

func TestAttachSignals(t *testing.T) {
	s := attachWindow(t, AttachOptions{Proxy: true})
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGUSR1} {
		s.signals <- sig
		if got := <-s.h.Signals(); got != sig {
			t.Errorf("%v, want %v", got, sig)
		}
	}
	s.signals <- unix.SIGHUP // the terminal's end is not the container's
	s.end("129, " + ErrDetached.Error())
	s.finish()
	s = attachWindow(t, AttachOptions{})
	s.signals <- unix.SIGUSR1
	s.signals <- unix.SIGTERM
	s.end("143, " + ErrDetached.Error())
	s.finish()
	if s.modes() != s.before || len(s.h.Signals()) > 0 {
		t.Errorf("the terminal is not as it was, or the container got one of %d signals", len(s.h.Signals()))
	}
}

// A terminal that goes away takes the attachment with it, and not the container.
func TestTerminalGoesAway(t *testing.T) {
	for _, prints := range []bool{false, true} {
		s := attachWindow(t, AttachOptions{Proxy: true, Hangup: true})
		s.user.Close()
		if prints {
			s.inner.WriteString("hello?")
		}
		s.end("129, " + ErrDetached.Error())
		if _, err := s.inner.WriteString("still here"); err != nil {
			t.Errorf("the container: %v", err)
		}
		s.finish()
	}
}

func TestAttachBrokenOutput(t *testing.T) {
	for i := range 4 {
		hangup, pipe := i%2 == 1, i > 1
		h := NewHub(HubOptions{})
		ours, theirs := connected(t)
		ours.Greet(Hello{Output: true, Pipe: pipe})
		h.Join(theirs)
		s, _, out, _ := pipes(t)
		begin(t, h, s)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		ended := make(chan error, 1)
		go func() {
			_, err := Attach(ours, AttachOptions{Stdin: os.Stdin, Stdout: w, Stderr: os.Stderr, Hangup: hangup})
			ours.Close()
			ended <- err
		}()
		out.WriteString("x")
		if !hangup {
			if err := <-ended; !errors.Is(err, unix.EPIPE) {
				t.Errorf("%v", err)
			}
		} else {
			for range 1000 {
				if _, err = out.WriteString("x"); err != nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if !errors.Is(err, unix.EPIPE) {
				t.Errorf("the container: %v", err)
			}
		}
		h.Drain()
		h.End(13)
		if hangup {
			if err := <-ended; err != nil {
				t.Errorf("%v", err)
			}
		}
	}
}

// Where the container takes no more, whoever writes to us is told, too.
func TestAttachInputNobodyWants(t *testing.T) {
	h := NewHub(HubOptions{Stdin: true, StdinOnce: true})
	ours, theirs := connected(t)
	ours.Greet(Hello{Input: true, Output: true})
	h.Join(theirs)
	s, in, _, _ := pipes(t)
	begin(t, h, s)
	in.Close()
	a := attach(t, ours, AttachOptions{Input: true})
	var err error
	for range 1000 {
		if _, err = a.in.WriteString("x"); err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if !errors.Is(err, unix.EPIPE) {
		t.Errorf("%v", err)
	}
	h.Drain()
	h.Fail(126, 3, "not executable")
	_, err = a.wait()
	var failed *StartError
	if !errors.As(err, &failed) || failed.Code != 126 || failed.Kind != 3 || !strings.Contains(err.Error(), "not executable") {
		t.Errorf("%v", err)
	}
}

func TestMonitorGone(t *testing.T) {
	ours, theirs := connected(t)
	a := attach(t, ours, AttachOptions{})
	theirs.Close()
	if _, err := a.wait(); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

// FuzzClient has a hub listen to anything.
func FuzzClient(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameInput, []byte("text")), frameSize, []byte{0, 30, 0, 90}))
	f.Add(appendFrame(appendFrame(nil, frameSignal, []byte{15}), frameHangup, []byte{Stdout}))
	f.Add(appendFrame(appendFrame(nil, frameEnd, nil), frameInput, []byte("x")))
	f.Fuzz(func(t *testing.T, said []byte) {
		if len(said) > 1<<16 {
			return
		}
		h := NewHub(HubOptions{Stdin: true, StdinOnce: true})
		u := join(t, h, Hello{Input: true, Output: true, Pipe: true, Rows: 3, Cols: 4})
		s, in, out, errs := pipes(t)
		begin(t, h, s)
		in.Close()
		out.WriteString("o")
		u.f.Write(said)
		out.Close()
		errs.Close()
		h.Drain()
		h.End(0)
		u.Close()
	})
}
