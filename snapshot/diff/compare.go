package diff

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"time"
)

// Fields are what of a name differs between two views.
type Fields uint16

// The fields.
const (
	FieldType Fields = 1 << iota
	FieldContent
	FieldSize
	FieldMode
	FieldOwner
	FieldTime
	FieldXattrs
	FieldLink // of a symbolic link, the target
	FieldDevice
)

var fieldNames = [...]string{"type", "content", "size", "mode", "owner", "mtime", "xattrs", "link", "device"}

// Names are the fields' names, as they are printed.
func (f Fields) Names() []string {
	names := []string{}
	for i, name := range fieldNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Options say what Compare looks at.
type Options struct {
	Path    string // only this path and what is below it; "" or "." for all
	NoTimes bool   // a name whose modification time alone differs is the same
	Moves   bool   // a file that is deleted here and added there is moved: see Moved
}

// Compare yields what b changes in a: each name that only one of them has, and each that differs, in order; of a directory that is added
// or deleted, everything in it, too. Of layers that are the lowest of both nothing is read but what the others touch. An error ends it.
//
// A hard link is compared as the file that it names. Two times are the same where one of them has no fraction of a second and the seconds
// are equal: formats and filesystems cut those off. Contents are compared by the digests that layers' indexes have, and read only where a
// side has none and the sizes are equal.
func Compare(ctx context.Context, a, b *Stack, o Options) iter.Seq2[Change, error] {
	if o.Path == "" {
		o.Path = "."
	}
	if o.Moves {
		return func(yield func(Change, error) bool) { moves(ctx, a, b, o, yield) }
	}
	return func(yield func(Change, error) bool) {
		compare(ctx, a, b, o, func(c compared) bool { return yield(c.Change, c.err) })
	}
}

// compared is a change with the layers that its entries are of.
type compared struct {
	Change
	old, new Layer
	err      error
}

func compare(ctx context.Context, a, b *Stack, o Options, yield func(compared) bool) {
	m := newMerger(a.layers, b.layers)
	defer m.close()
	c := comparer{o: o}
	for ok := m.begin(o.Path); ok; ok = m.next() {
		if err := ctx.Err(); err != nil {
			yield(compared{err: err})
			return
		}
		x, y := m.won[0], m.won[1]
		if x == y {
			continue
		}
		if x >= 0 && y >= 0 {
			if id := m.in[x].layer.ID(); id != "" && id == m.in[y].layer.ID() {
				continue
			}
		}
		var found compared
		var err error
		if x >= 0 {
			found.old = m.in[x].layer
			found.Old, err = c.entry(m, x)
		}
		if y >= 0 && err == nil {
			found.new = m.in[y].layer
			found.New, err = c.entry(m, y)
		}
		if err == nil {
			err = c.compare(&found)
		}
		if err != nil {
			yield(compared{err: err})
			return
		}
		if found.Kind != 0 && !yield(found) {
			return
		}
	}
	if m.err != nil {
		yield(compared{err: m.err})
	}
}

type comparer struct {
	o Options
}

// entry reads the entry that a view shows; of a hard link, the file that it names.
func (c *comparer) entry(m *merger, i int) (*Entry, error) {
	e, err := m.entry(i)
	if err == nil && e.Type == TypeHardlink {
		e, err = Resolve(m.in[i].layer, e)
	}
	return &e, err
}

// Resolve finds the file that a hard link of a layer names, which the layer brings as well, under the link's own path. Where the layer has
// no such file the link stays one.
func Resolve(l Layer, e Entry) (Entry, error) {
	at := l.Cursor()
	defer at.Close()
	if !at.Seek(e.Link) {
		return e, at.Err()
	}
	f, err := at.Entry()
	if err != nil || f.Path != e.Link || f.Type == TypeHardlink {
		return e, err
	}
	f.Path = e.Path
	return f, nil
}

// compare fills in what became of a name; Kind stays 0 where nothing did.
func (c *comparer) compare(found *compared) (err error) {
	switch {
	case found.Old == nil:
		found.Kind, found.Path = Added, slashed(found.New.Path)
		return nil
	case found.New == nil:
		found.Kind, found.Path = Deleted, slashed(found.Old.Path)
		return nil
	}
	found.Differs, err = c.differs(found)
	if found.Differs != 0 {
		found.Kind, found.Path = Changed, slashed(found.New.Path)
	}
	return err
}

func slashed(path string) string {
	if path == "." {
		return "/"
	}
	return "/" + path
}

// Differ says what differs between two entries of one name. A content whose digest is not known is taken for the same.
func Differ(a, b *Entry) Fields {
	var f Fields
	differ := func(field Fields, yes bool) {
		if yes {
			f |= field
		}
	}
	differ(FieldType, a.Type != b.Type)
	differ(FieldOwner, a.UID != b.UID || a.GID != b.GID)
	differ(FieldMode, a.Mode != b.Mode && a.Type != TypeSymlink && b.Type != TypeSymlink)
	differ(FieldTime, !sameTime(a.ModTime, b.ModTime))
	differ(FieldXattrs, !maps.Equal(a.Xattrs, b.Xattrs))
	if f&FieldType != 0 {
		return f
	}
	switch a.Type {
	case TypeSymlink:
		differ(FieldLink, a.Link != b.Link)
	case TypeChar, TypeBlock:
		differ(FieldDevice, a.Dev != b.Dev)
	case TypeFile:
		differ(FieldSize, a.Size != b.Size)
		differ(FieldContent, a.Size != b.Size || known(a) && known(b) && a.Content != b.Content)
	}
	return f
}

func (c *comparer) differs(found *compared) (Fields, error) {
	a, b := found.Old, found.New
	f := Differ(a, b)
	if c.o.NoTimes {
		f &^= FieldTime
	}
	if a.Type == TypeFile && b.Type == TypeFile && f&FieldContent == 0 {
		same, err := sameContent(found)
		if err != nil {
			return f, err
		}
		if !same {
			f |= FieldContent
		}
	}
	return f, nil
}

func sameTime(a, b time.Time) bool {
	return a.Equal(b) || a.Unix() == b.Unix() && (a.Nanosecond() == 0 || b.Nanosecond() == 0)
}

func known(e *Entry) bool { return e.Content != [16]byte{} }

// sameContent compares two files. One that vanished meanwhile differs.
func sameContent(found *compared) (bool, error) {
	a, b := found.Old, found.New
	switch {
	case a.Size != b.Size:
		return false, nil
	case a.Size == 0:
		return true, nil
	case !known(a) && !known(b):
		return sameBytes(found)
	}
	if err := digest(found.old, a); err != nil {
		return false, ignoreVanished(err)
	}
	if err := digest(found.new, b); err != nil {
		return false, ignoreVanished(err)
	}
	return a.Content == b.Content, nil
}

func ignoreVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// digest reads a file for its digest, unless that is known.
func digest(l Layer, e *Entry) error {
	if known(e) {
		return nil
	}
	f, err := l.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	copy(e.Content[:], sum.Sum(nil))
	return nil
}

func sameBytes(found *compared) (bool, error) {
	f, err := found.old.Open(found.Old.Path)
	if err != nil {
		return false, ignoreVanished(err)
	}
	defer f.Close()
	g, err := found.new.Open(found.New.Path)
	if err != nil {
		return false, ignoreVanished(err)
	}
	defer g.Close()
	if sameFile(f, g) {
		return true, nil
	}
	r, s := bufio.NewReaderSize(f, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(g, s)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		end := err != nil
		t, err := r.Peek(n)
		if err != nil && err != io.EOF {
			return false, err
		}
		if !bytes.Equal(s[:n], t) {
			return false, nil
		}
		r.Discard(n)
		if end {
			_, err := r.ReadByte()
			if err == io.EOF {
				return true, nil
			}
			return false, err
		}
	}
}

func sameFile(f, g *os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := g.Stat()
	return err == nil && os.SameFile(a, b)
}
