package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostile is a layer that somebody made to do harm, or that some tool makes in a way of its own. Where the specification (image-spec,
// layer.md) says nothing of it, what containerd makes of it counts.
type hostile struct {
	name string
	tar  []byte
	want string // the tree, as describe tells it
	err  error  // or the kind of the error
	text string // which says this
	lim  Limits
	warn string // what is warned of
}

// run applies the layer beside canaries, and compares.
func (c hostile) run(t *testing.T) {
	t.Run(c.name, func(t *testing.T) {
		outside := t.TempDir()
		tree := filepath.Join(outside, "a", "b")
		if err := os.MkdirAll(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		canaries := []string{outside, filepath.Join(outside, "a"), tree}
		for _, d := range canaries {
			if err := os.WriteFile(filepath.Join(d, "canary"), []byte("alive"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := lookAt(t, canaries)
		var warnings []string
		res, err := Apply(context.Background(), bytes.NewReader(c.tar), openDir1(t, tree), Options{Limits: c.lim, Warn: func(s string) { warnings = append(warnings, s) }})
		switch {
		case c.err != nil:
			if !errors.Is(err, c.err) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("error %v, want %v about %q", err, c.err, c.text)
			}
		case err != nil:
			t.Errorf("error %v, want %.300s", err, c.want)
		default:
			if got := describe(t, tree); got != c.want {
				t.Errorf("tree %.500s\nwant %.500s", got, c.want)
			}
			checkIndex(t, tree)
			if res.TarSize != 0 && res.DiffID == "" {
				t.Error("no diff ID")
			}
		}
		if got := strings.Join(warnings, "\n"); !strings.Contains(got, c.warn) || c.warn == "" && got != "" {
			t.Errorf("warned of %q, want %q", got, c.warn)
		}
		if after := lookAt(t, canaries); after != before {
			t.Errorf("outside the tree:\n%s\nwas\n%s", after, before)
		}
		for _, name := range []string{"index.new", "sorting"} {
			if _, err := os.Lstat(filepath.Join(tree, name)); err == nil {
				t.Errorf("%s is left", name)
			}
		}
	})
}

// lookAt tells directories, without what Apply makes in a tree's.
func lookAt(t *testing.T, dirs []string) string {
	var out strings.Builder
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if name := e.Name(); name == "fs" || name == "index" || name == "needs" || name == "index.new" {
				continue
			}
			var st unix.Stat_t
			full := filepath.Join(dir, e.Name())
			if err := unix.Lstat(full, &st); err != nil {
				t.Fatal(err)
			}
			if !e.IsDir() {
				content, err := os.ReadFile(full)
				fmt.Fprintf(&out, "%s %o %d:%d %d names %d.%d %q %v\n", full, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec, content, err)
				continue
			}
			fmt.Fprintf(&out, "%s %o %d:%d\n", full, st.Mode, st.Uid, st.Gid)
		}
	}
	return out.String()
}

// describe tells the tree at dir/fs in the order of an index: "d/" a directory, "f=content", "l->target", "x==f" another name of f, "c3:4"
// a device, "p|" a FIFO, "-f" a whiteout, "d/!" an opaque directory; in brackets what is not 0:0, 644 and 755 and without attributes.
// Names that the layer needs from below follow.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	walkTree(t, filepath.Join(dir, "fs"), func(name string, at int, st *unix.Stat_t) {
		base := path.Base(name)
		full := "/proc/self/fd/" + strconv.Itoa(at) + "/" + base
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if f, ok := first[st.Ino]; ok {
				out = append(out, name+"=="+f)
				return
			}
			first[st.Ino] = name
		}
		var more []string
		mode, usual := st.Mode&0o7777, uint32(0o644)
		s := name
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			s, usual = name+"/", 0o755
			var b [2]byte
			if n, err := unix.Lgetxattr(full, "trusted.overlay.opaque", b[:]); err == nil && n == 1 && b[0] == 'y' {
				s += "!"
			}
		case unix.S_IFREG:
			b, err := os.ReadFile(full)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 64 {
				b = fmt.Appendf(nil, "<%d bytes>", len(b))
			}
			s += "=" + string(b)
		case unix.S_IFLNK:
			target, err := os.Readlink(full)
			if err != nil {
				t.Fatal(err)
			}
			s, usual = s+"->"+target, 0o777
		case unix.S_IFCHR:
			if st.Rdev == 0 {
				s, usual = "-"+s, 0
			} else {
				s += fmt.Sprintf("c%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
			}
		case unix.S_IFBLK:
			s += fmt.Sprintf("b%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFIFO:
			s += "|"
		}
		if mode != usual {
			more = append(more, fmt.Sprintf("%o", mode))
		}
		if st.Uid != 0 || st.Gid != 0 {
			more = append(more, fmt.Sprintf("%d:%d", st.Uid, st.Gid))
		}
		xattrs, err := readXattrsPath(full, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range sortedKeys(xattrs) {
			more = append(more, fmt.Sprintf("%s=%q", key, xattrs[key]))
		}
		if len(more) > 0 {
			s += "(" + strings.Join(more, ",") + ")"
		}
		if s != "./" {
			out = append(out, s)
		}
	})
	n, err := readNeeds(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range n.Links {
		out = append(out, fmt.Sprintf("needs %s==%s", l[0], l[1]))
	}
	return strings.Join(out, " ")
}

// walkTree calls visit with everything in a tree, in the order of an index, however deep it is and whatever it is called.
func walkTree(t testing.TB, root string, visit func(name string, parent int, st *unix.Stat_t)) {
	t.Helper()
	var walk func(d *os.File, at string)
	walk = func(d *os.File, at string) {
		names, err := d.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range sortNames(names) {
			var st unix.Stat_t
			if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				t.Fatal(err)
			}
			full := path.Join(at, name)
			visit(full, int(d.Fd()), &st)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
				if err != nil {
					t.Fatal(err)
				}
				sub := os.NewFile(uintptr(fd), full)
				walk(sub, full)
				sub.Close()
			}
		}
	}
	d, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	visit(".", int(d.Fd()), &st)
	walk(d, ".")
}

func sortNames(names []string) []string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = n
	}
	return sortedKeys(m)
}

// checkIndex compares the index with the tree: each has exactly what the other has, with the same attributes.
func checkIndex(t testing.TB, dir string) {
	t.Helper()
	if got := verify(t, dir, true); got != "" {
		t.Errorf("the tree is not as its index says:\n%s", got)
	}
	x, err := OpenIndex(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	entries := map[string]Entry{}
	last := ""
	for e, err := range x.All() {
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) > 0 && comparePaths(last, e.Path) >= 0 {
			t.Errorf("the index has %.80q after %.80q", e.Path, last)
		}
		last = e.Path
		entries[e.Path] = e
		if found, err := x.Lookup(e.Path); len(entries) < 100 && (err != nil || found.Path != e.Path) {
			t.Errorf("lookup of %.80q: %+v, %v", e.Path, found, err)
		}
	}
	names := map[string]uint64{}
	left := maps.Clone(entries)
	walkTree(t, filepath.Join(dir, "fs"), func(name string, at int, st *unix.Stat_t) {
		e, ok := entries[name]
		if !ok {
			t.Errorf("the index lacks %.80q", name)
			return
		}
		delete(left, name)
		names[name] = st.Ino
		full := "/proc/self/fd/" + strconv.Itoa(at) + "/" + path.Base(name)
		kind := typeOf(st)
		var b [2]byte
		if n, err := unix.Lgetxattr(full, "trusted.overlay.opaque", b[:]); kind == TypeDir && err == nil && n == 1 {
			kind = TypeOpaque
		}
		if kind == TypeChar && st.Rdev == 0 {
			kind = TypeWhiteout
		}
		if e.Type == TypeHardlink {
			if st.Nlink < 2 {
				t.Errorf("%.80q: a hard link in the index, and the only name", name)
			}
			return
		}
		if e.Type != kind {
			t.Errorf("%.80q: type %c, the index has %c", name, kind, e.Type)
		}
		if kind == TypeWhiteout {
			return
		}
		if e.Mode != st.Mode&0o7777 || e.UID != st.Uid || e.GID != st.Gid {
			t.Errorf("%.80q: %o %d:%d, the index has %o %d:%d", name, st.Mode&0o7777, st.Uid, st.Gid, e.Mode, e.UID, e.GID)
		}
		if mtime := time.Unix(st.Mtim.Sec, st.Mtim.Nsec); !mtime.Equal(e.ModTime) {
			t.Errorf("%.80q: time %v, the index has %v", name, mtime, e.ModTime)
		}
		xattrs, err := readXattrsPath(full, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(xattrs, e.Xattrs) {
			t.Errorf("%.80q: attributes %q, the index has %q", name, xattrs, e.Xattrs)
		}
		switch kind {
		case TypeFile:
			f, err := os.Open(full)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, f)
			if err != nil {
				t.Fatal(err)
			}
			if n != e.Size || !bytes.Equal(sum.Sum(nil)[:16], e.Content[:]) {
				t.Errorf("%.80q: %d bytes %x, the index has %d bytes %x", name, n, sum.Sum(nil)[:16], e.Size, e.Content)
			}
		case TypeSymlink:
			if target, err := os.Readlink(full); target != e.Link {
				t.Errorf("%.80q: a link to %q (%v), the index has %q", name, target, err, e.Link)
			}
		case TypeChar, TypeBlock:
			if st.Rdev != e.Dev {
				t.Errorf("%.80q: device %#x, the index has %#x", name, st.Rdev, e.Dev)
			}
		}
	})
	for name := range left {
		t.Errorf("the index has %.80q, the tree has not", name)
	}
	for name, e := range entries {
		if e.Type == TypeHardlink && (names[e.Link] != names[name] || entries[e.Link].Type == TypeHardlink) {
			t.Errorf("%.80q: a hard link to %.80q in the index, but not in the tree", name, e.Link)
		}
	}
}

// head is one header block, made by hand: what archive/tar refuses to write. Fields are given by their offset.
func head(name string, kind byte, size int64, link string, patch ...field) []byte {
	b := ustar("", kind, 0o644, 0, 0, size, 0, link, 0)
	copy(b[:100], name)
	for _, p := range patch {
		copy(b[p.at:], p.data)
	}
	return sumUp(b)
}

type field struct {
	at   int
	data string
}

// Offsets of a ustar header.
const (
	atMode, atUID, atSize, atTime, atSum, atType, atMagic, atPrefix = 100, 108, 124, 136, 148, 156, 257, 345
)

func sumUp(b []byte) []byte {
	copy(b[atSum:atSum+8], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[atSum:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// padded is a content in whole blocks.
func padded(content string) []byte {
	b := []byte(content)
	if rest := len(b) % tarBlock; rest != 0 {
		b = append(b, make([]byte, tarBlock-rest)...)
	}
	return b
}

// pax is an extended header with records, one "key=value" each.
func pax(kind byte, records ...string) []byte {
	body := ""
	for _, r := range records {
		key, value, _ := strings.Cut(r, "=")
		body += paxRecord(key, value)
	}
	return append(head("PaxHeaders/x", kind, int64(len(body)), ""), padded(body)...)
}

// join is a tar of parts, with its end.
func join(parts ...[]byte) []byte {
	return append(bytes.Join(parts, nil), make([]byte, 2*tarBlock)...)
}

// file is an entry with content, as bytes.
func file(name, content string) []byte {
	return append(head(name, '0', int64(len(content)), ""), padded(content)...)
}

const (
	reg, dirT, lnk, hard, chr, blk, fifo = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo
)

// with is an entry with a header of its own.
func with(hdr tar.Header, content string) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		hdr.Size = int64(len(content))
		if hdr.Format == 0 {
			hdr.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&hdr); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
}
