package waste

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Item is wasted bytes of one layer: a file, or a directory that was deleted or is a cache.
type Item struct {
	Kind  Kind
	Path  string // relative to the root
	Dir   bool   // the files are below the path
	Files int
	Bytes int64
	Layer int    // that has the bytes
	By    int    // that hides them, or has the first copy; for a cache its own
	Of    string // the path of the first copy
	Cache string // whose cache the path is in
}

// Layer sums up one.
type Layer struct {
	Files  int
	Bytes  int64 // of content
	Wasted int64 // of them
	Kinds  map[Kind]int64
	Twins  int64 // bytes that the layer itself has twice; not part of Wasted
}

// Analysis is what an image wastes.
type Analysis struct {
	Files  int
	Bytes  int64 // of content in all layers
	Wasted int64
	Kinds  map[Kind]int64
	Twins  int64
	Layers []Layer
	Items  []Item // the most bytes first
	Copies []Item // the twins
}

// Efficiency is the share of the bytes that is not wasted, in per cent.
func (a *Analysis) Efficiency() float64 { return 100 - a.WastedPercent() }

// WastedPercent is the share of the bytes that is.
func (a *Analysis) WastedPercent() float64 {
	if a.Bytes == 0 {
		return 0
	}
	return 100 * float64(a.Wasted) / float64(a.Bytes)
}

// content is what tells two files' contents apart.
type content struct {
	digest [16]byte
	size   int64
}

// copies chains the files of one content in the end's view.
type copies struct {
	path  string
	layer int
	next  int // in the list; 0 is none
}

// Analyse finds what a stack of layers wastes, lowest first. each, which may be nil, is
// shown every regular file of every layer on the way, those of one name from the lowest layer up; which are duplicates is only known
// after the last.
func Analyse(layers []diff.Layer, each func(File)) (*Analysis, error) {
	a := &Analysis{Kinds: map[Kind]int64{}, Layers: make([]Layer, len(layers))}
	for i := range a.Layers {
		a.Layers[i].Kinds = map[Kind]int64{}
	}
	type linked struct {
		layer int
		path  string
	}
	alive := map[linked]bool{}
	var wasted []File
	seen := map[content]int{} // → in all
	all := make([]copies, 1)
	err := walk(layers, func(f File) {
		a.Files++
		a.Bytes += f.Size
		l := &a.Layers[f.Layer]
		l.Files++
		l.Bytes += f.Size
		switch {
		case f.Size == 0:
		case f.Kind != "":
			wasted = append(wasted, f)
		default:
			c := content{f.Content, f.Size}
			all = append(all, copies{f.Path, f.Layer, seen[c]})
			seen[c] = len(all) - 1
		}
		if each != nil {
			each(f)
		}
	}, func(n int, target string) { alive[linked{n, target}] = true })
	if err != nil {
		return nil, err
	}
	a.hidden(wasted, func(f File) bool { return f.Hidden() && alive[linked{f.Layer, f.Path}] })
	for c, first := range seen {
		if all[first].next != 0 {
			a.same(c.size, first, all)
		}
	}
	for _, list := range [][]Item{a.Items, a.Copies} {
		slices.SortFunc(list, func(x, y Item) int {
			return cmp.Or(cmp.Compare(y.Bytes, x.Bytes), strings.Compare(x.Path, y.Path), cmp.Compare(x.Layer, y.Layer), cmp.Compare(x.Kind, y.Kind))
		})
	}
	return a, nil
}

// hidden groups what is wasted by what was deleted, and by cache.
func (a *Analysis) hidden(files []File, kept func(File) bool) {
	type group struct {
		kind      Kind
		root      string
		layer, by int
	}
	groups := map[group]int{}
	for _, f := range files {
		if kept(f) {
			continue
		}
		g := group{f.Kind, f.Root, f.Layer, f.By}
		i, ok := groups[g]
		if !ok {
			i = len(a.Items)
			groups[g] = i
			a.Items = append(a.Items, Item{Kind: f.Kind, Path: f.Root, Dir: f.Root != f.Path, Layer: f.Layer, By: f.By, Cache: f.Cache})
		}
		a.Items[i].Files++
		a.Items[i].Bytes += f.Size
		a.count(f.Kind, f.Layer, f.Size)
	}
}

func (a *Analysis) count(k Kind, n int, bytes int64) {
	a.Wasted += bytes
	a.Kinds[k] += bytes
	a.Layers[n].Wasted += bytes
	a.Layers[n].Kinds[k] += bytes
}

// same counts the files of one content. The one in the lowest layer is the original.
func (a *Analysis) same(size int64, at int, all []copies) {
	var list []copies
	for ; at != 0; at = all[at].next {
		list = append(list, all[at])
	}
	slices.SortFunc(list, func(x, y copies) int {
		return cmp.Or(cmp.Compare(x.layer, y.layer), strings.Compare(x.path, y.path))
	})
	first := list[0]
	for _, c := range list[1:] {
		item := Item{Kind: Duplicate, Path: c.path, Files: 1, Bytes: size, Layer: c.layer, By: first.layer, Of: first.path}
		if c.layer != first.layer {
			a.Items = append(a.Items, item)
			a.count(Duplicate, c.layer, size)
			continue
		}
		item.Kind = Twin
		a.Copies = append(a.Copies, item)
		a.Twins += size
		a.Layers[c.layer].Twins += size
	}
}

// How says what made an item waste, in words.
func (i *Item) How() string {
	switch i.Kind {
	case Overwritten:
		return fmt.Sprintf("in layer %d, another file in layer %d", i.Layer+1, i.By+1)
	case Rewritten:
		return fmt.Sprintf("in layer %d, with the same content in layer %d", i.Layer+1, i.By+1)
	case Deleted:
		s := fmt.Sprintf("in layer %d, deleted by layer %d", i.Layer+1, i.By+1)
		if i.Cache != "" {
			s += " (" + i.Cache + ")"
		}
		return s
	case Cached:
		return fmt.Sprintf("%s, in layer %d", i.Cache, i.Layer+1)
	}
	return fmt.Sprintf("in layer %d, a copy of /%s in layer %d", i.Layer+1, i.Of, i.By+1)
}
