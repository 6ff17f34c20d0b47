package waste

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// stack makes layers of words: "d/", "f=content", "-gone", "d/!" for an opaque directory, "x==f" for a hard link, "l->t".
func stack(layers ...string) []diff.Layer {
	var all []diff.Layer
	for _, words := range layers {
		entries := []layer.Entry{{Path: ".", Type: layer.TypeDir}}
		for word := range strings.FieldsSeq(words) {
			var e layer.Entry
			if name, ok := strings.CutSuffix(word, "/!"); ok {
				e = layer.Entry{Path: name, Type: layer.TypeOpaque}
			} else if name, ok := strings.CutSuffix(word, "/"); ok {
				e = layer.Entry{Path: name, Type: layer.TypeDir}
			} else if name, ok := strings.CutPrefix(word, "-"); ok {
				e = layer.Entry{Path: name, Type: layer.TypeWhiteout}
			} else if name, link, ok := strings.Cut(word, "->"); ok {
				e = layer.Entry{Path: name, Type: layer.TypeSymlink, Link: link}
			} else if name, link, ok := strings.Cut(word, "=="); ok {
				e = layer.Entry{Path: name, Type: layer.TypeHardlink, Link: link}
			} else {
				name, content, _ := strings.Cut(word, "=")
				e = layer.Entry{Path: name, Type: layer.TypeFile, Size: int64(len(content))}
				copy(e.Content[:], content)
			}
			entries = append(entries, e)
		}
		all = append(all, seq(entries))
	}
	return all
}

// fake is a layer of entries.
type fake []layer.Entry

func seq(entries []layer.Entry) diff.Layer {
	slices.SortFunc(entries, func(a, b layer.Entry) int { return diff.ComparePaths(a.Path, b.Path) })
	return fake(entries)
}

func (f fake) Cursor() diff.Cursor                { return &cursor{entries: f, at: -1} }
func (f fake) Open(path string) (*os.File, error) { return nil, fs.ErrNotExist }
func (f fake) ID() string                         { return "" }

type cursor struct {
	entries []layer.Entry
	at      int
}

func (c *cursor) Next() bool                  { c.at++; return c.at < len(c.entries) }
func (c *cursor) Path() []byte                { return []byte(c.entries[c.at].Path) }
func (c *cursor) Type() byte                  { return c.entries[c.at].Type }
func (c *cursor) Entry() (layer.Entry, error) { return c.entries[c.at], nil }
func (c *cursor) Err() error                  { return nil }
func (c *cursor) Close()                      {}
func (c *cursor) Seek(path string) bool {
	for c.Next() {
		if diff.ComparePaths(c.entries[c.at].Path, path) >= 0 {
			return true
		}
	}
	return false
}

func TestAnalyse(t *testing.T) {
	for _, c := range []struct {
		name   string
		layers []string
		want   string // what is wasted, then what is there twice in a layer
	}{
		{"nothing", []string{"a=1 b=22"}, "3 of which 0:"},
		{"overwritten", []string{"a=old", "a=new4"}, "7 of which 3: overwritten a(3 in 0, by 1)"},
		{"twice", []string{"a=1", "a=22", "a=333"}, "6 of which 3: overwritten a(2 in 1, by 2); overwritten a(1 in 0, by 1)"},
		{"rewritten", []string{"a=same", "a=same"}, "8 of which 4: rewritten a(4 in 0, by 1)"},
		{"deleted", []string{"a=1 b=22", "-a"}, "3 of which 1: deleted a(1 in 0, by 1)"},
		{"with its directory", []string{"d/ d/a=1 d/e/ d/e/b=22 f=4444", "-d"}, "7 of which 3: deleted d/(3 in 0, by 1, 2 files)"},
		{"and the directory made again", []string{"d/ d/a=1 d/b=22", "d/! d/a=333"}, "6 of which 3: deleted d/(2 in 0, by 1, 1 files); overwritten d/a(1 in 0, by 1)"},
		{"deleted, then again", []string{"a=1", "-a", "a=22"}, "3 of which 1: deleted a(1 in 0, by 1)"},
		{"a directory in a file's place", []string{"a=1", "a/ a/b=22"}, "3 of which 1: overwritten a(1 in 0, by 1)"},
		{"a link in a directory's place", []string{"d/ d/a=1 d/b=22", "d->e", ""}, "3 of which 3: deleted d/(3 in 0, by 1, 2 files)"},
		{"deleted by the nearest", []string{"d/ d/a=1", "-d/a", "-d"}, "1 of which 1: deleted d/a(1 in 0, by 1)"},
		{"in three layers, deleted at once", []string{"d/ d/a=1", "d/ d/b=22", "-d"}, "3 of which 3: deleted d/(2 in 1, by 2, 1 files); deleted d/(1 in 0, by 2, 1 files)"},
		{"one link of two is left", []string{"a=333 b==a", "-a"}, "3 of which 0:"},
		{"no link of two is left", []string{"a=333 b==a", "-a -b"}, "3 of which 3: deleted a(3 in 0, by 1)"},
		{"another layer's link", []string{"a=333 c=55555", "a=22 b==a"}, "10 of which 3: overwritten a(3 in 0, by 1)"},
		{"a cache", []string{"var/ var/cache/ var/cache/apt/ var/cache/apt/archives/ var/cache/apt/archives/x.deb=deb var/cache/apt/pkgcache.bin=b var/cache/man=m"},
			"5 of which 4: cached var/cache/apt/(4 in 0, by 0, 2 files, apt cache)"},
		{"a user's cache", []string{"home/ home/joe/ home/joe/.npm/ home/joe/.npm/x=333 home/.npm/ home/.npm/y=4444"}, "7 of which 3: cached home/joe/.npm/(3 in 0, by 0, 1 files, npm cache)"},
		{"a cache that was deleted", []string{"tmp/ tmp/x=333", "-tmp/x"}, "3 of which 3: deleted tmp/(3 in 0, by 1, 1 files, temporary files)"},
		{"a cache deleted with its parent", []string{"var/ var/tmp/ var/tmp/x=333 var/y=22", "-var"}, "5 of which 5: deleted var/(5 in 0, by 1, 2 files)"},
		{"a duplicate", []string{"a=same", "b=same c=same d=other"}, "17 of which 8: duplicate b(4 in 1, of a); duplicate c(4 in 1, of a)"},
		{"twins", []string{"a=same b=same"}, "8 of which 0: + b(4 in 0, of a)"},
		{"the original is the lowest", []string{"z=same", "a=same"}, "8 of which 4: duplicate a(4 in 1, of z)"},
		{"a duplicate of what is hidden is none", []string{"z=same", "-z a=same"}, "8 of which 4: deleted z(4 in 0, by 1)"},
		{"empty files are no duplicates", []string{"a= b=", "c= a="}, "0 of which 0:"},
		{"names that begin alike", []string{"d/ d/x=1 d-a=22 d.b=333", "-d"}, "6 of which 1: deleted d/(1 in 0, by 1, 1 files)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := Analyse(stack(c.layers...), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := say(a); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func say(a *Analysis) string {
	var items []string
	for _, i := range a.Items {
		s := fmt.Sprintf("%s %s", i.Kind, i.Path)
		if i.Dir {
			s += "/"
		}
		s += fmt.Sprintf("(%d in %d", i.Bytes, i.Layer)
		if i.Of != "" {
			s += ", of " + i.Of
		} else {
			s += fmt.Sprintf(", by %d", i.By)
		}
		if i.Dir {
			s += fmt.Sprintf(", %d files", i.Files)
		}
		if i.Cache != "" {
			s += ", " + i.Cache
		}
		items = append(items, s+")")
	}
	s := fmt.Sprintf("%d of which %d:", a.Bytes, a.Wasted)
	if len(items) > 0 {
		s += " " + strings.Join(items, "; ")
	}
	for _, i := range a.Copies {
		s += fmt.Sprintf(" + %s(%d in %d, of %s)", i.Path, i.Bytes, i.Layer, i.Of)
	}
	return s
}

// What is hidden is what a plain walk over the layers does not find in the end's view.
func TestHiddenIsWhatTheViewLacks(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 2000 {
		var layers []string
		view := map[string]string{} // path → layer and content, "/" for a directory
		total := int64(0)
		for n := range 1 + r.IntN(4) {
			own := map[string]string{}
			var words []string
			for range r.IntN(8) {
				parts := []string{"a", "b", "a-"}
				name := parts[r.IntN(3)]
				for range r.IntN(3) {
					if kind, ok := own[name]; ok && kind != "/" {
						break
					}
					if _, ok := own[name]; !ok {
						own[name] = "/"
						words = append(words, name+"/")
						if old, ok := view[name]; !ok || old != "/" {
							view[name] = "/"
						}
					}
					name += "/" + parts[r.IntN(3)]
				}
				if own[name] != "" {
					continue
				}
				parent, _, nested := cutLast(name)
				if nested && own[parent] != "/" {
					continue
				}
				gone := func() {
					for p := range view {
						if p == name || within(p, name) {
							delete(view, p)
						}
					}
				}
				switch r.IntN(4) {
				case 0:
					gone()
					own[name] = "-"
					words = append(words, "-"+name)
				case 1:
					gone()
					own[name], view[name] = "/", "/"
					words = append(words, name+"/!")
				default:
					content := strings.Repeat("x", 1+r.IntN(5))
					gone()
					own[name], view[name] = "f", fmt.Sprint(n, content)
					words = append(words, name+"="+content)
					total += int64(len(content))
				}
			}
			layers = append(layers, strings.Join(words, " "))
		}
		left := map[string]string{}
		a, err := Analyse(stack(layers...), func(f File) {
			if !f.Hidden() {
				left[f.Path] = fmt.Sprint(f.Layer, strings.Repeat("x", int(f.Size)))
			} else if f.By <= f.Layer {
				t.Errorf("%q: %s of layer %d is hidden by %d", layers, f.Path, f.Layer, f.By)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		for p, v := range view {
			if v == "/" {
				delete(view, p)
			}
		}
		if fmt.Sprint(left) != fmt.Sprint(view) || a.Bytes != total {
			t.Fatalf("round %d, %q:\n%v in the view, want %v\n%d bytes, want %d", round, layers, left, view, a.Bytes, total)
		}
		sum := int64(0)
		for _, l := range a.Layers {
			sum += l.Wasted
		}
		if items := total - size(left) + a.Kinds[Duplicate]; sum != a.Wasted || a.Wasted != items {
			t.Fatalf("round %d, %q: %d wasted, %d by layer, want %d", round, layers, a.Wasted, sum, items)
		}
	}
}

func size(view map[string]string) (n int64) {
	for _, v := range view {
		n += int64(strings.Count(v, "x"))
	}
	return n
}

func cutLast(name string) (dir, base string, nested bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ".", name, false
	}
	return name[:i], name[i+1:], true
}

func TestEfficiency(t *testing.T) {
	for _, c := range []struct {
		layers []string
		want   float64
	}{{[]string{""}, 100}, {[]string{"a=1", "a=2"}, 50}, {[]string{"a=1 b=2 c=3", "-a"}, 100 - 100.0/3}} {
		a, err := Analyse(stack(c.layers...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Efficiency(); got-c.want > 1e-9 || c.want-got > 1e-9 {
			t.Errorf("%q: %v, want %v", c.layers, got, c.want)
		}
	}
}

func BenchmarkAnalyse(b *testing.B) {
	var base, top []layer.Entry
	for d := range 400 {
		dir := fmt.Sprintf("usr/share/dir%03d", d)
		base = append(base, layer.Entry{Path: dir, Type: layer.TypeDir})
		for f := range 50 {
			e := layer.Entry{Path: fmt.Sprintf("%s/file%02d", dir, f), Type: layer.TypeFile, Size: 1000}
			copy(e.Content[:], e.Path[10:])
			base = append(base, e)
			if f%10 == 0 {
				top = append(top, e)
			}
		}
	}
	layers := []diff.Layer{seq(base), seq(top)}
	for b.Loop() {
		if _, err := Analyse(layers, nil); err != nil {
			b.Fatal(err)
		}
	}
}
