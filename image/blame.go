package image

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// Blame is what one layer does at a path.
type Blame struct {
	Layer   int         // its place in the image, 0 is the lowest
	Kind    diff.Kind   // Added, Changed, Deleted, or Hidden
	By      string      // the directory above, where that is what the layer deleted or put something over; else the path itself
	Entry   layer.Entry // what the layer has there; none where it deletes or hides
	Differs diff.Fields // from what was there before
	Wins    bool        // it is what the image shows
}

// Hidden is the kind of a layer that puts a new directory, or something else, over one that the path is in.
const Hidden diff.Kind = 'H'

// ErrNoPath says that no layer of an image ever had a path.
var ErrNoPath = errors.New("no such path in the image")

// Blame tells what each layer does at a path, lowest first: who added, changed, hid or deleted it, and which one the image shows. A layer
// that has a directory as it was, because it brings something in it, does nothing at it. Links are not followed: see Follow.
func (v *View) Blame(name string) ([]Blame, error) {
	name = diff.Clean(name)
	var list []Blame
	var before *layer.Entry // what the layers below show
	last := -1
	for i := range v.Layers {
		b, err := v.blame(i, name, before)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", v.Layers[i].DiffID, err)
		}
		if b == nil {
			continue
		}
		list = append(list, *b)
		switch b.Kind {
		case diff.Deleted, Hidden:
			before, last = nil, -1
		default:
			before, last = &b.Entry, len(list)-1
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("/%s: %w", name, ErrNoPath)
	}
	if last >= 0 {
		list[last].Wins = true
	}
	return list, nil
}

// blame is what one layer does, nil for nothing.
func (v *View) blame(n int, name string, before *layer.Entry) (*Blame, error) {
	hidden := ""
	c := v.Layers[n].Index.Cursor()
	for _, at := range append(diff.Parents(name), name) {
		if !c.Seek(at) || string(c.Path()) != at {
			if err := c.Err(); err != nil {
				return nil, err
			}
			break // it brings nothing below either
		}
		e, err := c.Entry()
		if err != nil {
			return nil, err
		}
		switch {
		case e.Type == layer.TypeWhiteout && before != nil:
			return &Blame{Layer: n, Kind: diff.Deleted, By: at}, nil
		case e.Type == layer.TypeWhiteout:
			return nil, nil
		case at == name:
			return v.blameEntry(n, e, before)
		case e.Type == layer.TypeOpaque:
			hidden = at
		case e.Type != layer.TypeDir:
			if before == nil {
				return nil, nil
			}
			return &Blame{Layer: n, Kind: Hidden, By: at}, nil
		}
	}
	if hidden == "" || before == nil {
		return nil, nil
	}
	return &Blame{Layer: n, Kind: Hidden, By: hidden}, nil
}

func (v *View) blameEntry(n int, e layer.Entry, before *layer.Entry) (*Blame, error) {
	if e.Type == layer.TypeHardlink {
		var err error
		if e, err = diff.Resolve(v.Stack.Layers()[n], e); err != nil {
			return nil, err
		}
	}
	if e.Type == layer.TypeOpaque {
		e.Type = layer.TypeDir
	}
	b := &Blame{Layer: n, Kind: diff.Added, By: e.Path, Entry: e}
	if before != nil {
		b.Kind, b.Differs = diff.Changed, diff.Differ(before, &e)
		if b.Differs == 0 && e.Type == layer.TypeDir {
			return nil, nil
		}
	}
	return b, nil
}

// Link is a symbolic link on the way to a path.
type Link struct{ Path, Target string }

// maxLinks is how many links a path may lead over, as in the kernel (path_resolution(7)).
const maxLinks = 40

// Follow resolves the links in the directories that lead to a path, as the image's own programs would: "bin/sh" is "usr/bin/sh" where bin
// is a link to usr/bin. What the path itself is stays. Nothing leads out of the image.
func (v *View) Follow(name string) (string, []Link, error) {
	var links []Link
	at, rest := ".", parts(diff.Clean(name))
	for {
		// As far as ".." all at once; that one goes up from where it leads, not from what is written.
		n := slices.Index(rest, "..")
		last := n < 0
		if last {
			n = len(rest)
		}
		run := path.Join(append([]string{at}, rest[:n]...)...)
		way, err := v.Way(run)
		if err != nil {
			return "", nil, err
		}
		i := slices.IndexFunc(way, func(f layer.Found) bool { return f.Type == layer.TypeSymlink && (f.Path != run || !last) })
		switch {
		case i >= 0:
			l := way[i]
			if links = append(links, Link{l.Path, l.Link}); len(links) > maxLinks {
				return "", nil, invalid("/%s: more than %d symbolic links on the way", name, maxLinks)
			}
			rest = append(parts(l.Link), rest[len(parts(l.Path))-len(parts(at)):]...)
			if at = path.Dir(l.Path); strings.HasPrefix(l.Link, "/") {
				at = "."
			}
		case last:
			return run, links, nil
		default:
			at, rest = path.Dir(run), rest[n+1:]
		}
	}
}

// parts are the components of a path, but for those that stay where they are.
func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(p string) bool { return p == "" || p == "." })
}
