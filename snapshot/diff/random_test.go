package diff

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
)

// memory is a layer in memory; read counts how many entries were looked at.
type memory struct {
	id      string
	entries []Entry
	read    *int
}

func (m *memory) ID() string                    { return m.id }
func (m *memory) Open(string) (*os.File, error) { return nil, os.ErrNotExist }
func (m *memory) Cursor() Cursor                { return &memoryCursor{m: m, at: -1} }

type memoryCursor struct {
	m  *memory
	at int
}

func (c *memoryCursor) Next() bool { c.at++; *c.m.read++; return c.at < len(c.m.entries) }
func (c *memoryCursor) Seek(path string) bool {
	c.at = max(c.at, 0)
	c.at += sort.Search(len(c.m.entries)-min(c.at, len(c.m.entries)), func(i int) bool { return ComparePaths(c.m.entries[c.at+i].Path, path) >= 0 })
	*c.m.read++
	return c.at < len(c.m.entries)
}
func (c *memoryCursor) Path() []byte          { return []byte(c.m.entries[c.at].Path) }
func (c *memoryCursor) Type() byte            { return c.m.entries[c.at].Type }
func (c *memoryCursor) Entry() (Entry, error) { return c.m.entries[c.at], nil }
func (c *memoryCursor) Err() error            { return nil }
func (c *memoryCursor) Close()                {}

// randomLayer is a layer of a few names out of few, which brings the directories that lead to them.
func randomLayer(r *rand.Rand, id string, read *int) *memory {
	have := map[string]Entry{".": {Path: ".", Type: TypeDir}}
	for range 1 + r.IntN(12) {
		path := ""
		for depth := 1 + r.IntN(4); depth > 0; depth-- {
			parent := strings.TrimSuffix(path, "/")
			if parent != "" {
				if e, ok := have[parent]; !ok {
					have[parent] = Entry{Path: parent, Type: TypeDir, UID: uint32(r.IntN(2))}
				} else if !e.IsDir() {
					path = ""
					break
				}
			}
			path += string("ab-"[r.IntN(3)]) + "/"
		}
		path = strings.TrimSuffix(path, "/")
		if _, ok := have[path]; ok || path == "" {
			continue
		}
		e := Entry{Path: path, Type: []byte{TypeFile, TypeFile, TypeDir, TypeOpaque, TypeWhiteout, TypeSymlink}[r.IntN(6)], UID: uint32(r.IntN(2))}
		if e.Type == TypeFile {
			e.Size, e.Content[0] = 1, byte(1+r.IntN(2))
		}
		have[path] = e
	}
	m := &memory{id: id, read: read, entries: slices.Collect(maps.Values(have))}
	slices.SortFunc(m.entries, func(a, b Entry) int { return ComparePaths(a.Path, b.Path) })
	return m
}

// plainView does to a map what the layers say, one after the other.
func plainView(layers []*memory) map[string]Entry {
	view := map[string]Entry{}
	below := func(path string) {
		maps.DeleteFunc(view, func(p string, _ Entry) bool { return p != path && within(p, path) })
	}
	for _, l := range layers {
		for _, e := range l.entries {
			if e.Type != TypeDir {
				below(e.Path)
			}
			if e.Type == TypeWhiteout {
				delete(view, e.Path)
				continue
			}
			if e.Type == TypeOpaque {
				e.Type = TypeDir
			}
			view[e.Path] = e
		}
	}
	return view
}

// Stacks of random layers show what plainView does, comparing two is comparing those, and whether they are known to have layers in common
// changes nothing but what is read.
func TestRandomStacks(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 5))
		read := 0
		var common, a, b []*memory
		for i := range 1 + r.IntN(3) {
			common = append(common, randomLayer(r, fmt.Sprint("common", i), &read))
		}
		a, b = slices.Clone(common), slices.Clone(common)
		for i := range r.IntN(3) {
			a = append(a, randomLayer(r, fmt.Sprint("a", i), &read))
		}
		for i := range r.IntN(3) {
			b = append(b, randomLayer(r, fmt.Sprint("b", i), &read))
		}
		stack := func(known bool, layers []*memory) *Stack {
			s := &Stack{}
			for _, l := range layers {
				c := *l
				if !known {
					c.id = ""
				}
				s.layers = append(s.layers, &c)
			}
			return s
		}
		va, vb := plainView(a), plainView(b)
		for f, err := range stack(true, a).Merged() {
			if e, ok := va[f.Path]; err != nil || !ok || Differ(&e, &f.Entry) != 0 {
				t.Fatalf("seed %d: the view has %+v, %v; want %+v", seed, f, err, e)
			}
			delete(va, f.Path)
		}
		if len(va) > 0 {
			t.Fatalf("seed %d: the view lacks %v", seed, va)
		}
		va = plainView(a)
		for _, path := range []string{".", "a", "a/b", "b/a/-"} {
			var want []string
			paths := maps.Clone(va)
			maps.Copy(paths, vb)
			for _, p := range slices.SortedFunc(maps.Keys(paths), ComparePaths) {
				x, old := va[p]
				y, now := vb[p]
				switch {
				case !within(p, path):
				case !old:
					want = append(want, "A "+slashed(p))
				case !now:
					want = append(want, "D "+slashed(p))
				case Differ(&x, &y) != 0:
					want = append(want, "C "+slashed(p)+" "+strings.Join(Differ(&x, &y).Names(), ","))
				}
			}
			for _, known := range []bool{true, false} {
				if got := lines(t, stack(known, a), stack(known, b), Options{Path: path}); !slices.Equal(got, want) {
					t.Fatalf("seed %d, below %s, common layers known %v:\ngot  %q\nwant %q", seed, path, known, got, want)
				}
			}
		}
	}
}

// Of what two stacks have in common no more is read than the others touch.
func TestCommonIsNotRead(t *testing.T) {
	read := 0
	big := &memory{id: "big", read: &read, entries: []Entry{{Path: ".", Type: TypeDir}}}
	for i := range 100000 {
		big.entries = append(big.entries, Entry{Path: fmt.Sprintf("f%06d", i), Type: TypeFile, Size: 1, Content: [16]byte{1}})
	}
	top := &memory{id: "top", read: &read, entries: []Entry{{Path: ".", Type: TypeDir}, {Path: "f050000", Type: TypeFile, Size: 1, Content: [16]byte{2}}, {Path: "f090000", Type: TypeWhiteout}}}
	got := lines(t, NewStack(big), NewStack(big, top), Options{})
	if want := []string{"C /f050000 content", "D /f090000"}; !slices.Equal(got, want) || read > 30 {
		t.Errorf("got %q, want %q; read %d times", got, want, read)
	}
}
