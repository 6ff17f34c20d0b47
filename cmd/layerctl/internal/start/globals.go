// Package start holds what `layerctl run` needs between the command line and the container: the global flags, run's own flags,
// and the few calls that join an image's run record to the runtime.
//
// It is apart from the other commands because starting a container is the one thing whose cost is counted in microseconds. Go
// initialises every linked package before main, used or not; what speaks to registries costs more than the whole rest of a start.
// So this package and everything it imports stay light (tests/imports_test.go says what that means), and package early runs it
// before the heavy packages have been initialised.
package start

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// Globals are the flags that every command takes.
type Globals struct {
	Root    string // the store
	RunRoot string // volatile state: locks, sockets, states of running containers
}

// Where the store and the volatile state are when nothing else is said.
const (
	DefaultRoot    = "/var/lib/layerctl"
	DefaultRunRoot = "/run/layerctl"
)

// Flags are the global flags; their values from the environment are the defaults.
func (g *Globals) Flags() []Flag {
	g.Root = fromEnv("LAYERCTL_ROOT", DefaultRoot)
	g.RunRoot = fromEnv("LAYERCTL_RUN_ROOT", DefaultRunRoot)
	return []Flag{
		stringFlag(&g.Root, "root", "", "the store (LAYERCTL_ROOT)"),
		stringFlag(&g.RunRoot, "run-root", "", "volatile state of running containers (LAYERCTL_RUN_ROOT)"),
	}
}

func fromEnv(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// Resolve checks the privilege that the store needs, and makes the names of its directories absolute: a container's monitor works
// from another directory.
func (g *Globals) Resolve() error {
	for _, dir := range []*string{&g.Root, &g.RunRoot} {
		if *dir == "" {
			return errors.New("open store: --root and --run-root must not be empty")
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("open store %s: %w", *dir, err)
		}
		*dir = abs
	}
	if os.Geteuid() != 0 {
		return Hinted(errors.New("open store "+g.Root+": layerctl must be run by root"),
			"ordinary users are not supported yet; try sudo layerctl")
	}
	// user_namespaces(7): the initial namespace maps every ID to itself.
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && !slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"}) {
		return Hinted(errors.New("open store "+g.Root+": layerctl must be run by the host's root, and this is the root of a user namespace"),
			"ordinary users are not supported yet; try sudo layerctl outside of it")
	}
	return nil
}

// Open opens the snapshots and the containers of the store, making an empty store where there is none. No database is opened.
func (g *Globals) Open() (*snapshot.Store, *runtime.Store, error) {
	if err := snapshot.CheckFormat(g.Root); err != nil {
		return nil, nil, fmt.Errorf("open store %s: %w", g.Root, err)
	}
	snaps, err := snapshot.Open(g.Root + "/snapshots")
	if err != nil {
		return nil, nil, fmt.Errorf("open store %s: %w", g.Root, err)
	}
	snaps.DeleteDetached(true)
	containers, err := runtime.Open(g.Root, g.RunRoot, snaps)
	if err != nil {
		return nil, nil, fmt.Errorf("open store %s: %w", g.Root, err)
	}
	return snaps, containers, nil
}

// ImagesDir is where the image store lives below the root.
func (g *Globals) ImagesDir() string { return g.Root + "/images" }

// hinted is an error with a line that says what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

// Hinted adds to err what a person can do about it.
func Hinted(err error, hint string) error { return hinted{err, hint} }

// Report prints an error as a person reads it: one line, and a hint where there is one (cli.md, "an error").
func Report(w io.Writer, err error) {
	fmt.Fprintln(w, "layerctl:", OneLine(err.Error()))
	if hint := HintOf(err); hint != "" {
		fmt.Fprintln(w, "hint:", OneLine(hint))
	}
}

// HintOf returns what Hinted added to err, or "".
func HintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// OneLine joins lines and shows what a terminal would obey or not show, control characters and marks that turn the direction of a text:
// messages carry names out of foreign layers and answers of foreign registries.
func OneLine(s string) string {
	s = strings.TrimSpace(s)
	if strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f }) < 0 { // as nearly all are, and tables show thousands
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			b.WriteByte(' ')
		case r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&b, "\\x%02x", r)
		case r > 0xffff && !unicode.IsGraphic(r):
			fmt.Fprintf(&b, "\\U%08x", r)
		case !unicode.IsGraphic(r):
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
