package explore

import (
	"fmt"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"
)

// binding is a line of the help: keys, what they do, and how.
type binding struct {
	keys, does string
	acts       []act
}

// act is what keys do; their names are bubbletea's.
type act struct {
	names string
	do    func(m *model) tea.Cmd
}

// bindings are all keys. The help screen and the page in docs are made of them.
func bindings() []binding {
	step := func(by int) func(*model) tea.Cmd { return func(m *model) tea.Cmd { return m.step(by) } }
	pages := func(by float64) func(*model) tea.Cmd {
		return func(m *model) tea.Cmd { return m.step(int(by * float64(m.body()))) }
	}
	kind := func(k string) func(*model) tea.Cmd { return func(m *model) tea.Cmd { return m.kind(k) } }
	const far = 1 << 30
	return []binding{
		{"up down, k j", "one line up, down", []act{{"up k", step(-1)}, {"down j", step(1)}}},
		{"pgup pgdn", "one page up, down (ctrl-u, ctrl-d: half of one)", []act{{"pgup ctrl+b", pages(-1)}, {"pgdown ctrl+f", pages(1)},
			{"ctrl+u", pages(-0.5)}, {"ctrl+d", pages(0.5)}}},
		{"home end, g G", "the first line, the last one", []act{{"home g", step(-far)}, {"end G", step(far)}}},
		{"right, l", "open the directory, then go into it", []act{{"right l", (*model).right}}},
		{"left, h", "close the directory, then go to the one above", []act{{"left h", (*model).left}}},
		{"enter, o", "open: a directory here, a file in the pager ($PAGER)", []act{{"enter o", (*model).enter}}},
		{"O p", "in the pager: the file as it was before; what changed in it", []act{
			{"O", func(m *model) tea.Cmd { return m.page(asWas) }}, {"p", func(m *model) tea.Cmd { return m.page(patch) }}}},
		{"+ -", "open all that is below the directory; close all", []act{{"+ *", (*model).openAll}, {"-", (*model).closeAll}}},
		{"tab", "from the layers to the tree, and back", []act{{"tab shift+tab", func(m *model) tea.Cmd { m.onList = !m.onList; return nil }}}},
		{"[ ]", "the layer before, the next one", []act{{"[", func(m *model) tea.Cmd { return m.choose(m.chosen - 1) }},
			{"]", func(m *model) tea.Cmd { return m.choose(m.chosen + 1) }}}},
		{"u", "of a layer: what it changes, or all up to it", []act{{"u", (*model).toggleBelow}}},
		{"/", "filter: parts of a name, with a / of a path; >1M for larger ones", []act{{"/", (*model).filterLine}}},
		{"A C D", "only what is added, changed, deleted; again: all", []act{{"A", kind("A")}, {"C", kind("C")}, {"D", kind("D")}}},
		{"esc", "no filter any more", []act{{"esc", (*model).escape}}},
		{"s", "sort by name, size, files, layer (or click on a column)", []act{{"s", func(m *model) tea.Cmd { return m.sort((m.order + 1) % orders) }}}},
		{"b B", "the biggest file, then the next one; back", []act{{"b", func(m *model) tea.Cmd { return m.biggest(1) }},
			{"B", func(m *model) tea.Cmd { return m.biggest(-1) }}}},
		{"x", "export the file or directory, to a directory or a .tar", []act{{"x", (*model).exportLine}}},
		{"ctrl-z", "to the shell; fg comes back", []act{{"ctrl+z", func(*model) tea.Cmd { return tea.Suspend }}}},
		{"?", "this help", []act{{"? f1", func(m *model) tea.Cmd { m.help, m.helpTop = true, 0; return nil }}}},
		{"q", "end", []act{{"q", (*model).quit}}},
	}
}

// key takes a key. What is typed is text where a line is being typed.
func (m *model) key(name, text string) tea.Cmd {
	m.notice = ""
	switch {
	case name == "ctrl+c":
		return m.quit()
	case m.input != nil:
		return m.inputKey(name, text)
	case m.help:
		return m.helpKey(name)
	case m.tooSmall():
		if name == "q" {
			return m.quit()
		}
		return nil
	}
	for _, b := range bindings() {
		for _, a := range b.acts {
			if slices.Contains(strings.Fields(a.names), name) {
				return a.do(m)
			}
		}
	}
	return nil
}

func (m *model) helpKey(name string) tea.Cmd {
	switch name {
	case "down", "j", "pgdown", " ", "space":
		m.helpTop++
	case "up", "k", "pgup":
		m.helpTop = max(0, m.helpTop-1)
	default:
		m.help = false
	}
	return nil
}

func (m *model) quit() tea.Cmd {
	if m.working && !m.warned {
		m.warned = true
		m.say("an export is under way: once more gives it up", true)
		return nil
	}
	m.stop()
	m.quitting = true
	return tea.Quit
}

// step goes by some lines, in the list or in the tree.
func (m *model) step(by int) tea.Cmd {
	if m.onList {
		return m.choose(m.chosen + by)
	}
	return m.move(by)
}

func (m *model) right() tea.Cmd {
	switch {
	case m.onList:
		m.onList = false
	case m.at.dir() && !m.at.open:
		return m.setOpen(true)
	case m.at.dir():
		if rows, n := m.rows(), m.cursor(); n+1 < len(rows) && rows[n+1].parent == m.at {
			return m.move(1)
		}
	}
	return nil
}

func (m *model) left() tea.Cmd {
	switch {
	case m.onList:
	case m.at.dir() && m.at.open && m.at != m.tree.root:
		return m.setOpen(false)
	case m.at.parent != nil:
		m.at = m.at.parent
		return nil
	default:
		m.onList = true
	}
	return nil
}

// setOpen opens or closes the directory at the cursor. One that is not read yet is read ahead of the others.
func (m *model) setOpen(open bool) tea.Cmd {
	m.at.open, m.tree.stale, m.tree.grown = open, true, -1<<30
	if s := m.scope(); open && m.at.partial && !m.tree.done && (s.mode == whole || s.mode == upto) {
		return listDir(m.images, s, m.gen, m.at.path())
	}
	return nil
}

func (m *model) enter() tea.Cmd {
	switch {
	case m.onList:
		m.onList = false
		return nil
	case m.at.dir():
		return m.setOpen(!m.at.open)
	}
	if m.at.kind == 'D' {
		return m.page(asWas)
	}
	return m.page(asNow)
}

// page opens what is at the cursor in the pager.
func (m *model) page(what page) tea.Cmd {
	if m.onList {
		return nil
	}
	s := m.scope()
	switch {
	case what == patch && s.mode == whole:
		m.say("choose a layer first: the whole image has no changes", true)
		return nil
	case what == patch:
	case m.at.typ != '0' && m.at.typ != '1':
		m.say("only a file has content to show", true)
		return nil
	case what == asWas && m.at.kind != 'C' && m.at.kind != 'D':
		m.say("there is nothing that it was before", true)
		return nil
	}
	return m.do.pager(m.images, s, m.at.path(), what)
}

func (m *model) openAll() tea.Cmd {
	const most = 200_000 // lines; more is nothing that anybody reads
	left := most
	var walk func(n *node)
	walk = func(n *node) {
		if left--; left < 0 || !n.dir() {
			return
		}
		n.open = true
		for _, k := range n.kids {
			walk(k)
		}
	}
	walk(m.at)
	m.tree.stale = true
	return nil
}

func (m *model) closeAll() tea.Cmd {
	var walk func(n *node)
	walk = func(n *node) {
		n.open = n == m.tree.root
		for _, k := range n.kids {
			walk(k)
		}
	}
	walk(m.tree.root)
	m.tree.stale = true
	for m.at.parent != nil && m.at.parent != m.tree.root {
		m.at = m.at.parent
	}
	return nil
}

func (m *model) toggleBelow() tea.Cmd {
	if m.list[m.chosen].mode != change {
		m.say("choose a layer first: tab, or [ and ]", true)
		return nil
	}
	m.below = !m.below
	return m.show()
}

func (m *model) sort(by order) tea.Cmd {
	m.order, m.tree.stale = by, true
	return nil
}

// kind shows only one kind of change, or all again.
func (m *model) kind(k string) tea.Cmd {
	if m.scope().mode == whole {
		m.say("choose a layer first: the whole image has no changes", true)
		return nil
	}
	if strings.Contains(m.kinds, k) {
		m.kinds = strings.ReplaceAll(m.kinds, k, "")
	} else {
		m.kinds += k
	}
	m.refilter()
	return nil
}

func (m *model) escape() tea.Cmd {
	m.text, m.kinds = "", ""
	m.refilter()
	return nil
}

func (m *model) refilter() {
	kinds := m.kinds
	if m.scope().mode == whole {
		kinds = "" // nothing has one there
	}
	m.filter = parseFilter(m.text, kinds)
	m.tree.stale, m.tree.grown, m.jump = true, -1<<30, nil
}

// typed takes in what is being typed as a filter, and goes to the first name that fits it.
func (m *model) typed(text string) {
	m.text = text
	m.refilter()
	if rows := m.rows(); m.filter.empty() || m.at.fits && m.at != m.tree.root {
		return
	} else if i := slices.IndexFunc(rows, func(r row) bool { return r.fits && r.parent != nil }); i >= 0 {
		m.at = rows[i].node
	}
}

// biggest goes to the largest file, and from there to the next.
func (m *model) biggest(by int) tea.Cmd {
	if m.jump == nil || !m.tree.done || m.jumpAt >= len(m.jump) || m.jump[m.jumpAt] != m.at {
		m.jump, m.jumpAt = m.tree.largest(1000, m.filter), -1
		if by < 0 || len(m.jump) == 0 {
			by = 1
		}
	}
	if len(m.jump) == 0 {
		m.say("there is no file", true)
		return nil
	}
	m.jumpAt = max(0, min(m.jumpAt+by, len(m.jump)-1))
	m.at, m.onList = m.jump[m.jumpAt], false
	m.tree.reveal(m.at)
	said := fmt.Sprintf("number %d by size", m.jumpAt+1)
	if !m.tree.done {
		said += ", of what is read so far"
	}
	m.say(said, false)
	return nil
}

// click selects what is at a place of the screen; once more opens it.
func (m *model) click(x, y int, left bool) tea.Cmd {
	if !left || m.input != nil || m.tooSmall() {
		return nil
	}
	m.notice = ""
	if m.help {
		m.help = false
		return nil
	}
	onList := x < m.listWidth()
	switch line := y - headLines; {
	case y == headLines-1 && !onList:
		if by, ok := m.columnAt(x - m.listWidth() - 1); ok {
			return m.sort(by)
		}
	case line < 0 || line >= m.body():
	case onList:
		m.onList = true
		if n := m.listTop + line; n < len(m.list) {
			return m.choose(n)
		}
	default:
		again := !m.onList
		m.onList = false
		rows := m.rows()
		if n := m.top + line; n < len(rows) {
			if again && rows[n].node == m.at {
				return m.enter()
			}
			m.at = rows[n].node
			return nil
		}
	}
	return nil
}

// wheel scrolls what is under the mouse.
func (m *model) wheel(x, _ int, button tea.MouseButton) tea.Cmd {
	by := 0
	switch button {
	case tea.MouseWheelUp:
		by = -3
	case tea.MouseWheelDown:
		by = 3
	}
	switch {
	case m.help:
		m.helpTop = max(0, m.helpTop+by)
	case m.input != nil || m.tooSmall():
	case x < m.listWidth():
		return m.choose(m.chosen + by/3)
	default:
		return m.move(by)
	}
	return nil
}
