package explore

import (
	"context"
	"fmt"
	"slices"

	tea "charm.land/bubbletea/v2"

	"github.com/layerctl/layerctl/image"
)

// The smallest terminal on which there is something to see.
const (
	leastWidth  = 56
	leastHeight = 14
)

// entryRow is a line of the list on the left: what may be looked at.
type entryRow struct {
	scope        // mode is whole, change or compare
	label string // of what is no layer
}

// model is the state of the screen. Update alone changes it, and View reads it.
type model struct {
	ctx    context.Context
	images []Image
	do     actions

	width, height int
	list          []entryRow
	chosen        int // in list
	listTop       int // the first line of it on the screen
	below         bool
	onList        bool // the keys go to the list

	first  tea.Cmd
	gen    int
	tree   *tree
	stop   context.CancelFunc
	kept   map[scope]*tree // those that were read whole
	at     *node
	top    int // the first row on the screen
	order  order
	filter filter
	text   string // as it was typed
	kinds  string

	input   *input // a line that is being typed; nil for none
	help    bool
	helpTop int
	notice  string // what is said in the last line until the next key
	bad     bool   // it is an error

	detail   detail
	asked    string // the path whose detail is on its way; "" for none
	jump     []*node
	jumpAt   int
	working  bool // files are being exported
	warned   bool // that ending gives that up
	glyphs   glyphs
	quitting bool
}

// actions are what has an effect outside of the screen. Tests have others.
type actions struct {
	pager  func(images []Image, s scope, path string, what page) tea.Cmd
	export func(images []Image, s scope, path string, old bool, to string) tea.Cmd
}

// detail is what the lines at the bottom say of the name at the cursor.
type detail struct {
	gen   int
	path  string
	blame [2][]image.Blame // of each image that the scope looks at
	err   error
}

// paged says that the pager has ended; exported, that an export has.
type (
	paged    struct{ err error }
	exported struct {
		said string
		err  error
	}
)

// newModel is the screen at its beginning.
func newModel(ctx context.Context, images []Image, do actions, g glyphs) *model {
	m := &model{ctx: ctx, images: images, do: do, glyphs: g, kept: map[scope]*tree{}}
	if len(images) == 2 {
		m.list = append(m.list, entryRow{scope: scope{mode: compare, image: 1}, label: "changes between the two"})
	}
	for i, img := range images {
		m.list = append(m.list, entryRow{scope: scope{mode: whole, image: i}, label: img.Name})
		for n := range img.Layers {
			m.list = append(m.list, entryRow{scope: scope{mode: change, image: i, layer: n}})
		}
	}
	m.first = m.show()
	return m
}

// Init begins to read.
func (m *model) Init() tea.Cmd { return m.first }

// scope is what the tree shows.
func (m *model) scope() scope {
	s := m.list[m.chosen].scope
	if s.mode == change && m.below {
		s.mode = upto
	}
	return s
}

// show turns to what is chosen in the list, and to the name where the cursor was.
func (m *model) show() tea.Cmd {
	var want map[string]bool
	at := "."
	if m.tree != nil {
		want, at = m.tree.opened(), m.at.path()
		m.stop()
	}
	s := m.scope()
	m.gen++
	m.jump, m.detail, m.asked = nil, detail{}, ""
	if kept := m.kept[s]; kept != nil {
		m.tree, m.stop = kept, func() {}
		kept.stale = true
		for path := range want {
			if n := kept.find(path); n != nil && n.dir() {
				n.open = true
			}
		}
		m.at = nearest(kept, at)
		m.refilter()
		return nil
	}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(m.ctx)
	m.tree = newTree(want)
	m.at, m.top = m.tree.root, 0
	m.tree.seek, m.tree.now = at, s.mode == upto
	m.refilter()
	if s.mode == whole || s.mode == upto {
		// The root is listed at once: it takes about a millisecond, and the screen begins with what is on it.
		m.listed(listDir(m.images, s, m.gen, ".")().(listed))
	}
	return load(ctx, m.images, s, m.gen)
}

// listed takes in a directory that was read ahead. That it could not be is said when the rest comes to it.
func (m *model) listed(msg listed) {
	if msg.gen != m.gen || m.tree.done {
		return
	}
	for i := range msg.items {
		m.tree.add(&msg.items[i])
	}
	if n := m.tree.find(msg.dir); n != nil && msg.err == nil {
		n.partial = false
	}
}

// nearest is the node of a path, or of the directory above it that there is.
func nearest(t *tree, path string) *node {
	n := t.root
	for {
		if found := t.find(path); found != nil {
			n = found
			break
		}
		i := lastSlash(path)
		if i < 0 {
			break
		}
		path = path[:i]
	}
	t.reveal(n)
	return n
}

func lastSlash(path string) int {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return i
		}
	}
	return -1
}

// Update takes a message. Whatever it does to the cursor, what is at it is then looked up.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := m.update(msg)
	if m.quitting || m.width == 0 {
		return m, cmd
	}
	m.keep()
	return m, tea.Batch(cmd, m.look())
}

func (m *model) update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case loaded:
		return m.loaded(msg)
	case listed:
		m.listed(msg)
	case detail:
		if msg.gen == m.gen {
			m.asked, m.detail = "", msg
		}
	case paged:
		if msg.err != nil {
			m.say(fmt.Sprintf("pager: %v", msg.err), true)
		}
	case exported:
		m.working, m.warned = false, false
		if msg.err != nil {
			m.say(fmt.Sprintf("export: %v", msg.err), true)
		} else {
			m.say(msg.said, false)
		}
	case tea.PasteMsg:
		if m.input != nil {
			m.input.insert(msg.Content)
			if m.input.live {
				m.typed(m.input.text)
			}
		}
	case tea.KeyPressMsg:
		return m.key(msg.String(), msg.Text)
	case tea.MouseClickMsg:
		return m.click(msg.X, msg.Y, msg.Button == tea.MouseLeft)
	case tea.MouseWheelMsg:
		return m.wheel(msg.X, msg.Y, msg.Button)
	}
	return nil
}

func (m *model) loaded(msg loaded) tea.Cmd {
	if msg.gen != m.gen {
		return nil
	}
	for i := range msg.items {
		m.tree.add(&msg.items[i])
	}
	if t := m.tree; t.seek != "" && m.at == t.root {
		if n := t.find(t.seek); n != nil {
			m.at = n
			t.reveal(n)
		}
	}
	if msg.err != nil {
		m.tree.err = msg.err
		m.tree.finish()
		m.say(fmt.Sprintf("%v", msg.err), true)
		return nil
	}
	if msg.more != nil {
		return wait(msg.more, m.gen)
	}
	m.tree.finish()
	if len(m.kept) >= 8 {
		clear(m.kept)
	}
	m.kept[m.scope()] = m.tree
	if t := m.tree; t.seek != "" && m.at == t.root {
		m.at = nearest(t, t.seek)
	}
	m.tree.seek = ""
	return nil
}

// look asks for the detail of the name at the cursor, one at a time: what was passed by in the meantime is not asked for.
func (m *model) look() tea.Cmd {
	path := m.at.path()
	if m.asked != "" || m.detail.gen == m.gen && m.detail.path == path {
		return nil
	}
	m.asked = path
	gen, images, s := m.gen, m.images, m.scope()
	return func() tea.Msg {
		d := detail{gen: gen, path: path}
		for i, img := range images {
			if s.mode != compare && i != s.image {
				continue
			}
			blame, err := img.View.Blame(path)
			if err == nil {
				d.blame[i] = blame
			} else if !isNoPath(err) {
				d.err = err
			}
		}
		return d
	}
}

// say puts a line at the bottom.
func (m *model) say(text string, bad bool) { m.notice, m.bad = text, bad }

// rows are the lines of the tree, laid out.
func (m *model) rows() []row {
	m.tree.layOut(m.order, m.filter)
	return m.tree.rows
}

// cursor is where the cursor is in the rows. Where its node is not shown any more, it goes to the nearest one above that is.
func (m *model) cursor() int {
	rows := m.rows()
	for at := m.at; at != nil; at = at.parent {
		if i := slices.IndexFunc(rows, func(r row) bool { return r.node == at }); i >= 0 {
			m.at = at
			return i
		}
	}
	m.at = m.tree.root
	return 0
}

// body is how many lines there are for rows.
func (m *model) body() int { return max(1, m.height-headLines-footLines) }

// keep scrolls so that the cursor is on the screen.
func (m *model) keep() {
	n, body := m.cursor(), m.body()
	m.top = min(max(m.top, n-body+1), n)
	m.top = max(0, min(m.top, len(m.tree.rows)-body))
	m.listTop = min(max(m.listTop, m.chosen-body+1), m.chosen)
	m.listTop = max(0, min(m.listTop, len(m.list)-body))
}

// move goes by some rows.
func (m *model) move(by int) tea.Cmd {
	rows, n := m.rows(), m.cursor()
	m.at = rows[max(0, min(n+by, len(rows)-1))].node
	return nil
}

// choose goes to a line of the list.
func (m *model) choose(n int) tea.Cmd {
	n = max(0, min(n, len(m.list)-1))
	if n == m.chosen {
		return nil
	}
	m.chosen = n
	return m.show()
}
