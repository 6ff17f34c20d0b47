package explore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/layerctl/layerctl/snapshot/diff"
)

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"plain-1.2_x":                 "plain-1.2_x",
		"a\x1b[31mb":                  `a\x1b[31mb`,
		"a\nb\tc\rd\x7f":              `a\nb\tc\x0dd\x7f`,
		"back\\slash":                 `back\\slash`,
		"\xff\xfe\x80":                `\xff\xfe\x80`,
		"c1\u009b31m":                 `c1\u009b31m`,
		"\u202egnp.exe\u2066":         `\u202egnp.exe\u2066`,
		"zero\u200bwidth\u200d\ufeff": `zero\u200bwidth\u200d\ufeff`,
		"cafe\u0301":                  "cafe\u0301",
		"z\u0301\u0301\u0301\u0301":   "z\u0301\u0301" + `\u0301\u0301`,
		"\u0301first":                 `\u0301first`,
		"漢字":                          "漢字",
		"\U0001f1e9\U0001f1ea":        `\U0001f1e9\U0001f1ea`,
		"\U0001f44d\U0001f3fd":        "\U0001f44d" + `\U0001f3fd`,
		"\ue000\U000e0041":            `\ue000\U000e0041`,
		"\u3000":                      `\u3000`,
	} {
		if got := safe(in); got != want {
			t.Errorf("safe(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzSafe: nothing that is not printed comes through, and two names never look the same.
func FuzzSafe(f *testing.F) {
	f.Add("a\x1b]0;x\x07", "b")
	f.Add(`\x1b`, "\x1b")
	f.Add("\u202e", "\xe2\x80\xae")
	f.Add("0\u11da\u11c7", "0\u11da")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, s := range []string{safe(a), asciiOnly(safe(a))} {
			if !utf8.ValidString(s) || ansi.Strip(s) != s {
				t.Errorf("%q comes through as %q", a, s)
			}
			for _, r := range s {
				if !unicode.IsPrint(r) && !unicode.In(r, unicode.Mn, unicode.Mc) || unicode.Is(unicode.Bidi_Control, r) {
					t.Errorf("%q comes through as %q", a, s)
				}
			}
			for width := range 12 {
				if got := fit(s, width, "…"); ansi.StringWidthWc(got) != width {
					t.Errorf("%q is %d wide in %d columns", got, ansi.StringWidthWc(got), width)
				}
			}
		}
		if a != b && safe(a) == safe(b) {
			t.Errorf("%q and %q are both %q", a, b, safe(a))
		}
	})
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1.0kB", 9949: "9.9kB", 9951: "10kB", 999_499: "999kB", 999_500: "1.0MB",
		40_123_456: "40MB", 1 << 62: "4.6EB", -5: "-5B"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
	for s, want := range map[string]int64{"4096": 4096, "10k": 10_000, "1.5M": 1_500_000, "2GB": 2_000_000_000, "0": 0} {
		if got, ok := parseSize(s); !ok || got != want {
			t.Errorf("parseSize(%s) = %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "x", "-1", "1x", "1MM", "1e30", "k"} {
		if n, ok := parseSize(s); ok {
			t.Errorf("parseSize(%q) = %d", s, n)
		}
	}
	if got := exact(-1234567); got != "-1,234,567" {
		t.Error(got)
	}
}

// No escape sequence but our own colours is in what is drawn, whatever the layers say.
func TestHostileTextNeverReachesTheTerminal(t *testing.T) {
	evil := "e\x1b]52;c;aGk=\x07\u202e\x9b31m\xff"
	img := imageOf(evil, []string{"RUN " + evil}, layerOf("ba", evil+"/"+evil+"="+"3", "l@"+evil))
	for _, g := range []glyphs{unicodeGlyphs, asciiGlyphs} {
		s := open80x24(t, img)
		s.m.glyphs = g
		for _, k := range strings.Fields("+ down down tab ] tab down u end /") {
			s.keys(k)
			left := s.m.View().Content
			for _, own := range []string{plain, bold, dim, invert, red, green, yellow, blue, "\x1b[1;4m", "\n"} {
				left = strings.ReplaceAll(left, own, "")
			}
			for _, r := range left {
				if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x202e || r == utf8.RuneError || g.ascii && r > 0x7f {
					t.Fatalf("after %s %q is drawn:\n%q", k, r, left)
				}
			}
		}
		s.lines()
	}
}

// Whatever is pressed and clicked, at whatever size, the screen has its lines and its width, and the cursor is on it.
func TestAnyKeys(t *testing.T) {
	names := strings.Fields("up down left right enter esc tab home end pgup pgdown ctrl+u ctrl+d g G j k h l o O + - * [ ] u / A C D s b B x p ? a 1 > backspace")
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		s := open80x24(t, small(), other())
		s.m.do = actions{pager: func([]Image, scope, string, page) tea.Cmd { return nil },
			export: func([]Image, scope, string, bool, string) tea.Cmd { return nil }}
		for range 120 {
			switch r.IntN(12) {
			case 0:
				s.send(tea.WindowSizeMsg{Width: 1 + r.IntN(150), Height: 1 + r.IntN(50)})
			case 1:
				s.send(tea.MouseClickMsg{X: r.IntN(160), Y: r.IntN(60), Button: tea.MouseLeft})
			case 2:
				s.send(tea.MouseWheelMsg{X: r.IntN(160), Y: r.IntN(60), Button: []tea.MouseButton{tea.MouseWheelUp, tea.MouseWheelDown}[r.IntN(2)]})
			default:
				s.keys(names[r.IntN(len(names))])
			}
			s.lines()
			if m := s.m; !m.tooSmall() && !m.help {
				if n := m.cursor(); n < m.top || n >= m.top+m.body() || m.rows()[n].node != m.at {
					t.Fatalf("the cursor is at row %d of %d, the screen at %d", n, len(m.rows()), m.top)
				}
			}
			if t.Failed() {
				return
			}
		}
	}
}

func TestMouse(t *testing.T) {
	s := open80x24(t, small())
	click := func(x, y int) { s.send(tea.MouseClickMsg{X: x, Y: y, Button: tea.MouseLeft}) }
	click(40, 4) // etc
	if got := s.m.at.path(); got != "etc" || s.m.at.open {
		t.Fatalf("clicked on etc, got %s, open %v", got, s.m.at.open)
	}
	click(40, 4)
	if !s.m.at.open {
		t.Error("a second click does not open the directory")
	}
	click(31, 1)
	if s.m.order != bySize {
		t.Errorf("a click on SIZE sorts by %v", s.m.order)
	}
	click(37, 1)
	if s.m.order != byLayer {
		t.Errorf("a click on LAYER sorts by %v", s.m.order)
	}
	click(46, 1)
	if s.m.order != byName {
		t.Errorf("a click on NAME sorts by %v", s.m.order)
	}
	click(5, 4)
	if sc := s.m.scope(); sc.mode != change || sc.layer != 1 {
		t.Errorf("a click on the second layer shows %+v", sc)
	}
	s.send(tea.MouseWheelMsg{X: 5, Y: 5, Button: tea.MouseWheelUp})
	if sc := s.m.scope(); sc.layer != 0 {
		t.Errorf("the wheel over the layers shows %+v", sc)
	}
}

// What a directory listed by itself shows is what the whole view has directly in it.
func TestListIsTheViewsOwn(t *testing.T) {
	views := []*diff.Stack{small().View.Upto(3), other().View.Upto(2), small().View.Upto(1),
		fakeView{base, layerOf("1", "usr=5"), layerOf("2", "usr/bin/new=1"), layerOf("3", "etc%", "etc/only=1")}.Upto(4)}
	for n, v := range views {
		dirs := map[string][]string{".": nil}
		for f, err := range v.Merged() {
			if err != nil {
				t.Fatal(err)
			}
			if f.Path == "." {
				continue
			}
			parents := diff.Parents(f.Path)
			parent := parents[len(parents)-1]
			dirs[parent] = append(dirs[parent], fmt.Sprint(f.Path, " ", f.Layer, string(rune(f.Type))))
			if f.IsDir() && dirs[f.Path] == nil {
				dirs[f.Path] = []string{}
			}
		}
		dirs["nowhere"] = nil
		for dir, want := range dirs {
			items, err := list(v, dir)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, it := range items {
				got = append(got, fmt.Sprint(it.path, " ", it.layer, string(rune(it.typ))))
			}
			if !slices.Equal(got, want) {
				t.Errorf("view %d, %s: %q, want %q", n, dir, got, want)
			}
		}
	}
}

// The totals of a tree are the sums of its files, whether or not directories were listed ahead.
func TestTotals(t *testing.T) {
	img := small()
	var want int64
	for f, err := range img.View.Upto(3).Merged() {
		if err != nil {
			t.Fatal(err)
		}
		want += f.Size
	}
	tr := newTree(nil)
	tr.now = true
	for _, dir := range []string{".", "usr", "usr/lib", "."} {
		items, err := list(img.View.Upto(3), dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range items {
			tr.add(&items[i])
		}
	}
	for it, err := range stream(t.Context(), []Image{img}, scope{mode: upto, layer: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		tr.add(&it)
	}
	if got := tr.root.total; got != [2]int64{0, want} || tr.root.files != 19 {
		t.Errorf("%d bytes in %d files, want %d in 19", got, tr.root.files, want)
	}
	if n := tr.find("var/cache/apt"); n == nil || n.kind != diff.Deleted || n.total != [2]int64{70246912, 0} {
		t.Errorf("what is deleted: %+v", n)
	}
}

// slowView is a view of which nothing can be read to its end.
type slowView struct {
	fakeView
	layer *slowLayer
}

func (v slowView) Upto(int) *diff.Stack { return diff.NewStack(v.layer) }

type slowLayer struct {
	*fakeLayer
	gate chan struct{}
}

func (l *slowLayer) Cursor() diff.Cursor { return &slowCursor{fakeCursor{l: l.fakeLayer, at: -1}, l} }

type slowCursor struct {
	fakeCursor
	l *slowLayer
}

func (c *slowCursor) Next() bool {
	if c.at >= 0 && c.Path()[0] == 'b' {
		<-c.l.gate
	}
	return c.fakeCursor.Next()
}

// The first picture, moving, and opening a directory wait for nothing that is still being read; the cursor stays at its name as more comes.
func TestNothingWaitsForTheWhole(t *testing.T) {
	l := layerOf("aa", "a/one=1", "a/two=2", "b/three=3", "c/d/four=4", "c/d/five=5")
	slow := &slowLayer{l, make(chan struct{})}
	img := imageOf("slow", []string{"RUN x"}, l)
	img.View = slowView{fakeView{l}, slow}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := newModel(ctx, []Image{img}, actions{}, unicodeGlyphs)
	s := &screen{t, m}
	m.width, m.height = 80, 24
	s.is("slow-first")
	msgs := make(chan tea.Msg, 100)
	var run func(cmd tea.Cmd)
	run = func(cmd tea.Cmd) {
		if cmd == nil {
			return
		}
		go func() {
			switch msg := cmd().(type) {
			case tea.BatchMsg:
				for _, c := range msg {
					run(c)
				}
			default:
				msgs <- msg
			}
		}()
	}
	run(m.Init())
	press := func(names string) {
		for name := range strings.FieldsSeq(names) {
			_, cmd := m.Update(keyOf(name))
			run(cmd)
		}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.After(20 * time.Second); !ok(); {
			select {
			case msg := <-msgs:
				_, cmd := m.Update(msg)
				run(cmd)
			case <-deadline:
				t.Fatalf("never %s:\n%s", what, strings.Join(s.lines(), "\n"))
			}
		}
	}
	press("down down down right")
	until("c listed", func() bool { return len(m.at.kids) > 0 })
	press("right right")
	until("d listed", func() bool { return len(m.at.kids) == 2 })
	press("right")
	if m.tree.done || m.at.path() != "c/d/five" {
		t.Errorf("done %v, at %s", m.tree.done, m.at.path())
	}
	close(slow.gate)
	until("all read", func() bool { return m.tree.done })
	if m.at.path() != "c/d/five" || m.tree.root.total[1] != 15 {
		t.Errorf("at %s, %d bytes", m.at.path(), m.tree.root.total[1])
	}
}

// brokenLayer panics where the first name is read.
type brokenLayer struct{ *fakeLayer }

type brokenCursor struct{ fakeCursor }

func (l brokenLayer) Cursor() diff.Cursor { return &brokenCursor{fakeCursor{l: l.fakeLayer, at: -1}} }
func (c *brokenCursor) Entry() (diff.Entry, error) {
	if c.at > 0 {
		panic("broken")
	}
	return c.fakeCursor.Entry()
}

// What goes wrong in the background ends the view where the terminal is given back, not in a goroutine of its own.
func TestPanicInTheBackground(t *testing.T) {
	cmd := load(t.Context(), []Image{{Name: "x", Layers: []Layer{{}}, View: brokenView{}}}, scope{mode: whole}, 1)
	defer func() {
		if r := recover(); r != "broken" {
			t.Errorf("it ends with %v", r)
		}
	}()
	t.Errorf("it ends with %v", cmd())
}

type brokenView struct{ fakeView }

func (brokenView) Upto(int) *diff.Stack {
	return diff.NewStack(brokenLayer{layerOf("aa", "a=1", "b=2")})
}

func TestSelection(t *testing.T) {
	images := []Image{small(), other()}
	for _, c := range []struct {
		s    scope
		old  bool
		want Selection
	}{
		{scope{mode: whole}, false, Selection{0, 2, false, "p"}},
		{scope{mode: whole, image: 1}, false, Selection{1, 1, false, "p"}},
		{scope{mode: change, layer: 1}, false, Selection{0, 1, true, "p"}},
		{scope{mode: change, layer: 1}, true, Selection{0, 0, false, "p"}},
		{scope{mode: upto, image: 1, layer: 1}, false, Selection{1, 1, false, "p"}},
		{scope{mode: upto, image: 1, layer: 1}, true, Selection{1, 0, false, "p"}},
		{scope{mode: compare, image: 1}, false, Selection{1, 1, false, "p"}},
		{scope{mode: compare, image: 1}, true, Selection{0, 2, false, "p"}},
	} {
		if got := selection(images, c.s, "p", c.old); got != c.want {
			t.Errorf("%+v, old %v: %+v, want %+v", c.s, c.old, got, c.want)
		}
	}
}
