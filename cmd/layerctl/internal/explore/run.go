// Package explore is the full-screen view of what is in an image's layers: layers on the left, the tree of files on the right.
//
// Whatever a layer says (names, link targets, commands) may be meant to do harm to a terminal: it goes through safe before it is drawn.
// Nothing waits for the whole image: the tree is read in the background and grows on the screen, and a directory that is opened before
// it was read is listed by itself.
package explore

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/snapshot/diff"
)

func major(dev uint64) uint32 { return unix.Major(dev) }
func minor(dev uint64) uint32 { return unix.Minor(dev) }

// ErrEnded says that a signal has ended the view. The terminal is as it was before.
var ErrEnded = errors.New("ended by a signal")

// Run shows one image, or two, on the terminal that in and out are, until the user ends it. It takes SIGINT and SIGTERM over: the first
// belongs to the pager while there is one, the second ends the view.
func Run(ctx context.Context, images []Image, export Exporter, in, out *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			if s != syscall.SIGINT {
				cancel()
			}
		}
	}()
	g := asciiGlyphs
	if utf8Locale() {
		g = unicodeGlyphs
	}
	under := &exports{ctx: ctx, do: export}
	// One that is given up takes away what it has made.
	defer under.Wait()
	defer cancel()
	m := newModel(ctx, images, actions{pager: func(images []Image, s scope, path string, what page) tea.Cmd {
		return pager(ctx, images, s, path, what)
	}, export: under.cmd}, g)
	if w, h, err := term.GetSize(int(out.Fd())); err == nil {
		m.width, m.height = w, h // so that the first picture is a whole one
	}
	_, err := tea.NewProgram(m, tea.WithFPS(120), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler()).Run()
	if ctx.Err() != nil {
		return ErrEnded
	}
	return err
}

// utf8Locale says whether the terminal shows UTF-8, as far as the environment says (locale(7)). A locale that nobody has set is no
// statement about the terminal.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return true
}

// page is what the pager is to show of a name.
type page int

const (
	asNow page = iota // the file
	asWas             // the file before the change
	patch             // the change, as a patch
)

// pager shows a file, or what changed in it, in $PAGER, or in less or more. The bytes go through a pipe.
func pager(ctx context.Context, images []Image, s scope, path string, what page) tea.Cmd {
	fail := func(err error) tea.Cmd { return func() tea.Msg { return paged{err} } }
	var cmd *exec.Cmd
	if words := os.Getenv("PAGER"); strings.TrimSpace(words) != "" {
		cmd = exec.Command("sh", "-c", words)
	} else if less, err := exec.LookPath("less"); err == nil {
		cmd = exec.Command(less)
	} else if more, err := exec.LookPath("more"); err == nil {
		cmd = exec.Command(more)
	} else {
		return fail(errors.New("there is no less and no more: set PAGER"))
	}
	var from io.ReadCloser
	if what == patch {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writePatch(ctx, images, s, path, w)) }()
		from = r
	} else {
		f, err := open(images, s, path, what == asWas)
		if err != nil {
			return fail(err)
		}
		from = f
	}
	cmd.Stdin = struct{ io.Reader }{from} // no *os.File: the pager gets a pipe, and no descriptor of the store's
	return tea.ExecProcess(cmd, func(err error) tea.Msg {
		from.Close()
		var status *exec.ExitError
		if errors.As(err, &status) && status.ExitCode() != 127 {
			// Pagers say by it how they were left; a shell ends by the signal that its pager has taken for a key.
			if w, ok := status.Sys().(syscall.WaitStatus); !ok || !w.Signaled() || w.Signal() == syscall.SIGINT || w.Signal() == syscall.SIGPIPE {
				err = nil
			}
		}
		return paged{err}
	})
}

// writePatch writes what a scope changes at a path, and below it.
func writePatch(ctx context.Context, images []Image, s scope, path string, w io.Writer) error {
	old, now := views(images, s, true), views(images, s, false)
	b := bufio.NewWriter(w)
	for c, err := range diff.Compare(ctx, old, now, diff.Options{Path: path}) {
		if err == nil {
			err = diff.Patch(b, &c, old, now)
		}
		if err != nil {
			return err
		}
	}
	return b.Flush()
}

// Exporter copies what is selected, a file or a directory with all that is in it, to a place where nothing is, and returns what to say of
// it. Of a copy that fails nothing is left.
type Exporter func(ctx context.Context, sel Selection, to string) (said string, err error)

// Selection is what is exported.
type Selection struct {
	Image int
	Layer int  // of what the layers up to this one show; 0 is the lowest
	Alone bool // of what this layer alone brings
	Path  string
}

// selection is the name at a path as a scope shows it, or as it was before.
func selection(images []Image, s scope, path string, old bool) Selection {
	sel := Selection{Image: s.image, Path: path, Layer: s.layer}
	switch s.mode {
	case compare:
		sel.Image = 1
		if old {
			sel.Image = 0
		}
		sel.Layer = len(images[sel.Image].Layers) - 1
	case whole:
		sel.Layer = len(images[s.image].Layers) - 1
	case change:
		sel.Alone = !old
		if old {
			sel.Layer--
		}
	case upto:
		if old {
			sel.Layer--
		}
	}
	return sel
}

// exports are the exports under way: the program does not end before them.
type exports struct {
	ctx context.Context
	do  Exporter
	sync.WaitGroup
}

func (e *exports) cmd(images []Image, s scope, path string, old bool, to string) tea.Cmd {
	sel := selection(images, s, path, old)
	e.Add(1)
	return func() tea.Msg {
		defer e.Done()
		said, err := e.do(e.ctx, sel, to)
		return exported{said, err}
	}
}
