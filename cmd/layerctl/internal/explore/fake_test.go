package explore

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/snapshot/diff"
)

var update = flag.Bool("update", false, "write the screens in testdata anew")

// fakeLayer is a layer of entries in memory.
type fakeLayer struct {
	id      string
	entries []diff.Entry
}

func (l *fakeLayer) ID() string                    { return l.id }
func (l *fakeLayer) Cursor() diff.Cursor           { return &fakeCursor{l: l, at: -1} }
func (l *fakeLayer) Open(string) (*os.File, error) { return nil, fs.ErrNotExist }

type fakeCursor struct {
	l  *fakeLayer
	at int
}

func (c *fakeCursor) Next() bool { c.at++; return c.at < len(c.l.entries) }
func (c *fakeCursor) Seek(path string) bool {
	for c.at = max(c.at, 0); c.at < len(c.l.entries) && diff.ComparePaths(c.l.entries[c.at].Path, path) < 0; {
		c.at++
	}
	return c.at < len(c.l.entries)
}
func (c *fakeCursor) Path() []byte               { return []byte(c.l.entries[c.at].Path) }
func (c *fakeCursor) Type() byte                 { return c.l.entries[c.at].Type }
func (c *fakeCursor) Entry() (diff.Entry, error) { return c.l.entries[c.at], nil }
func (c *fakeCursor) Err() error                 { return nil }
func (c *fakeCursor) Close()                     {}

var then = time.Date(2024, 3, 1, 12, 30, 0, 0, time.UTC)

// layerOf makes a layer of lines: PATH/ a directory, PATH=SIZE a file, PATH@TARGET a link, PATH! a whiteout, PATH% an opaque directory.
func layerOf(id string, lines ...string) *fakeLayer {
	l := &fakeLayer{id: id}
	have := map[string]bool{}
	add := func(e diff.Entry) {
		e.ModTime = then
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if !have[e.Path] {
			have[e.Path] = true
			l.entries = append(l.entries, e)
		}
	}
	for _, line := range lines {
		var e diff.Entry
		switch i := strings.LastIndexAny(line, "/=@!%"); line[i] {
		case '/':
			e = diff.Entry{Path: line[:i], Type: diff.TypeDir}
		case '=':
			e = diff.Entry{Path: line[:i], Type: diff.TypeFile, Mode: 0o644}
			fmt.Sscan(line[i+1:], &e.Size)
			copy(e.Content[:], id+line)
		case '@':
			e = diff.Entry{Path: line[:i], Type: diff.TypeSymlink, Mode: 0o777, Link: strings.ReplaceAll(line[i+1:], "|", "/")}
		case '!':
			e = diff.Entry{Path: line[:i], Type: diff.TypeWhiteout}
		case '%':
			e = diff.Entry{Path: line[:i], Type: diff.TypeOpaque}
		}
		add(e)
	}
	for _, e := range slices.Clone(l.entries) {
		for _, dir := range diff.Parents(e.Path) {
			add(diff.Entry{Path: dir, Type: diff.TypeDir})
		}
	}
	slices.SortFunc(l.entries, func(a, b diff.Entry) int { return diff.ComparePaths(a.Path, b.Path) })
	return l
}

// fakeView is layers in memory.
type fakeView []*fakeLayer

func (v fakeView) Upto(n int) *diff.Stack {
	var layers []diff.Layer
	for _, l := range v[:n] {
		layers = append(layers, l)
	}
	return diff.NewStack(layers...)
}

// Blame compares what each layer makes of a path with what was there.
func (v fakeView) Blame(path string) ([]image.Blame, error) {
	var list []image.Blame
	var before *diff.Entry
	last := -1
	for n := range v {
		f, err := v.Upto(n + 1).Lookup(path)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case err != nil && before != nil:
			list = append(list, image.Blame{Layer: n, Kind: diff.Deleted, By: path})
			before, last = nil, -1
		case err == nil && before == nil:
			list = append(list, image.Blame{Layer: n, Kind: diff.Added, Entry: f.Entry})
			before, last = &f.Entry, len(list)-1
		case err == nil && (diff.Differ(before, &f.Entry) != 0 || f.Layer == n && f.Type != diff.TypeDir):
			list = append(list, image.Blame{Layer: n, Kind: diff.Changed, Entry: f.Entry, Differs: diff.Differ(before, &f.Entry)})
			before, last = &f.Entry, len(list)-1
		}
	}
	if len(list) == 0 {
		return nil, image.ErrNoPath
	}
	if last >= 0 {
		list[last].Wins = true
	}
	return list, nil
}

func imageOf(name string, commands []string, layers ...*fakeLayer) Image {
	img := Image{Name: name, View: fakeView(layers)}
	for i, l := range layers {
		var total int64
		for _, e := range l.entries {
			total += e.Size
		}
		img.Layers = append(img.Layers, Layer{DiffID: "sha256:" + strings.Repeat(l.id, 32)[:64], Command: commands[i], Size: total, Created: then,
			SharedBy: [][]string{{"docker.io/library/other:1"}, nil, nil, nil}[i]})
	}
	return img
}

var base = layerOf("ba", "bin@usr|bin", "etc/passwd=1201", "etc/hostname=12", "etc/ssl/certs/ca.pem=204800", "usr/bin/bash=1265648", "usr/bin/sh@bash",
	"usr/lib/libc.so.6=1926232", "usr/lib/os-release=267", "usr/share/doc/bash/copyright=12000", "var/cache/apt/pkgcache.bin=40123456",
	"var/cache/apt/srcpkgcache.bin=30123456", "var/lib/dpkg/status=98304", "tmp/")

func small() Image {
	return imageOf("app:2", []string{"ADD file:5b2a in /", "RUN apt-get install -y python3", "RUN rm -rf /var/cache/apt"},
		base,
		layerOf("cd", "etc/passwd=1250", "usr/bin/python3@python3.12", "usr/bin/python3.12=8021824", "usr/lib/python3.12/os.py=39786",
			"usr/lib/python3.12/abc.py=6538", "var/lib/dpkg/status=120304"),
		layerOf("ef", "var/cache/apt!", "tmp/a\x1b]0;owned\x07b=5", "tmp/\u202egnp.exe=7", "tmp/\u6f22\u5b57.txt=9", "tmp/bad\xff\xfe=1", "tmp/new\nline=2"))
}

func other() Image {
	return imageOf("app:3", []string{"ADD file:5b2a in /", "COPY app /srv"}, base,
		layerOf("99", "etc/passwd=1300", "srv/app/main.py=4711", "usr/share/doc%", "usr/share/doc/README=70"))
}

// screen is a model under test.
type screen struct {
	t *testing.T
	m *model
}

func open80x24(t *testing.T, images ...Image) *screen {
	s := &screen{t, newModel(t.Context(), images, actions{}, unicodeGlyphs)}
	s.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	s.do(s.m.Init())
	return s
}

// do runs a command and all that come of it.
func (s *screen) do(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case tea.BatchMsg:
		for _, c := range msg {
			s.do(c)
		}
	case tea.QuitMsg:
	default:
		s.send(msg)
	}
}

func (s *screen) send(msg tea.Msg) {
	_, cmd := s.m.Update(msg)
	s.do(cmd)
}

// keys presses keys: names with a blank between them.
func (s *screen) keys(names string) *screen {
	for name := range strings.FieldsSeq(names) {
		s.send(keyOf(name))
	}
	return s
}

func keyOf(name string) tea.KeyPressMsg {
	special := map[string]rune{"up": tea.KeyUp, "down": tea.KeyDown, "left": tea.KeyLeft, "right": tea.KeyRight, "enter": tea.KeyEnter, "esc": tea.KeyEscape,
		"tab": tea.KeyTab, "home": tea.KeyHome, "end": tea.KeyEnd, "pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown, "backspace": tea.KeyBackspace}
	if code, ok := special[name]; ok {
		return tea.KeyPressMsg{Code: code}
	}
	if c, ok := strings.CutPrefix(name, "ctrl+"); ok {
		return tea.KeyPressMsg{Code: rune(c[0]), Mod: tea.ModCtrl}
	}
	r := []rune(name)[0]
	return tea.KeyPressMsg{Code: r, Text: string(r)}
}

// text types a line.
func (s *screen) text(line string) *screen {
	for _, r := range line {
		s.send(tea.KeyPressMsg{Code: r, Text: string(r)})
	}
	return s
}

// lines is the screen as it is read: without colours.
func (s *screen) lines() []string {
	s.t.Helper()
	content := s.m.View().Content
	lines := strings.Split(ansi.Strip(content), "\n")
	if s.m.width > 0 && !s.m.quitting {
		if len(lines) != s.m.height {
			s.t.Errorf("%d lines on a screen of %d", len(lines), s.m.height)
		}
		for i, l := range lines {
			if w := ansi.StringWidthWc(l); w > s.m.width {
				s.t.Errorf("line %d is %d wide on a screen of %d: %q", i, w, s.m.width, l)
			}
		}
	}
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// is compares the screen with one in testdata.
func (s *screen) is(name string) *screen {
	s.t.Helper()
	got := strings.Join(s.lines(), "\n") + "\n"
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
		return s
	}
	want, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	if got != string(want) {
		s.t.Errorf("%s: the screen is\n%s\nwant\n%s", name, got, want)
	}
	return s
}
