package explore

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/snapshot/diff"
)

func isNoPath(err error) bool { return errors.Is(err, image.ErrNoPath) }

// detailLines are the three lines on what the cursor is at.
func (m *model) detailLines() [3]string {
	if m.onList {
		return m.layerLines()
	}
	n := m.at
	path := "/"
	if n != m.tree.root {
		path += m.glyphs.text(n.path())
	}
	lines := [3]string{" " + path}
	d := m.detail
	if d.gen != m.gen || d.path != n.path() {
		return lines
	}
	if d.err != nil {
		lines[1] = " " + m.glyphs.text(d.err.Error())
		return lines
	}
	s := m.scope()
	old, now := m.entries(d, s)
	switch {
	case now != nil:
		lines[1] = " " + m.entryLine(now)
	case old != nil:
		lines[1] = " was " + m.entryLine(old)
	}
	if s.mode == compare {
		lines[2] = " " + m.compareLine(n, old, now)
		return lines
	}
	lines[2] = " " + m.blameLine(d.blame[s.image], s)
	return lines
}

// entries are what a scope shows at a path, before and now.
func (m *model) entries(d detail, s scope) (old, now *diff.Entry) {
	switch s.mode {
	case compare:
		return shown(d.blame[0], 1<<30), shown(d.blame[1], 1<<30)
	case whole:
		return nil, shown(d.blame[s.image], 1<<30)
	}
	return shown(d.blame[s.image], s.layer-1), shown(d.blame[s.image], s.layer)
}

// shown is the entry that an image shows as of a layer.
func shown(blame []image.Blame, upto int) *diff.Entry {
	var e *diff.Entry
	for i := range blame {
		if blame[i].Layer > upto {
			break
		}
		switch blame[i].Kind {
		case diff.Deleted, image.Hidden:
			e = nil
		default:
			e = &blame[i].Entry
		}
	}
	return e
}

func (m *model) entryLine(e *diff.Entry) string {
	words := []string{modeOf(e), fmt.Sprintf("%d:%d", e.UID, e.GID)}
	switch e.Type {
	case diff.TypeFile:
		words = append(words, exact(e.Size)+" bytes")
	case diff.TypeChar, diff.TypeBlock:
		words = append(words, fmt.Sprintf("device %d,%d", major(e.Dev), minor(e.Dev)))
	}
	words = append(words, e.ModTime.UTC().Format("2006-01-02 15:04:05"))
	if e.Type == diff.TypeSymlink {
		words = append(words, m.glyphs.arrow+" "+m.glyphs.text(e.Link))
	}
	if len(e.Xattrs) > 0 {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
			names = append(names, m.glyphs.text(name))
		}
		words = append(words, "xattrs: "+strings.Join(names, ", "))
	}
	return strings.Join(words, "  ")
}

// blameLine says what each layer does at a path; a name is the last one's, unless that deletes it.
func (m *model) blameLine(blame []image.Blame, s scope) string {
	var words []string
	by := ""
	for _, b := range blame {
		word := fmt.Sprintf("layer %d ", b.Layer+1)
		switch b.Kind {
		case diff.Added:
			word += "added it"
		case diff.Changed:
			word += "changed " + strings.Join(b.Differs.Names(), ", ")
			if b.Differs == 0 {
				word += "nothing of it" // the same file once more
			}
		case diff.Deleted:
			word += "deleted it"
		case image.Hidden:
			word += "hid it"
		}
		if len(words) > 0 {
			word = strings.TrimPrefix(word, "layer ")
		}
		words = append(words, word)
		if b.Wins {
			by = m.images[s.image].Layers[b.Layer].Command
		}
	}
	line := strings.Join(words, "; ")
	if by != "" {
		line += ": " + m.glyphs.text(by)
	}
	return line
}

func (m *model) compareLine(n *node, old, now *diff.Entry) string {
	if n.kind != diff.Changed || old == nil || now == nil {
		return ""
	}
	var words []string
	for _, name := range n.differs.Names() {
		switch name {
		case "size":
			name = "size " + exact(old.Size) + " " + m.glyphs.arrow + " " + exact(now.Size)
		case "mode":
			name = "mode " + modeOf(old) + " " + m.glyphs.arrow + " " + modeOf(now)
		case "owner":
			name = fmt.Sprintf("owner %d:%d %s %d:%d", old.UID, old.GID, m.glyphs.arrow, now.UID, now.GID)
		case "mtime":
			name = "mtime " + old.ModTime.UTC().Format("2006-01-02 15:04:05") + " " + m.glyphs.arrow + " " + now.ModTime.UTC().Format("2006-01-02 15:04:05")
		case "link":
			name = "link " + m.glyphs.text(old.Link) + " " + m.glyphs.arrow + " " + m.glyphs.text(now.Link)
		}
		words = append(words, name)
	}
	return "differs: " + strings.Join(words, ", ")
}

// layerLines are the three lines on what is chosen in the list.
func (m *model) layerLines() (lines [3]string) {
	e := m.list[m.chosen]
	img := m.images[e.image]
	if e.mode != change {
		var total int64
		for _, l := range img.Layers {
			total += l.Size
		}
		lines[0] = " " + m.glyphs.text(img.Name)
		lines[1] = fmt.Sprintf(" %d layers, %s in all of them", len(img.Layers), size(total))
		return lines
	}
	l := img.Layers[e.layer]
	lines[0] = " " + m.glyphs.text(l.DiffID)
	by := m.glyphs.text(l.Command)
	if by == "" {
		by = "(nobody has said what made it)"
	}
	lines[1] = " " + by
	var words []string
	if !l.Created.IsZero() {
		words = append(words, l.Created.UTC().Format("2006-01-02 15:04:05"))
	}
	if len(l.SharedBy) > 0 {
		words = append(words, "also in "+m.glyphs.text(strings.Join(l.SharedBy, ", ")))
	}
	lines[2] = " " + strings.Join(words, "  ")
	return lines
}

// modeOf is type and permissions, as ls shows them.
func modeOf(e *diff.Entry) string {
	b := []byte("?rwxrwxrwx")
	switch e.Type {
	case diff.TypeFile, diff.TypeHardlink:
		b[0] = '-'
	case diff.TypeDir, diff.TypeOpaque:
		b[0] = 'd'
	case diff.TypeSymlink:
		b[0] = 'l'
	case diff.TypeChar:
		b[0] = 'c'
	case diff.TypeBlock:
		b[0] = 'b'
	case diff.TypeFifo:
		b[0] = 'p'
	case diff.TypeSocket:
		b[0] = 's'
	}
	for i := range 9 {
		if e.Mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, special := range []struct {
		bit   uint32
		at    int
		small byte
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if e.Mode&special.bit != 0 {
			if b[special.at] == 'x' {
				b[special.at] = special.small
			} else {
				b[special.at] = special.small - 'a' + 'A'
			}
		}
	}
	return string(b)
}
