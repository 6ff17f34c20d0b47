package explore

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Lines above and below the rows.
const (
	headLines = 2
	footLines = 5
)

// The colours are the terminal's own sixteen, which its user has chosen to be read. Each only repeats what a letter says.
const (
	plain  = "\x1b[m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	invert = "\x1b[7m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
)

// glyphs are what is drawn with, beside text.
type glyphs struct {
	bar, rule, cross, opened, closed, more, arrow, dot string
	ascii                                              bool // names have nothing else, either
}

var (
	unicodeGlyphs = glyphs{"│", "─", "┴", "▾", "▸", "…", "→", "·", false}
	asciiGlyphs   = glyphs{"|", "-", "+", "v", ">", "~", "->", "-", true}
)

func (g *glyphs) text(s string) string {
	if s = safe(s); g.ascii {
		s = asciiOnly(s)
	}
	return s
}

func (m *model) tooSmall() bool { return m.width < leastWidth || m.height < leastHeight }

// listWidth is the width of the list of layers.
func (m *model) listWidth() int { return max(22, min(m.width*32/100, 60)) }

// View draws the screen.
func (m *model) View() tea.View {
	v := tea.NewView("")
	v.AltScreen, v.MouseMode = true, tea.MouseModeCellMotion
	switch {
	case m.quitting || m.width == 0:
	case m.tooSmall():
		v.Content = m.small()
	case m.help:
		v.Content = m.helpScreen()
	default:
		v.Content = m.screen()
	}
	if m.input != nil && !m.tooSmall() {
		x := ansi.StringWidthWc(m.inputLine())
		v.Cursor = tea.NewCursor(min(x, m.width-1), m.height-1)
	}
	return v
}

// small says that there is no room.
func (m *model) small() string {
	lines := make([]string, m.height)
	text := []string{"terminal too small", fmt.Sprintf("%dx%d, needs %dx%d", m.width, m.height, leastWidth, leastHeight)}
	for i, t := range text {
		if at := max(0, m.height/2-1) + i; at < len(lines) {
			t = fit(t, min(len(t), m.width), "")
			lines[at] = strings.Repeat(" ", (m.width-len(t))/2) + t
		}
	}
	return strings.Join(lines, "\n")
}

func (m *model) screen() string {
	m.keep()
	lw := m.listWidth()
	tw := m.width - lw - 1
	body := m.body()
	lines := make([]string, 0, m.height)
	lines = append(lines, m.title(), bold+fit(m.listHead(lw), lw, "")+plain+m.glyphs.bar+m.treeHead(tw))
	rows, cursor := m.tree.rows, m.cursor()
	for i := range body {
		var l, r string
		if n := m.listTop + i; n < len(m.list) {
			l = m.listRow(n, lw)
		} else {
			l = strings.Repeat(" ", lw)
		}
		if n := m.top + i; n < len(rows) {
			r = m.treeRow(rows[n], tw, n == cursor)
		} else if n == len(rows) {
			r = dim + fit(m.emptyLine(), tw, m.glyphs.more) + plain
		}
		lines = append(lines, l+m.glyphs.bar+r)
	}
	lines = append(lines, strings.Repeat(m.glyphs.rule, lw)+m.glyphs.cross+strings.Repeat(m.glyphs.rule, tw))
	for _, d := range m.detailLines() {
		lines = append(lines, fit(d, m.width, m.glyphs.more))
	}
	return strings.Join(append(lines, m.foot()), "\n")
}

// emptyLine is said below the last row.
func (m *model) emptyLine() string {
	switch {
	case !m.tree.done:
		return "  reading" + m.glyphs.more
	case len(m.tree.rows) <= 1 && !m.filter.empty():
		return "  nothing fits the filter"
	case m.tree.n == 0:
		switch m.scope().mode {
		case whole:
			return "  there is nothing in it"
		case compare:
			return "  the two have the same files"
		}
		return "  this layer changes nothing"
	}
	return ""
}

// title is the first line: what is looked at, and how much it is.
func (m *model) title() string {
	s := m.scope()
	img := m.images[s.image]
	text := " " + m.glyphs.text(img.Name)
	switch s.mode {
	case whole:
		text += fmt.Sprintf(": all of its %d layers", len(img.Layers))
		if len(img.Layers) == 1 {
			text = strings.TrimSuffix(text, "all of its 1 layers") + "its only layer"
		}
	case change:
		text += fmt.Sprintf(": what layer %d of %d changes", s.layer+1, len(img.Layers))
	case upto:
		text += fmt.Sprintf(": up to layer %d of %d", s.layer+1, len(img.Layers))
	case compare:
		text = " " + m.glyphs.text(m.images[0].Name) + " " + m.glyphs.arrow + " " + m.glyphs.text(m.images[1].Name)
	}
	root := m.tree.root
	sum := exact(int64(root.files)) + " files  " + size(root.total[1])
	if s.mode == change || s.mode == compare {
		sum = exact(int64(root.files)) + " files  " + size(root.total[0]) + " " + m.glyphs.arrow + " " + size(root.total[1])
	}
	if !m.tree.done {
		sum = "reading" + m.glyphs.more + "  " + sum
	}
	sum += " "
	return invert + fit(text, m.width-ansi.StringWidthWc(sum), m.glyphs.more) + sum + plain
}

func (m *model) listHead(int) string {
	return "   #   SIZE COMMAND"
}

func (m *model) listRow(n, width int) string {
	e := m.list[n]
	var text string
	switch e.mode {
	case change:
		l := m.images[e.image].Layers[e.layer]
		text = fmt.Sprintf("%4d %6s %s", e.layer+1, size(l.Size), m.glyphs.text(l.Command))
	case compare:
		text = " " + m.glyphs.arrow + " " + e.label
	default:
		text = " " + m.glyphs.text(e.label)
	}
	text = fit(text, width, m.glyphs.more)
	switch {
	case n == m.chosen && m.onList:
		return invert + text + plain
	case n == m.chosen:
		return bold + ">" + text[1:] + plain
	case e.mode != change:
		return bold + text + plain
	}
	return text
}

// column is a column before the names.
type column struct {
	head  string
	width int // with the blank before it
	by    order
	cell  func(n *node) string
}

// columns are those of the tree, for what it shows and where it has the room.
func (m *model) columns() []column {
	bytes := func(which int) func(n *node) string {
		return func(n *node) string {
			switch {
			case n.dir() && n.partial && !m.tree.done && n.total[which] == 0:
				return m.glyphs.more
			case which == 1 && n.kind == diff.Deleted && n.total[1] == 0 && m.twoSizes(),
				which == 0 && n.kind == diff.Added && n.total[0] == 0:
				return ""
			case which == 1 && n.kind == diff.Deleted && !m.twoSizes():
				return size(n.total[0])
			case !n.dir() && n.typ != diff.TypeFile:
				return ""
			}
			return size(n.total[which])
		}
	}
	files := column{"FILES", 8, byFiles, func(n *node) string {
		if !n.dir() {
			return ""
		}
		return exact(int64(n.files))
	}}
	layer := column{"LAYER", 6, byLayer, func(n *node) string {
		if n.layer < 0 {
			return ""
		}
		return fmt.Sprint(n.layer + 1)
	}}
	var cols []column
	if m.twoSizes() {
		cols = []column{{"BEFORE", 8, orders, bytes(0)}, {"NOW", 8, bySize, bytes(1)}}
	} else {
		cols = []column{{"SIZE", 8, bySize, bytes(1)}, layer}
	}
	if m.width >= 100 {
		cols = append(cols, files)
	}
	return cols
}

// twoSizes says that the tree shows changes alone.
func (m *model) twoSizes() bool { mode := m.scope().mode; return mode == change || mode == compare }

// marks is the width of the column of letters: nothing has one in a whole image.
func (m *model) marks() int {
	if m.scope().mode == whole {
		return 0
	}
	return 2
}

func (m *model) treeHead(width int) string {
	var b strings.Builder
	head := func(text string, width int, by order) {
		if by == m.order {
			b.WriteString("\x1b[1;4m" + right(text, width) + plain)
			return
		}
		b.WriteString(bold + right(text, width) + plain)
	}
	used := m.marks()
	b.WriteString(strings.Repeat(" ", used))
	for _, c := range m.columns() {
		b.WriteString(strings.Repeat(" ", c.width-len(c.head)))
		head(c.head, len(c.head), c.by)
		used += c.width
	}
	b.WriteString("   ")
	head("NAME", 4, byName)
	b.WriteString(strings.Repeat(" ", max(0, width-used-7)))
	return b.String()
}

// columnAt is the order that a click at x of the tree's header asks for.
func (m *model) columnAt(x int) (order, bool) {
	at := m.marks()
	if x < at {
		return 0, false
	}
	for _, c := range m.columns() {
		if at += c.width; x < at {
			return c.by, c.by != orders
		}
	}
	return byName, true
}

func (m *model) treeRow(r row, width int, cursor bool) string {
	n := r.node
	colour := ""
	switch n.kind {
	case diff.Added:
		colour = green
	case diff.Changed:
		colour = yellow
	case diff.Deleted:
		colour = red
	}
	var b strings.Builder
	used := m.marks()
	if used > 0 {
		letter := " "
		if n.kind != 0 {
			letter = string(rune(n.kind))
		}
		b.WriteString(" " + letter)
	}
	for _, c := range m.columns() {
		b.WriteString(right(c.cell(n), c.width))
		used += c.width
	}
	mark := " "
	if n.dir() && n != m.tree.root {
		mark = m.glyphs.closed
		if m.showsKids(r) {
			mark = m.glyphs.opened
		}
	}
	// A tree that is deeper than the screen is wide keeps room for the names.
	indent := strings.Repeat("  ", min(max(0, r.depth-1), max(0, (width-used-24)/2)))
	name := m.glyphs.text(n.name)
	tail := ""
	switch {
	case n.dir() && n != m.tree.root:
		name += "/"
	case n.typ == diff.TypeSymlink:
		tail = " " + m.glyphs.arrow + " " + m.glyphs.text(n.link)
	case n.typ == diff.TypeHardlink:
		tail = " = /" + m.glyphs.text(n.link)
	}
	left := width - used
	text := fit(" "+indent+mark+" "+name+tail, left, m.glyphs.more)
	switch {
	case cursor && !m.onList:
		return invert + colour + b.String() + text + plain
	case cursor:
		return bold + colour + b.String() + text + plain
	case colour != "":
		return colour + b.String() + text + plain
	case n.dir():
		lead := " " + indent + mark + " "
		if strings.HasPrefix(text, lead) {
			return b.String() + lead + blue + text[len(lead):] + plain
		}
	}
	return b.String() + text
}

// showsKids says that what is in a directory is among the rows, if there is anything.
func (m *model) showsKids(r row) bool {
	return r.open || len(m.filter.text) > 0 && !r.fits
}

// found is how many names fit the filter.
func (m *model) found() string {
	if m.filter.empty() {
		return ""
	}
	return exact(int64(m.tree.fits)) + " found"
}

// inputLine is what is being typed, its end if it is long.
func (m *model) inputLine() string {
	label := m.input.label
	text := m.glyphs.text(m.input.text)
	room := m.width
	if m.input.live {
		room -= 16
	}
	for ansi.StringWidthWc(label+text) >= room && text != "" {
		_, n := firstRune(text)
		text = text[n:]
	}
	return label + text
}

func firstRune(s string) (rune, int) {
	for i, r := range s {
		if i > 0 {
			return r, i
		}
	}
	return 0, len(s)
}

// foot is the last line: what is typed, what is to be said, or the keys.
func (m *model) foot() string {
	switch {
	case m.input != nil && m.input.live:
		found := " " + m.found() + " "
		return fit(m.inputLine(), m.width-len(found), "") + dim + found + plain
	case m.input != nil:
		return fit(m.inputLine(), m.width, "")
	case m.notice != "" && m.bad:
		return red + fit(" "+m.glyphs.text(m.notice), m.width, m.glyphs.more) + plain
	case m.notice != "":
		return bold + fit(" "+m.glyphs.text(m.notice), m.width, m.glyphs.more) + plain
	}
	keys := " ? help  / filter  s sort  b biggest  enter open  x export  tab layers  q end"
	if m.scope().mode == compare {
		keys = " ? help  / filter  A C D kinds  s sort  enter open  O before  p patch  q end"
	} else if m.scope().mode != whole {
		keys = " ? help  / filter  A C D kinds  u up to it  enter open  O before  p patch  q end"
	}
	if !m.filter.empty() {
		shown := strings.Join(strings.Fields(m.glyphs.text(m.text)+" "+m.filter.kinds), " ")
		return bold + fit(" filter: "+shown+"  "+m.found()+" (esc: all)", m.width, m.glyphs.more) + plain
	}
	return dim + fit(keys, m.width, m.glyphs.more) + plain
}

func (m *model) helpScreen() string {
	var lines []string
	for _, b := range bindings() {
		lines = append(lines, fit(fmt.Sprintf("  %-15s%s", b.keys, b.does), m.width, m.glyphs.more))
	}
	for _, l := range []string{"  A added, C changed, D deleted: by the layer, or between the images.",
		"  The mouse chooses, opens (a second click), scrolls and sorts."} {
		lines = append(lines, fit(l, m.width, m.glyphs.more))
	}
	room := m.height - 2
	m.helpTop = max(0, min(m.helpTop, len(lines)-room))
	out := []string{invert + fit(" layerctl explore: keys", m.width, "") + plain}
	out = append(out, lines[m.helpTop:min(len(lines), m.helpTop+room)]...)
	for len(out) < m.height-1 {
		out = append(out, "")
	}
	foot := " any key: back"
	if len(lines) > room {
		foot = " up, down: more   any other key: back"
	}
	return strings.Join(append(out, dim+fit(foot, m.width, "")+plain), "\n")
}
