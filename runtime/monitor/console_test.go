package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

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
