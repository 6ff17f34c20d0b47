package report

import (
	"cmp"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/layerctl/layerctl/image/waste"
)

const (
	maxNodes = 12_000
	maxNames = 800 << 10 // bytes of the nodes as JSON
)

// Tree is the files of all layers by directory. The zero value is empty.
type Tree struct {
	root  *node
	stack []*node // the directories down to the file that was added last
}

// node is a directory, or a file of one layer.
type node struct {
	name   string
	depth  int
	order  int // when it was added
	dir    bool
	kids   []*node
	size   int64
	files  int
	hidden int64 // bytes that the end's view lacks
	lost   int   // files that it lacks
	layer  int
	kind   waste.Kind
	by     int
	kept   bool
}

// Add takes a file. Those of one directory come one after the other.
func (t *Tree) Add(f waste.File) {
	if t.root == nil {
		t.root = &node{dir: true}
		t.stack = []*node{t.root}
	}
	dir, base := path.Split(f.Path)
	depth := 0
	for part := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
		if part == "" {
			break
		}
		if depth+1 < len(t.stack) && t.stack[depth+1].name == part {
			depth++
			continue
		}
		t.stack = t.stack[:depth+1]
		kid := &node{name: part, dir: true}
		t.push(kid)
		t.stack = append(t.stack, kid)
		depth++
	}
	t.stack = t.stack[:depth+1]
	file := &node{name: base, size: f.Size, files: 1, layer: f.Layer, kind: f.Kind, by: f.By}
	if f.Hidden() {
		file.hidden, file.lost = f.Size, 1
	}
	t.push(file)
	for _, d := range t.stack {
		d.size += file.size
		d.hidden += file.hidden
		d.lost += file.lost
		d.files++
	}
}

func (t *Tree) push(kid *node) {
	in := t.stack[len(t.stack)-1]
	kid.depth, kid.order = in.depth+1, len(in.kids)
	in.kids = append(in.kids, kid)
}

// mark says of files that they are duplicates, which is known when all were added.
func (t *Tree) mark(items []waste.Item) {
	type key struct {
		path  string
		layer int
	}
	want := map[key]int{}
	for _, i := range items {
		if i.Kind == waste.Duplicate {
			want[key{i.Path, i.Layer}] = i.By
		}
	}
	if len(want) == 0 || t.root == nil {
		return
	}
	var visit func(*node, string)
	visit = func(n *node, at string) {
		for _, k := range n.kids {
			full := path.Join(at, k.name)
			if k.dir {
				visit(k, full)
			} else if by, ok := want[key{full, k.layer}]; ok && k.kind == "" {
				k.kind, k.by = waste.Duplicate, by
			}
		}
	}
	visit(t.root, "")
}

// prune keeps the nodes with the most bytes, and says how much of the others there is. A directory has at least the bytes of what is in
// it, and sorts before it, so that what is kept hangs together.
func (t *Tree) prune(nodes, bytes int) (files int, size int64) {
	if t.root == nil {
		t.root = &node{dir: true}
	}
	var all []*node
	var visit func(*node)
	visit = func(n *node) {
		for _, k := range n.kids {
			all = append(all, k)
			visit(k)
		}
	}
	visit(t.root)
	slices.SortStableFunc(all, func(a, b *node) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.depth, b.depth))
	})
	t.root.kept = true
	for _, n := range all {
		name, _ := json.Marshal(Visible(n.name)) // a string always can
		if nodes--; nodes < 0 {
			break
		}
		if bytes -= len(name) + 40; bytes < 0 {
			break
		}
		n.kept = n.size > 0
	}
	for _, n := range all {
		if !n.dir && !n.kept {
			files++
			size += n.size
		}
	}
	return files, size
}

// json is the node as the page's script reads it.
func (n *node) json(kinds map[waste.Kind]int) []any {
	if !n.dir {
		switch k := kinds[n.kind]; {
		case k == 0:
			return []any{Visible(n.name), n.size, n.layer}
		default:
			return []any{Visible(n.name), n.size, n.layer, k, n.by}
		}
	}
	kids := []any{}
	files, lost, size, hidden := 0, 0, int64(0), int64(0)
	byLayer := map[int]int64{}
	for _, k := range n.kids {
		if k.kept {
			kids = append(kids, k.json(kinds))
			continue
		}
		files += k.files
		size += k.size
		hidden += k.hidden
		lost += k.lost
		byLayer[k.mostly()] += k.size
	}
	if files == 0 {
		return []any{Visible(n.name), kids}
	}
	return []any{Visible(n.name), kids, files, size, most(byLayer), hidden, lost}
}

// mostly is the layer that has most of a node.
func (n *node) mostly() int {
	if !n.dir {
		return n.layer
	}
	byLayer := map[int]int64{}
	for _, k := range n.kids {
		byLayer[k.mostly()] += k.size
	}
	return most(byLayer)
}

func most(byLayer map[int]int64) int {
	best, bytes := 0, int64(-1)
	for l, n := range byLayer {
		if n > bytes || n == bytes && l < best {
			best, bytes = l, n
		}
	}
	return best
}
