package explore

import (
	"bytes"
	"errors"
	"io"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image"
)

// brittleView panics where a name is looked up.
type brittleView struct{ fakeView }

func (brittleView) Blame(string) ([]image.Blame, error) { panic("brittle") }

// Whatever ends the view, the terminal is as it was: its settings, and the screen that was there.
func TestTerminalAfterPanic(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	drawn := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(master) // EIO when the other side is closed
		drawn <- b
	}()
	t.Setenv("TERM", "xterm")
	img := small()
	img.View = brittleView{img.View.(fakeView)}
	if err := Run(t.Context(), []Image{img}, nil, tty, tty); !errors.Is(err, tea.ErrProgramPanic) {
		t.Errorf("a panic ends it with %v", err)
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if *before != *after {
		t.Errorf("the terminal's settings were %+v and are %+v", before, after)
	}
	tty.Close()
	b := <-drawn
	if on, off := bytes.LastIndex(b, []byte("\x1b[?1049h")), bytes.LastIndex(b, []byte("\x1b[?1049l")); on < 0 || off < on {
		t.Errorf("the other screen is entered at %d and left at %d of what is drawn: %q", on, off, b)
	}
	for _, mode := range []string{"\x1b[?25h", "\x1b[?1002l"} {
		if !bytes.Contains(b, []byte(mode)) {
			t.Errorf("%q is not in what is drawn: %q", mode, b)
		}
	}
}
