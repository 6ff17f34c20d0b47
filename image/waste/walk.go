package waste

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// Kind is why bytes are wasted.
type Kind string

// The reasons, in the order in which they are asked.
const (
	Overwritten Kind = "overwritten"
	Rewritten   Kind = "rewritten"
	Deleted     Kind = "deleted"
	Cached      Kind = "cached"
	Duplicate   Kind = "duplicate"
	Twin        Kind = "twin" // the same content within a layer; not counted
)

// Kinds are those that count, in order.
func Kinds() []Kind { return []Kind{Overwritten, Rewritten, Deleted, Cached, Duplicate} }

// File is a regular file that a layer has.
type File struct {
	layer.Entry
	Layer int
	Kind  Kind   // Overwritten, Rewritten or Deleted where the end's view does not have it, Cached, or ""
	By    int    // the layer that hides it, or its own
	Root  string // the path that was deleted, which may be a directory above, or the cache's directory
	Cache string // whose cache it is in
}

// Hidden says whether the end's view does not have the file.
func (f *File) Hidden() bool {
	return f.Kind == Overwritten || f.Kind == Rewritten || f.Kind == Deleted
}

// cut is a layer that hides what the ones below have in a directory.
type cut struct {
	layer int
	root  string
}

// frame is a directory on the way down.
type frame struct {
	path  string
	cuts  []cut
	cache string
	root  string // of the cache
}

// walk goes over all layers at once, lowest first, and calls fn for each regular file of each; link is told of each hard link in the
// end's view.
func walk(layers []diff.Layer, fn func(File), link func(layerNumber int, target string)) error {
	var todo waiting
	for i, l := range layers {
		s := &source{cursor: l.Cursor(), layer: i}
		defer s.cursor.Close()
		if err := todo.next(s); err != nil {
			return err
		}
	}
	var stack []frame
	var here []*source // those that have the path, lowest first
	for len(todo) > 0 {
		last := len(todo) - 1
		here = append(here[:0], todo[last])
		for last--; last >= 0 && todo[last].entry.Path == here[0].entry.Path; last-- {
			here = append(here, todo[last])
		}
		todo = todo[:last+1]
		name := here[0].entry.Path
		for len(stack) > 0 && !within(name, stack[len(stack)-1].path) {
			stack = stack[:len(stack)-1]
		}
		var parent frame
		if len(stack) > 0 {
			parent = stack[len(stack)-1]
		}
		isDir := false
		dir := frame{path: name, cuts: parent.cuts, cache: parent.cache, root: parent.root}
		for n, s := range here {
			i, e := s.layer, &s.entry
			switch e.Type {
			case layer.TypeDir:
				isDir = true
				continue
			case layer.TypeOpaque:
				isDir = true
			}
			// Whatever it is but a plain directory: what lower layers have below the name is gone.
			dir.cuts = append(dir.cuts[:len(dir.cuts):len(dir.cuts)], cut{i, name})
			if e.Type != layer.TypeFile && e.Type != layer.TypeHardlink {
				continue
			}
			f := File{Entry: *e, Layer: i, By: i, Cache: parent.cache, Root: name}
			for _, c := range parent.cuts {
				if c.layer > i && (f.Kind == "" || c.layer < f.By) {
					f.Kind, f.By, f.Root = Deleted, c.layer, c.root
				}
			}
			if n+1 < len(here) && (f.Kind == "" || here[n+1].layer <= f.By) {
				over := &here[n+1].entry
				f.By, f.Root = here[n+1].layer, name
				switch {
				case over.Type == layer.TypeWhiteout:
					f.Kind = Deleted
				case over.Type == layer.TypeFile && over.Size == e.Size && over.Content == e.Content:
					f.Kind = Rewritten
				default:
					f.Kind = Overwritten
				}
			}
			if f.Cache != "" && (f.Kind == "" || f.Kind == Deleted && within(f.Root, parent.root)) {
				f.Root = parent.root // a cache is one thing, file by file as it may be deleted
				if f.Kind == "" {
					f.Kind = Cached
				}
			} else if f.Kind == Deleted {
				f.Cache = "" // it went with more than the cache
			}
			if e.Type == layer.TypeFile {
				fn(f)
			} else if !f.Hidden() {
				link(i, e.Link)
			}
		}
		if isDir {
			if dir.cache == "" {
				if dir.cache = cacheOf(name); dir.cache != "" {
					dir.root = name
				}
			}
			stack = append(stack, dir)
		}
		for _, s := range here {
			if err := todo.next(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// source is a layer on the way.
type source struct {
	cursor diff.Cursor
	layer  int
	entry  layer.Entry
}

// waiting are the sources by where they stand, the last one first in the order of paths, and of layers for one path.
type waiting []*source

// next goes on in a source, and puts it where it belongs, unless it is at its end.
func (w *waiting) next(s *source) error {
	if !s.cursor.Next() {
		if err := s.cursor.Err(); err != nil {
			return fmt.Errorf("layer %d: %w", s.layer, err)
		}
		return nil
	}
	var err error
	if s.entry, err = s.cursor.Entry(); err != nil {
		return fmt.Errorf("layer %d: %w", s.layer, err)
	}
	at, _ := slices.BinarySearchFunc(*w, s, func(a, b *source) int {
		return cmp.Or(diff.ComparePaths(b.entry.Path, a.entry.Path), cmp.Compare(b.layer, a.layer))
	})
	*w = slices.Insert(*w, at, s)
	return nil
}

func within(name, dir string) bool {
	return dir == "." || len(name) > len(dir) && name[len(dir)] == '/' && name[:len(dir)] == dir
}

// cacheOf names the cache that a directory is: what package managers keep to be quicker, and where programs leave what they needed for a
// moment. __pycache__ is none of them: it makes the image's own programs quicker.
func cacheOf(dir string) string {
	switch dir {
	case "var/lib/apt/lists":
		return "apt lists"
	case "var/cache/apt":
		return "apt cache"
	case "var/cache/apk", "etc/apk/cache":
		return "apk cache"
	case "var/cache/dnf", "var/cache/libdnf5":
		return "dnf cache"
	case "var/cache/yum":
		return "yum cache"
	case "var/cache/zypp":
		return "zypper cache"
	case "var/cache/pacman/pkg":
		return "pacman cache"
	case "go/pkg/mod/cache": // as in the golang images
		return "Go module cache"
	case "usr/local/cargo/registry/cache": // rust's
		return "cargo cache"
	case "usr/local/bundle/cache": // ruby's
		return "gem cache"
	case "usr/local/share/.cache/yarn": // root's, for yarn 1
		return "yarn cache"
	case "opt/conda/pkgs":
		return "conda cache"
	case "tmp", "var/tmp":
		return "temporary files"
	}
	rest, ok := strings.CutPrefix(dir, "root/")
	if !ok {
		if rest, ok = strings.CutPrefix(dir, "home/"); ok {
			_, rest, ok = strings.Cut(rest, "/")
		}
	}
	if !ok {
		return ""
	}
	switch path.Clean(rest) {
	case ".cache/pip":
		return "pip cache"
	case ".cache/uv":
		return "uv cache"
	case ".cache/pypoetry":
		return "poetry cache"
	case ".npm":
		return "npm cache"
	case ".cache/yarn":
		return "yarn cache"
	case ".cache/go-build":
		return "Go build cache"
	case "go/pkg/mod/cache":
		return "Go module cache"
	case ".cargo/registry/cache":
		return "cargo cache"
	case ".bundle/cache":
		return "gem cache"
	case ".composer/cache", ".cache/composer":
		return "composer cache"
	case ".m2/repository":
		return "maven repository"
	}
	return ""
}
