package diff

import (
	"fmt"
	"io/fs"
	"iter"
	"os"
)

// Found is an entry of a view of several layers.
type Found struct {
	Entry
	Layer int // the one whose entry it is; 0 is the lowest
}

// Stack is layers as one view, by overlayfs' rules: a name is that of the highest layer which has it, a whiteout hides it, directories
// of one name merge down to an opaque one, or to what is no directory. Nothing is held in memory but where each layer stands.
type Stack struct{ layers []Layer }

// NewStack stacks layers, lowest first.
func NewStack(layers ...Layer) *Stack { return &Stack{layers} }

// Layers are the layers, lowest first.
func (s *Stack) Layers() []Layer { return s.layers }

// Merged yields the names of the view and the layer that each is of, in order. Of an opaque directory the type is a directory's; a hard
// link stays one, to the path of a file in the same layer.
func (s *Stack) Merged() iter.Seq2[Found, error] { return s.Under(".") }

// Under yields what Merged does of a path and what is below it, reading of the layers little else.
func (s *Stack) Under(dir string) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		m := newMerger(s.layers, nil)
		defer m.close()
		for ok := m.begin(dir); ok; ok = m.next() {
			i := m.won[0]
			if i < 0 {
				continue
			}
			e, err := m.entry(i)
			if err != nil {
				break
			}
			if !yield(Found{e, m.in[i].level[0]}, nil) {
				return
			}
		}
		if m.err != nil {
			yield(Found{}, m.err)
		}
	}
}

// Entries implements Source.
func (s *Stack) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for f, err := range s.Merged() {
			if !yield(f.Entry, err) {
				return
			}
		}
	}
}

// Lookup finds one path of the view. It returns fs.ErrNotExist where no layer has it, or one hides it.
func (s *Stack) Lookup(path string) (Found, error) {
	way, err := s.Way(path)
	if err != nil {
		return Found{}, err
	}
	if n := len(way); n > 0 && way[n-1].Path == path {
		return way[n-1], nil
	}
	return Found{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

// Way finds a path and the directories that lead to it, the root first, in one go. It ends before what the view has not.
func (s *Stack) Way(path string) (way []Found, err error) {
	m := newMerger(s.layers, nil)
	defer m.close()
	for _, at := range append(Parents(path), path) {
		if !m.visit(at) || m.won[0] < 0 {
			break
		}
		e, err := m.entry(m.won[0])
		if err != nil {
			break
		}
		way = append(way, Found{e, m.in[m.won[0]].level[0]})
	}
	return way, m.err
}

// Open implements Source.
func (s *Stack) Open(path string) (*os.File, error) {
	f, err := s.Lookup(path)
	if err != nil {
		return nil, err
	}
	return s.layers[f.Layer].Open(path)
}

// merger goes over the layers of one view or of two at once, and finds at each path which layer's entry each view shows. Layers that are
// the lowest of both are read once, and where both views see them alike only beside what the others bring.
type merger struct {
	in     []*input
	heap   []int // those that have an entry, by path
	common []int // those of both views, which follow the others
	here   []int // those that have the path of the moment
	path   []byte
	won    [2]int // the input whose entry each view shows, -1 for none
	scopes []scope
	within string // where it ends
	err    error
}

// input is one layer on its way.
type input struct {
	Cursor
	layer Layer
	level [2]int // its place in each view, -1 where it is not in it
	live  bool   // it stands at an entry
	ended bool   // nothing of it is wanted any more
}

// scope is a path at which layers are hidden from what is below it: in each view those below barrier.
type scope struct {
	path    string
	barrier [2]int
}

// newMerger merges the layers of a, and of b where that is not nil.
func newMerger(a, b []Layer) *merger {
	m := &merger{}
	shared := 0
	if b != nil {
		for shared < min(len(a), len(b)) && a[shared].ID() != "" && a[shared].ID() == b[shared].ID() {
			shared++
		}
	}
	add := func(l Layer, levelA, levelB int) {
		m.in = append(m.in, &input{Cursor: l.Cursor(), layer: l, level: [2]int{levelA, levelB}})
	}
	for i, l := range a {
		if i < shared {
			m.common = append(m.common, len(m.in))
			add(l, i, i)
		} else {
			add(l, i, -1)
		}
	}
	for i := shared; i < len(b); i++ {
		add(b[i], -1, i)
	}
	return m
}

func (m *merger) close() {
	for _, in := range m.in {
		in.Close()
	}
}

func (m *merger) entry(i int) (Entry, error) {
	e, err := m.in[i].Entry()
	if err != nil {
		m.err = err
		return e, err
	}
	if e.Type == TypeOpaque {
		e.Type = TypeDir
	}
	return e, nil
}

// begin goes to the first path at or below dir. What hides it may lie at the directories that lead there, so those are visited first.
func (m *merger) begin(dir string) bool {
	m.within = dir
	for _, at := range Parents(dir) {
		if !m.visit(at) {
			return false
		}
	}
	m.heap, m.here = m.heap[:0], m.here[:0]
	for i, in := range m.in {
		in.live = !in.ended && in.Seek(dir)
		if !m.alive(i) {
			return false
		}
		if in.live && !m.isCommon(i) {
			m.push(i)
		}
	}
	return m.settle(-1)
}

// visit decides for one directory on the way to a path. A layer that has not that directory brings nothing below it, and ends there.
func (m *merger) visit(at string) bool {
	m.here = m.here[:0]
	for i, in := range m.in {
		in.live = !in.ended && in.Seek(at)
		if !m.alive(i) {
			return false
		}
		if in.live && string(in.Path()) == at {
			m.here = append(m.here, i)
		} else {
			in.ended = true
		}
	}
	m.path = append(m.path[:0], at...)
	m.decide()
	return true
}

func (m *merger) isCommon(i int) bool { return i < len(m.common) }

// alive notes an input's error.
func (m *merger) alive(i int) bool {
	if !m.in[i].live && m.err == nil {
		m.err = m.in[i].Err()
	}
	return m.err == nil
}

// next goes to the next path that any layer has and, where it is hidden from both views alike, over it.
func (m *merger) next() bool {
	lone := -1
	for _, i := range m.here {
		in := m.in[i]
		in.live = in.Next()
		if !m.alive(i) {
			return false
		}
		if !in.live || m.isCommon(i) {
			continue
		}
		// A layer mostly goes on alone for long, and then need not go through the heap.
		if len(m.here) == 1 && (len(m.heap) == 0 || m.less(i, m.heap[0])) {
			lone = i
		} else {
			m.push(i)
		}
	}
	m.here = m.here[:0]
	return m.settle(lone)
}

// settle takes the inputs that stand at the lowest path. lone is one that is before all in the heap, -1 for none.
func (m *merger) settle(lone int) bool {
	lowest := lone
	if lone < 0 && len(m.heap) > 0 {
		lowest = m.heap[0]
	}
	// Common layers show both views the same, but for below a path where something hides them from one alone.
	if len(m.common) > 0 {
		if s := m.apart(); s != "" {
			for _, i := range m.common {
				if in := m.in[i]; in.live && comparePaths(in.Path(), s) < 0 {
					in.live = in.Seek(s)
					if !m.alive(i) {
						return false
					}
				}
				if in := m.in[i]; in.live && within(in.Path(), s) && (lowest < 0 || comparePaths(in.Path(), m.in[lowest].Path()) < 0) {
					lowest = i
				}
			}
		}
	}
	if lowest < 0 {
		return false
	}
	m.path = append(m.path[:0], m.in[lowest].Path()...)
	if m.within != "." && !within(m.path, m.within) {
		return false
	}
	switch {
	case lone >= 0 && string(m.in[lone].Path()) == string(m.path):
		m.here = append(m.here, lone)
	case lone >= 0:
		m.push(lone)
	}
	for len(m.heap) > 0 && string(m.in[m.heap[0]].Path()) == string(m.path) {
		m.here = append(m.here, m.pop())
	}
	at := ""
	for _, i := range m.common {
		in := m.in[i]
		if in.live && comparePaths(in.Path(), m.path) < 0 {
			if at == "" {
				at = string(m.path)
			}
			in.live = in.Seek(at)
			if !m.alive(i) {
				return false
			}
		}
		if in.live && string(in.Path()) == string(m.path) {
			m.here = append(m.here, i)
		}
	}
	m.decide()
	return true
}

// apart is the path of the outermost scope in which the views see common layers differently; "" where we are in none.
func (m *merger) apart() string {
	for i := range m.scopes {
		// A scope that was left is dropped when the next path is known; until then it may only name what is not below it.
		s := &m.scopes[i]
		if min(s.barrier[0], len(m.common)) != min(s.barrier[1], len(m.common)) {
			return s.path
		}
	}
	return ""
}

// decide finds, for the path of the moment, what each view shows there, and what is hidden from what is below it.
func (m *merger) decide() {
	for n := len(m.scopes); n > 0 && !within(m.path, m.scopes[n-1].path); n-- {
		m.scopes = m.scopes[:n-1]
	}
	var above scope
	if n := len(m.scopes); n > 0 {
		above = m.scopes[n-1]
	}
	barrier := above.barrier
	m.won = [2]int{-1, -1}
	for _, i := range m.here {
		in := m.in[i]
		for v := range 2 {
			level := in.level[v]
			if level < above.barrier[v] {
				continue // -1, or hidden
			}
			if m.won[v] < 0 || level > m.in[m.won[v]].level[v] {
				m.won[v] = i
			}
			if in.Type() != TypeDir {
				barrier[v] = max(barrier[v], level)
			}
		}
	}
	for v := range 2 {
		if w := m.won[v]; w >= 0 && m.in[w].Type() == TypeWhiteout {
			m.won[v] = -1
		}
	}
	// A layer brings the directories that lead to what it brings, so nothing can be below a name that one layer alone has.
	if barrier != above.barrier && len(m.here) > 1 {
		m.scopes = append(m.scopes, scope{string(m.path), barrier})
	}
}

// The heap is ordered by path alone: all that stand at one path are taken together.
func (m *merger) less(a, b int) bool { return comparePaths(m.in[a].Path(), m.in[b].Path()) < 0 }

func (m *merger) push(i int) {
	m.heap = append(m.heap, i)
	h := m.heap
	for c := len(h) - 1; c > 0; {
		p := (c - 1) / 2
		if !m.less(h[c], h[p]) {
			break
		}
		h[c], h[p] = h[p], h[c]
		c = p
	}
}

func (m *merger) pop() int {
	h := m.heap
	top := h[0]
	n := len(h) - 1
	h[0] = h[n]
	h = h[:n]
	for p := 0; ; {
		c := 2*p + 1
		if c >= n {
			break
		}
		if c+1 < n && m.less(h[c+1], h[c]) {
			c++
		}
		if !m.less(h[c], h[p]) {
			break
		}
		h[c], h[p] = h[p], h[c]
		p = c
	}
	m.heap = h
	return top
}

// Parents are the paths of the directories that lead to a path, the root first.
func Parents(path string) (list []string) {
	if path == "." {
		return nil
	}
	list = append(list, ".")
	for i := range len(path) {
		if path[i] == '/' {
			list = append(list, path[:i])
		}
	}
	return list
}
