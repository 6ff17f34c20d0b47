package diff

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/aymanbagabas/go-udiff"
)

// maxPatched is how large a file may be, in bytes, to be compared line by line: it is in memory, and takes several times that.
const maxPatched = 8 << 20

// Patch writes a change as git does (git-diff, "Generating patch text with -p"), so that git apply can do it, and patch but for deleting an
// empty file: a unified diff of text files; of others that they differ. A symbolic link is a file of mode 120000 with its target. Directories, devices, owners and times are
// not in a patch, and a change of nothing else writes nothing. a and b are what was compared.
func Patch(w io.Writer, c *Change, a, b *Stack) error {
	read := c.Kind != Changed && c.Kind != Moved || c.Differs&(FieldContent|FieldType|FieldLink) != 0
	old, before, err := patched(c.Old, a, read)
	if err != nil {
		return err
	}
	now, after, err := patched(c.New, b, read)
	if err != nil {
		return err
	}
	from := c.Path
	if c.From != "" {
		from = c.From
	}
	// A change of type is a deletion and a new file, as with git; of a link, too, for git says that one is meant by hashes alone.
	if old != "" && now != "" && (old[:3] != now[:3] || old == "120000") {
		if err := writePatch(w, from, c.Path, old, "", before, text{}); err != nil {
			return err
		}
		return writePatch(w, from, c.Path, "", now, text{}, after)
	}
	return writePatch(w, from, c.Path, old, now, before, after)
}

// text is what a patch compares of a file.
type text struct {
	content []byte
	binary  bool
}

// patched is the mode that git gives an entry, "" for what is in no patch, and its text, if that is asked for.
func patched(e *Entry, s *Stack, read bool) (mode string, t text, err error) {
	if e == nil {
		return "", t, nil
	}
	switch e.Type {
	case TypeSymlink:
		return "120000", text{content: []byte(e.Link)}, nil
	case TypeFile, TypeHardlink:
	default:
		return "", t, nil
	}
	mode = "100644"
	if e.Mode&0o100 != 0 {
		mode = "100755"
	}
	if !read {
		return mode, t, nil
	}
	if e.Size > maxPatched {
		return mode, text{binary: true}, nil
	}
	f, err := s.Open(e.Path)
	if errors.Is(err, fs.ErrNotExist) { // it vanished meanwhile
		return "", t, nil
	}
	if err != nil {
		return "", t, fmt.Errorf("read /%s: %w", e.Path, err)
	}
	defer f.Close()
	if t.content, err = io.ReadAll(io.LimitReader(f, maxPatched+1)); err != nil {
		return "", t, fmt.Errorf("read /%s: %w", e.Path, err)
	}
	// As git decides it.
	t.binary = len(t.content) > maxPatched || bytes.IndexByte(t.content[:min(len(t.content), 8000)], 0) >= 0
	return mode, t, nil
}

func writePatch(w io.Writer, from, to, old, now string, before, after text) error {
	if old == "" && now == "" {
		return nil
	}
	var b strings.Builder
	a, z := quoted("a"+from), quoted("b"+to)
	fmt.Fprintf(&b, "diff --git %s %s\n", a, z)
	switch {
	case old == "":
		fmt.Fprintf(&b, "new file mode %s\n", now)
		a = "/dev/null"
	case now == "":
		fmt.Fprintf(&b, "deleted file mode %s\n", old)
		z = "/dev/null"
	case old != now:
		fmt.Fprintf(&b, "old mode %s\nnew mode %s\n", old, now)
	}
	if from != to && old != "" && now != "" {
		fmt.Fprintf(&b, "similarity index 100%%\nrename from %s\nrename to %s\n", quoted(from[1:]), quoted(to[1:]))
	}
	switch {
	case before.binary || after.binary:
		fmt.Fprintf(&b, "Binary files %s and %s differ\n", a, z)
	case !bytes.Equal(before.content, after.content):
		u, err := udiff.ToUnified(label(a), label(z), string(before.content), udiff.Lines(string(before.content), string(after.content)), udiff.DefaultContextLines)
		if err != nil {
			return err
		}
		b.WriteString(u)
	case old == now && from == to:
		return nil // owner, time or attributes
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// label ends a name with spaces in it as git does, for what reads patches takes a space for the end of the name.
func label(name string) string {
	if strings.Contains(name, " ") {
		return name + "\t"
	}
	return name
}

// quoted is a name as git quotes it where it must (git-config, core.quotePath).
func quoted(name string) string {
	odd := false
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case c == '"' || c == '\\':
			odd = true
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			odd = true
			b.WriteString(`\n`)
		case c == '\t':
			odd = true
			b.WriteString(`\t`)
		case c < 0x20 || c >= 0x7f:
			odd = true
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	if odd {
		return `"` + b.String() + `"`
	}
	return name
}
