package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// printable shows a name out of a layer on one line: what a terminal would obey or not show is escaped as in a C string.
func printable(s string) string {
	plain := true // as nearly all are
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= 0x20 && s[i] < 0x7f
	}
	if plain || strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || r != ' ' && !unicode.IsGraphic(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && n == 1, r != ' ' && !unicode.IsGraphic(r):
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// change is a record of `diff`.
type change struct {
	Kind    string // A added, C changed, D deleted, R moved
	Path    string
	RawPath []byte       `json:",omitempty"` // the path where it is not UTF-8, which JSON's strings are
	From    string       `json:",omitempty"` // where what moved was before
	RawFrom []byte       `json:",omitempty"`
	Differs listOf       `json:",omitempty"` // what of it: type, content, size, mode, owner, mtime, xattrs, link, device
	Old     *entryRecord `json:",omitempty"` // what was there
	New     *entryRecord `json:",omitempty"` // what is there now
}

// entryRecord is what a layer says of a name.
type entryRecord struct {
	Type    string // file, directory, symlink, character device, block device, fifo, socket
	Mode    string // in octal
	UID     uint32
	GID     uint32
	Size    bytesOf
	ModTime string
	Content string            `json:",omitempty"` // the first half of the SHA-256, in hexadecimal, of a file whose digest is known
	Link    string            `json:",omitempty"` // where a symbolic link leads
	RawLink []byte            `json:",omitempty"`
	Device  string            `json:",omitempty"` // MAJOR:MINOR
	Xattrs  map[string][]byte `json:",omitempty"`
}

var typeNames = map[byte]string{diff.TypeFile: "file", diff.TypeDir: "directory", diff.TypeOpaque: "directory", diff.TypeSymlink: "symlink",
	diff.TypeChar: "character device", diff.TypeBlock: "block device", diff.TypeFifo: "fifo", diff.TypeSocket: "socket", diff.TypeHardlink: "file"}

func recordOf(e *diff.Entry) *entryRecord {
	if e == nil {
		return nil
	}
	r := &entryRecord{Type: typeNames[e.Type], Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID, Size: bytesOf(e.Size),
		ModTime: e.ModTime.UTC().Format(time.RFC3339Nano)}
	if e.Content != [16]byte{} {
		r.Content = hex.EncodeToString(e.Content[:])
	}
	if e.Type == diff.TypeSymlink {
		r.Link = e.Link
		if !utf8.ValidString(e.Link) {
			r.RawLink = []byte(e.Link)
		}
	}
	if e.Type == diff.TypeChar || e.Type == diff.TypeBlock {
		r.Device = fmt.Sprintf("%d:%d", unix.Major(e.Dev), unix.Minor(e.Dev))
	}
	if len(e.Xattrs) > 0 {
		r.Xattrs = map[string][]byte{}
		for name, value := range e.Xattrs {
			r.Xattrs[name] = []byte(value)
		}
	}
	return r
}

// modeString is a type and mode as ls shows them.
func modeString(e *diff.Entry) string {
	kind := map[byte]byte{diff.TypeDir: 'd', diff.TypeOpaque: 'd', diff.TypeSymlink: 'l', diff.TypeChar: 'c', diff.TypeBlock: 'b', diff.TypeFifo: 'p',
		diff.TypeSocket: 's'}[e.Type]
	b := []byte("-rwxrwxrwx")
	if kind != 0 {
		b[0] = kind
	}
	for i := range 9 {
		if e.Mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for i, special := range []struct {
		bit      uint32
		set, not byte
	}{{0o4000, 's', 'S'}, {0o2000, 's', 'S'}, {0o1000, 't', 'T'}} {
		if at := 3 + 3*i; e.Mode&special.bit != 0 && b[at] == 'x' {
			b[at] = special.set
		} else if e.Mode&special.bit != 0 {
			b[at] = special.not
		}
	}
	return string(b)
}

func (a *app) printRecords(format string, changes iter.Seq2[diff.Change, error]) error {
	var records []change
	for c, err := range changes {
		if err != nil {
			return err
		}
		r := change{Kind: string(rune(c.Kind)), Path: c.Path, From: c.From, Differs: c.Differs.Names(), Old: recordOf(c.Old), New: recordOf(c.New)}
		if !utf8.ValidString(c.Path) {
			r.RawPath = []byte(c.Path)
		}
		if !utf8.ValidString(c.From) {
			r.RawFrom = []byte(c.From)
		}
		records = append(records, r)
	}
	return printList(a.stdout, format, []column{{"CHANGE", "Kind"}, {"PATH", "Path"}}, records)
}

// buffered prints an answer in large pieces, what came before an error, too.
func (a *app) buffered(print func(*bufio.Writer) error) error {
	out := newBuffered(a.stdout)
	err := print(out)
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	return err
}

func (a *app) printLines(changes iter.Seq2[diff.Change, error]) error {
	return a.buffered(func(out *bufio.Writer) error {
		for c, err := range changes {
			if err != nil {
				return err
			}
			out.WriteByte(byte(c.Kind))
			out.WriteByte(' ')
			if c.From != "" {
				out.WriteString(printable(c.From))
				out.WriteString(" -> ")
			}
			out.WriteString(printable(c.Path))
			if err := out.WriteByte('\n'); err != nil {
				return err
			}
		}
		return nil
	})
}

// sizes are what a name took before and takes now.
func sizes(c *diff.Change) (before, after int64) {
	if c.Old != nil && c.Old.Type == diff.TypeFile {
		before = c.Old.Size
	}
	if c.New != nil && c.New.Type == diff.TypeFile {
		after = c.New.Size
	}
	return before, after
}

// growth is a difference of sizes with its sign.
func growth(n int64) string {
	if n < 0 {
		return "-" + humanSize(-n)
	}
	return "+" + humanSize(n)
}

// statRow is a directory of `diff --stat`.
type statRow struct {
	Directory string
	Added     int // names
	Changed   int
	Deleted   int
	Moved     int     // from elsewhere
	Came      bytesOf // bytes of files that are added, and of changed ones as they are now
	Went      bytesOf // bytes of files that are deleted, and of changed ones as they were
	Grew      growthOf
}

type growthOf int64

func (n growthOf) String() string { return growth(int64(n)) }

func (r *statRow) add(c *diff.Change) {
	switch c.Kind {
	case diff.Added:
		r.Added++
	case diff.Changed:
		r.Changed++
	case diff.Deleted:
		r.Deleted++
	case diff.Moved:
		r.Moved++
	}
	before, after := sizes(c)
	if c.Kind != diff.Changed && c.Kind != diff.Moved || c.Differs&(diff.FieldContent|diff.FieldType) != 0 {
		r.Came += bytesOf(after)
		r.Went += bytesOf(before)
	}
	r.Grew = growthOf(r.Came - r.Went)
}

// printStat sums the changes by directory. It counts names where they are now; nothing but one row a directory is held.
func (a *app) printStat(o diffFlags, changes iter.Seq2[diff.Change, error]) error {
	const levels = 2
	var rows []*statRow
	byDirectory := map[string]*statRow{}
	total := &statRow{Directory: "total"}
	base := strings.TrimPrefix(o.opt.Path, ".")
	for c, err := range changes {
		if err != nil {
			return err
		}
		rest := strings.Split(strings.TrimPrefix(strings.TrimPrefix(c.Path, "/"+base), "/"), "/")
		dir := path.Join("/", base, path.Join(rest[:min(levels, len(rest)-1)]...))
		r := byDirectory[dir]
		if r == nil {
			r = &statRow{Directory: printable(dir)}
			byDirectory[dir] = r
			rows = append(rows, r)
		}
		r.add(&c)
		total.add(&c)
	}
	slices.SortFunc(rows, func(a, b *statRow) int { return diff.ComparePaths(diff.Clean(a.Directory), diff.Clean(b.Directory)) })
	records := make([]statRow, 0, len(rows)+1)
	for _, r := range append(rows, total) {
		records = append(records, *r)
	}
	columns := []column{{"DIRECTORY", "Directory"}, {"ADDED", "Added"}, {"CHANGED", "Changed"}, {"DELETED", "Deleted"}}
	if o.opt.Moves {
		columns = append(columns, column{"MOVED", "Moved"})
	}
	return printList(a.stdout, o.format, append(columns, column{"CAME", "Came"}, column{"WENT", "Went"}, column{"GREW", "Grew"}), records)
}

// node is a directory of `diff --tree`, or a changed name.
type node struct {
	name   string
	change *diff.Change // nil for a directory that is only on the way
	grew   int64
	sub    []*node
}

func (a *app) printTree(o diffFlags, changes iter.Seq2[diff.Change, error]) error {
	root := &node{name: "/"}
	way := []*node{root} // from the root to the last one, which the next shares in part
	for c, err := range changes {
		if err != nil {
			return err
		}
		before, after := sizes(&c)
		root.grew += after - before
		if c.Path == "/" {
			root.change = &c
			continue
		}
		parts := strings.Split(c.Path[1:], "/")
		n := 1
		for n < len(way) && n < len(parts) && way[n].name == parts[n-1] {
			n++
		}
		way = way[:n]
		for _, name := range parts[n-1:] {
			sub := &node{name: name}
			way[len(way)-1].sub = append(way[len(way)-1].sub, sub)
			way = append(way, sub)
		}
		for _, n := range way[1:] {
			n.grew += after - before
		}
		way[len(way)-1].change = &c
	}
	return a.buffered(func(out *bufio.Writer) error { return root.print(out, "", "") })
}

func (n *node) print(out *bufio.Writer, first, rest string) error {
	line := first
	if n.change != nil {
		line += string(rune(n.change.Kind)) + " "
	}
	line += printable(n.name)
	if c := n.change; c != nil {
		if c.From != "" {
			line += " <- " + printable(c.From)
		}
		if e := c.New; e != nil && e.Type == diff.TypeSymlink {
			line += " -> " + printable(e.Link)
		}
		if f := c.Differs &^ (diff.FieldContent | diff.FieldSize | diff.FieldTime); f != 0 {
			line += " (" + strings.Join(f.Names(), ", ") + ")"
		}
	}
	if n.grew != 0 {
		line += "  " + growth(n.grew)
	}
	if _, err := io.WriteString(out, line+"\n"); err != nil {
		return err
	}
	for i, s := range n.sub {
		branch, below := "├── ", "│   "
		if i == len(n.sub)-1 {
			branch, below = "└── ", "    "
		}
		if err := s.print(out, rest+branch, rest+below); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printPatch(from, to *diff.Stack, changes iter.Seq2[diff.Change, error]) error {
	return a.buffered(func(out *bufio.Writer) error {
		w := io.Writer(out)
		if isTerminal(a.stdout) {
			w = harmless{out}
		}
		for c, err := range changes {
			if err == nil {
				err = diff.Patch(w, &c, from, to)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// harmless shows text out of foreign files on a terminal, which must not obey it. Lines and tabs stay.
type harmless struct{ w io.Writer }

func (h harmless) Write(p []byte) (int, error) {
	lines := strings.SplitAfter(string(p), "\n")
	for _, line := range lines {
		body, end := strings.CutSuffix(line, "\n")
		fields := strings.Split(body, "\t")
		for i := range fields {
			fields[i] = printable(fields[i])
		}
		body = strings.Join(fields, "\t")
		if end {
			body += "\n"
		}
		if _, err := io.WriteString(h.w, body); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
