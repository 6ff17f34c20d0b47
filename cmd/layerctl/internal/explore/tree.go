package explore

import (
	"slices"
	"strings"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// node is one name of a tree.
type node struct {
	name    string
	link    string
	parent  *node
	kids    []*node // by name
	typ     byte
	kind    diff.Kind
	differs diff.Fields
	partial bool  // what is below it is not known yet
	open    bool  // its names are shown
	layer   int16 // whose entry it is; -1 where nobody has said

	own      [2]int64 // bytes of the file itself, before and now
	total    [2]int64 // with all that is below
	files    int      // names below that are no directories
	shows    bool     // by the filter: it or something below it fits
	fits     bool     // by the filter: it fits itself
	reported bool     // its bytes are in total
}

func (n *node) dir() bool { return n.typ == diff.TypeDir }

// bytes is what counts where trees are sorted and cut by size: what is there, or was there before it was deleted.
func (n *node) bytes() int64 { return max(n.total[1], n.total[0]) }

func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	size := -1
	for at := n; at.parent != nil; at = at.parent {
		size += len(at.name) + 1
	}
	b := make([]byte, size)
	for at := n; at.parent != nil; at = at.parent {
		size -= len(at.name)
		copy(b[size:], at.name)
		if size--; size >= 0 {
			b[size] = '/'
		}
	}
	return string(b)
}

// tree is what a scope shows. It grows while it is read.
type tree struct {
	root *node
	last *node // the directory that the last name went to
	path string
	want map[string]bool // directories to open when they come
	seek string          // where the cursor goes when it comes
	done bool
	now  bool // what was deleted is shown beside what there is, and does not count
	n    int  // names
	err  error

	rows  []row // what is on the screen, and above and below it
	fits  int   // the names that fit the filter
	stale bool
	grown int // names there were when rows were made
}

// row is a line of a tree.
type row struct {
	*node
	depth int
}

func newTree(want map[string]bool) *tree {
	root := &node{name: "/", typ: diff.TypeDir, layer: -1, open: true, partial: true}
	return &tree{root: root, last: root, path: ".", want: want, stale: true}
}

// dirOf finds the node of a directory, and makes those that lead to it where nobody has named them.
func (t *tree) dirOf(path string) *node {
	if path == t.path {
		return t.last
	}
	n := t.root
	if path != "." {
		at := 0
		// Names come in order, so the way is mostly that of the last one.
		if t.path != "." && strings.HasPrefix(path, t.path) && path[len(t.path)] == '/' {
			n, at = t.last, len(t.path)+1
		}
		for at < len(path) {
			end := strings.IndexByte(path[at:], '/')
			if end < 0 {
				end = len(path) - at
			}
			n = t.child(n, path[at:at+end], diff.TypeDir)
			at += end + 1
		}
	}
	t.last, t.path = n, path
	return n
}

// child finds or makes a name in a directory.
func (t *tree) child(dir *node, name string, typ byte) *node {
	at := len(dir.kids)
	if at > 0 && dir.kids[at-1].name >= name {
		var found bool
		at, found = slices.BinarySearchFunc(dir.kids, name, func(n *node, name string) int { return strings.Compare(n.name, name) })
		if found {
			return dir.kids[at]
		}
	}
	n := &node{name: strings.Clone(name), parent: dir, typ: typ, layer: -1, partial: typ == diff.TypeDir && !t.done}
	dir.kids = slices.Insert(dir.kids, at, n)
	t.n++
	if n.dir() && len(t.want) > 0 && t.want[n.path()] {
		n.open = true
	}
	return n
}

// add takes a name in. Of one that is there already it keeps what was said first: a change says more than a view.
func (t *tree) add(it *item) {
	t.stale = true
	if it.path == "." {
		t.root.take(it)
		return
	}
	dir, name := ".", it.path
	if i := strings.LastIndexByte(it.path, '/'); i >= 0 {
		dir, name = it.path[:i], it.path[i+1:]
	}
	n := t.child(t.dirOf(dir), name, it.typ)
	first := !n.reported
	n.take(it)
	if !first || it.partial {
		return
	}
	n.reported = true
	n.own = [2]int64{it.old, it.new}
	files := 1
	if n.dir() {
		files = 0
	}
	if files == 0 && n.own == [2]int64{} {
		return
	}
	if t.now && it.kind != diff.Deleted {
		n.own[0] = 0
	}
	n.total[0] += n.own[0]
	n.total[1] += n.own[1]
	for at := n.parent; at != nil; at = at.parent {
		at.total[1] += n.own[1]
		if !t.now || it.kind != diff.Deleted || at.kind == diff.Deleted {
			at.total[0] += n.own[0]
			at.files += files
		}
	}
}

func (n *node) take(it *item) {
	if it.kind != 0 {
		n.kind, n.differs = it.kind, it.differs
	}
	if it.layer >= 0 {
		n.layer = int16(it.layer)
	}
	if n.kind == 0 || it.kind != 0 {
		n.typ = it.typ
		if it.typ == diff.TypeSymlink || it.typ == diff.TypeHardlink {
			n.link = it.link
		}
	}
	n.partial = n.dir() && (it.partial || n.partial)
}

// finish notes that all has come.
func (t *tree) finish() {
	t.done, t.stale = true, true
	var known func(n *node)
	known = func(n *node) {
		n.partial = false
		for _, k := range n.kids {
			if k.dir() {
				known(k)
			}
		}
	}
	known(t.root)
}

// find is the node of a path, nil where there is none.
func (t *tree) find(path string) *node {
	n := t.root
	if path == "." {
		return n
	}
	for name := range strings.SplitSeq(path, "/") {
		at, found := slices.BinarySearchFunc(n.kids, name, func(n *node, name string) int { return strings.Compare(n.name, name) })
		if !found {
			return nil
		}
		n = n.kids[at]
	}
	return n
}

// opened are the paths of the directories whose names are shown.
func (t *tree) opened() map[string]bool {
	paths := map[string]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		for _, k := range n.kids {
			if k.open {
				paths[k.path()] = true
				walk(k)
			}
		}
	}
	walk(t.root)
	return paths
}

// order is what rows are sorted by.
type order int

const (
	byName order = iota
	bySize
	byFiles
	byLayer
	orders
)

func (o order) String() string { return [...]string{"name", "size", "files", "layer"}[o] }

// filter says which names are shown: those that fit, and the directories that lead there.
type filter struct {
	text  []string // each of them must be in the name, or in the path where it has a slash; in lower case where case does not matter
	least int64    // bytes
	kinds string   // the letters of the changes; "" for all
}

// parseFilter reads what was typed: words, and >SIZE.
func parseFilter(s, kinds string) filter {
	f := filter{kinds: kinds}
	for word := range strings.FieldsSeq(s) {
		if rest, ok := strings.CutPrefix(word, ">"); ok {
			if n, ok := parseSize(rest); ok {
				f.least = n
			}
			continue
		}
		f.text = append(f.text, word)
	}
	return f
}

func (f *filter) empty() bool { return len(f.text) == 0 && f.least == 0 && f.kinds == "" }

// rest is fit without the text.
func (f *filter) rest(n *node) bool {
	return n.bytes() >= f.least && (f.kinds == "" || n.kind != 0 && strings.IndexByte(f.kinds, byte(n.kind)) >= 0)
}

func (f *filter) fit(n *node) bool {
	if !f.rest(n) {
		return false
	}
	for _, word := range f.text {
		where := n.name
		if strings.Contains(word, "/") {
			where = "/" + n.path()
		}
		if strings.ToLower(word) == word {
			where = strings.ToLower(where)
		}
		if !strings.Contains(where, word) {
			return false
		}
	}
	return true
}

// mark finds what a filter shows, and how many names fit it.
func (f *filter) mark(n *node) (fits int) {
	if n.fits = n.parent != nil && f.fit(n); n.fits {
		fits++
	}
	for _, k := range n.kids {
		fits += f.mark(k)
	}
	n.shows = fits > 0
	return fits
}

// layOut makes the rows anew, where something has changed. While a tree is read with a filter, it waits until there is a good deal more.
func (t *tree) layOut(by order, f filter) {
	if !t.stale {
		return
	}
	all := f.empty()
	if !all {
		if !t.done && len(t.rows) > 0 && t.n-t.grown < t.n/8 {
			return
		}
		t.fits = f.mark(t.root)
	}
	t.rows, t.stale, t.grown = t.rows[:0], false, t.n
	var walk func(n *node, depth int, in bool)
	walk = func(n *node, depth int, in bool) {
		t.rows = append(t.rows, row{n, depth})
		if !n.open && (len(f.text) == 0 || n.fits || !n.dir()) {
			return
		}
		// What is in a directory that fits by its name is shown when the directory is opened.
		in = in || n.fits && len(f.text) > 0
		kids := n.kids
		if by != byName {
			kids = slices.Clone(kids)
			slices.SortStableFunc(kids, func(a, b *node) int { return compareNodes(a, b, by) })
		}
		for _, k := range kids {
			if all || k.shows || in && f.rest(k) {
				walk(k, depth+1, in)
			}
		}
	}
	walk(t.root, 0, false)
}

// compareNodes puts the larger one first.
func compareNodes(a, b *node, by order) int {
	sign := func(n int64) int {
		switch {
		case n < 0:
			return -1
		case n > 0:
			return 1
		}
		return 0
	}
	switch by {
	case byFiles:
		return sign(int64(b.files - a.files))
	case byLayer:
		return sign(int64(b.layer - a.layer))
	}
	return sign(b.bytes() - a.bytes())
}

// largest are the files that take most, the largest first: as many as n of those that a filter shows.
func (t *tree) largest(n int, f filter) []*node {
	if !f.empty() {
		f.mark(t.root)
	}
	var top []*node
	var walk func(at *node)
	walk = func(at *node) {
		for _, k := range at.kids {
			if k.dir() {
				walk(k)
				continue
			}
			if size := k.bytes(); size > 0 && (f.empty() || k.fits) && (len(top) < n || size > top[len(top)-1].bytes()) {
				at, _ := slices.BinarySearchFunc(top, size, func(o *node, size int64) int {
					if o.bytes() >= size {
						return -1
					}
					return 1
				})
				if top = slices.Insert(top, at, k); len(top) > n {
					top = top[:n]
				}
			}
		}
	}
	walk(t.root)
	return top
}

// reveal opens the directories that lead to a node.
func (t *tree) reveal(n *node) {
	for at := n.parent; at != nil; at = at.parent {
		at.open = true
	}
	t.stale = true
}
