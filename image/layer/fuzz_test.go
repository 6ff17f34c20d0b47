package layer

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/snapshot"
)

// Whatever the bytes are: nothing outside the tree changes, and what is accepted is what the index says, before and after it is settled.
func FuzzApply(f *testing.F) {
	f.Add(tarOf(f, h(reg, "d/f", "", "content"), h(lnk, "l", "../..", ""), h(reg, "l/x", "", "")))
	f.Add(tarOf(f, h(reg, "d/.wh.x", "", ""), h(hard, "y", "d/f", ""), h(dirT, "d", "", "")))
	f.Add(join(pax('x', "path=dir/file", "SCHILY.xattr.user.k=v", "mtime=-1.5"), file("x", "content"), oldSparse("s", 21, "x", [2]int64{20, 1})))
	f.Add(tarOf(f, grow()[:4]...))
	below := fuzzBelow(f)
	f.Fuzz(func(t *testing.T, data []byte) { applyAny(t, data, below) })
}

// The same with layers of a few names that meet each other in every way: three bytes are an entry.
func FuzzEntries(f *testing.F) {
	for _, seed := range []string{"\x00\x00\x00\x01\x00\x00\x02\x01\x03", "\x03\x01\x00\x00\x00\x00\x03\x02\x01\x00\x00\x01", "\x02\x05\x01\x00\x03\x00\x04\x00\x00\x01\x00\x00", "\x00\x09\x00\x03\x0c\x09\x00\x0b\x00"} {
		f.Add([]byte(seed))
	}
	names := []string{"a", "b", "a/b", "a/c", "b/a", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "a/b/c", "lib/a", "lib/.wh.x", "usr/lib/a", "f", "up/f", ".", "d/x", "lib/sub/a", "usr/lib/sub/a", "lib/.wh..wh..opq", "usr"}
	kinds := []byte{reg, dirT, lnk, hard, fifo, reg}
	below := fuzzBelow(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var entries []func(*tar.Writer) error
		for i := 0; i+2 < len(data) && i < 60; i += 3 {
			kind, name, link := kinds[int(data[i])%len(kinds)], names[int(data[i+1])%len(names)], names[int(data[i+2])%len(names)]
			hdr := tar.Header{Typeflag: kind, Name: name, Mode: int64(0o600 + int(data[i+2])), Uid: int(data[i]) / 6}
			content := ""
			switch kind {
			case reg:
				content = string(data[i : i+3])
			case lnk, hard:
				hdr.Linkname = link
			}
			entries = append(entries, with(hdr, content))
		}
		applyAny(t, tarOf(t, entries...), below)
	})
}

func fuzzBelow(f *testing.F) string {
	below := f.TempDir()
	sh(f, below, "mkdir -p usr/lib/sub d; ln -s usr/lib lib; ln -s ../../.. up; echo f > f; ln -s /nowhere l; chmod 700 d")
	return below
}

func applyAny(t *testing.T, data []byte, below string) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	defer func() {
		if names, _ := os.ReadDir(outside); len(names) != 1 {
			t.Errorf("%d names outside the tree", len(names))
		}
	}()
	if _, err = Apply(t.Context(), bytes.NewReader(data), d, Options{Limits: Limits{Entries: 1000, Size: 1 << 20, Content: 1 << 20}}); err != nil {
		return
	}
	checkIndex(t, dir)
	stack, err := snapshot.OpenStack([]string{below})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	s, err := PlanSettlement(dir, stack)
	if err == nil {
		err = s.Execute(dir, stack)
	}
	if err != nil {
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("settle: %v", err)
		}
		return
	}
	checkIndex(t, dir)
	if again, err := PlanSettlement(dir, stack); err != nil || again.Digest() != s.Digest() {
		t.Errorf("planned again: %+v, was %+v (%v)", again, s, err)
	}
}

// translate is where names, whiteouts and attributes are judged.
func FuzzWhiteout(f *testing.F) {
	for _, name := range []string{".wh.x", "d/.wh..wh..opq", ".wh..wh.plnk/1", "a/.wh..", ".wh..wh.x/.wh.y", "../.wh.x", ".wh./x"} {
		f.Add(name, byte(reg), "", "SCHILY.xattr.user.k", int64(0), int64(0))
		f.Add(name, byte(hard), "d/"+name, "SCHILY.xattr.trusted.overlay.opaque", int64(1), int64(1<<32))
	}
	f.Fuzz(func(t *testing.T, name string, kind byte, link, key string, major, minor int64) {
		hdr := &tar.Header{Name: name, Typeflag: kind, Linkname: link, Devmajor: major, Devminor: minor, PAXRecords: map[string]string{key: "v"}}
		o, skip, err := translate(hdr, Options{Warn: func(string) {}})
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if skip {
			return
		}
		for _, p := range []string{o.entry.Path, o.target} {
			if p == "" && o.entry.Type != TypeHardlink {
				continue
			}
			if p != "." && (strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") || strings.Contains("/"+p+"/", "//") || strings.ContainsRune(p, 0)) {
				t.Errorf("%q became %q", name, p)
			}
		}
		if base := "/" + o.entry.Path; o.entry.Type != TypeWhiteout && o.entry.Type != TypeOpaque && strings.Contains(base, "/"+whPrefix) {
			t.Errorf("%q became the name %q", name, o.entry.Path)
		}
		for key := range o.entry.Xattrs {
			if strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.") {
				t.Errorf("%q keeps %q", name, key)
			}
		}
		if o.entry.Type == TypeChar && uint32(o.entry.Dev) == 0 {
			t.Errorf("%q is a whiteout's device", name)
		}
	})
}

// An index of any bytes gives entries or an error, and what Lookup finds is what All yields.
func FuzzIndex(f *testing.F) {
	var b bytes.Buffer
	x, _ := newIndexWriter(&b)
	for _, e := range []Entry{{Path: ".", Type: TypeDir}, {Path: "a", Type: TypeFile, Xattrs: map[string]string{"user.a": "b"}}, {Path: "a/b", Type: TypeSymlink, Link: "x"}} {
		x.add(&e)
	}
	if err := x.end(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), false)
	f.Add(b.Bytes()[:40], false)
	f.Add([]byte("\x05\x00\x01.\xed\x03"), true)
	f.Fuzz(func(t *testing.T, data []byte, block bool) {
		if block { // one that is whole, so that what is in it is read
			var b bytes.Buffer
			x, _ := newIndexWriter(&b)
			x.block, x.records = data, 1+len(data)/8
			x.end()
			data = b.Bytes()
		}
		file := filepath.Join(t.TempDir(), "index")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := OpenIndex(file)
		if err != nil {
			return
		}
		defer x.Close()
		n := 0
		for e, err := range x.All() {
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("an error of no kind: %v", err)
				}
				break
			}
			if n++; n > 1+len(data) {
				t.Fatal("more entries than bytes")
			}
			if _, err := x.Lookup(e.Path); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("lookup of %q: %v", e.Path, err)
			}
		}
	})
}

// Names come back from needs as they were, whatever their bytes; needs of any bytes are read or refused.
func FuzzNeeds(f *testing.F) {
	f.Add("a/b", "\xff", []byte(`{"parents":["."],"links":[["a","b"]],"whiteouts":["\"\\xff\""]}`))
	f.Add(`"quoted"`, "\u2028\ufffd", []byte(`{"parents":["\""]}`))
	f.Fuzz(func(t *testing.T, a, b string, data []byte) {
		dir := t.TempDir()
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		n := needs{Parents: []rawName{rawName(a), rawName(b)}, Links: [][2]rawName{{rawName(b), rawName(a)}}, Whiteouts: []rawName{rawName(b)}}
		if err := n.write(d); err != nil {
			t.Fatal(err)
		}
		got, err := readNeeds(dir)
		if err != nil || len(got.Parents) != 2 || string(got.Parents[0]) != a || string(got.Parents[1]) != b || string(got.Links[0][0]) != b || string(got.Links[0][1]) != a || string(got.Whiteouts[0]) != b {
			t.Errorf("%q and %q came back as %+v (%v)", a, b, got, err)
		}
		var other needs
		if json.Unmarshal(data, &other) == nil {
			other.count()
		}
	})
}

// Any stream is decompressed or refused, in bounded memory.
func FuzzDecompress(f *testing.F) {
	plain := join(file("f", "x"))
	f.Add(plain)
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0, 0, 0})
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, _, err := Decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		io.Copy(io.Discard, io.LimitReader(r, 8<<20))
	})
}
