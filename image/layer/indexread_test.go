package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// writeEntries makes an index of entries, which need not come in order, in a tree's directory.
func writeEntries(t testing.TB, entries []Entry) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, err := newIndexWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
	for i := range entries {
		if err := x.add(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.end(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// manyEntries are those of n files in directories of a hundred.
func manyEntries(n int, prefix string) []Entry {
	entries := []Entry{{Path: ".", Type: TypeDir, Mode: 0o755}}
	for i := range n {
		dir := fmt.Sprintf("%s%03d", prefix, i/100)
		if i%100 == 0 {
			entries = append(entries, Entry{Path: dir, Type: TypeDir, Mode: 0o755, ModTime: time.Unix(1700000000, 0)})
		}
		e := Entry{Path: fmt.Sprintf("%s/file-of-some-length-%d", dir, i), Type: TypeFile, Mode: 0o644, Size: int64(i), ModTime: time.Unix(1700000000, int64(i))}
		binary.LittleEndian.PutUint64(e.Content[:], uint64(i)*0x9E3779B97F4A7C15+1)
		binary.LittleEndian.PutUint64(e.Content[8:], uint64(i)*0xC2B2AE3D27D4EB4F+1)
		entries = append(entries, e)
	}
	return entries
}

func TestIndexSearch(t *testing.T) {
	entries := manyEntries(20000, "dir")
	dir := writeEntries(t, entries)
	x, err := OpenIndex(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var all []Entry
	for e, err := range x.All() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if len(all) != len(entries) {
		t.Fatalf("%d entries of %d", len(all), len(entries))
	}
	for i := 0; i < len(all); i += 97 {
		e, err := x.Lookup(all[i].Path)
		if err != nil || e.Path != all[i].Path || e.Content != all[i].Content {
			t.Fatalf("Lookup(%q) = %+v, %v", all[i].Path, e, err)
		}
		if _, err := x.Lookup(all[i].Path + "-not"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Lookup of what is not there: %v", err)
		}
	}
	n := 0
	for e, err := range x.Under("dir137") {
		if err != nil || !diff.Within([]byte(e.Path), "dir137") {
			t.Fatal(e, err)
		}
		n++
	}
	if n != 101 {
		t.Errorf("%d entries below a directory of 100", n)
	}
	// A cursor finds the same by seeking as by going, from wherever it stands.
	c := x.Cursor()
	for i := 0; i < len(all); i += 1 + i%700 {
		if !c.Seek(all[i].Path) || string(c.Path()) != all[i].Path {
			t.Fatalf("seek %q: at %q, %v", all[i].Path, c.Path(), c.Err())
		}
		if e, err := c.Entry(); err != nil || e.Size != all[i].Size {
			t.Fatalf("seek %q: %+v, %v", all[i].Path, e, err)
		}
	}
	if c.Seek("zzz") || c.Err() != nil || c.Next() {
		t.Error("a cursor goes on behind the end")
	}
}

// A search reads blocks as a binary search does: not all of them, and the damage of one that it need not read is not seen.
func TestIndexSearchReadsLittle(t *testing.T) {
	dir := writeEntries(t, manyEntries(100000, "dir"))
	name := filepath.Join(dir, "index")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(name)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := x.table()
	if err != nil || len(blocks) < 50 {
		t.Fatal(len(blocks), err)
	}
	readable := 0
	for i := range blocks {
		damaged := slices.Clone(b)
		damaged[blocks[i].at+blockHeader+7] ^= 1
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		y, err := OpenIndex(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := y.Lookup("dir500/file-of-some-length-50007"); err == nil {
			readable++
		} else if !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		y.Close()
	}
	if most := len(blocks) - 9; readable < most {
		t.Errorf("a search reads %d of %d blocks", len(blocks)-readable, len(blocks))
	}
}

func BenchmarkMerge(b *testing.B) {
	var indexes []*Index
	for i := range 10 {
		x, err := OpenIndex(filepath.Join(writeEntries(b, manyEntries(2000, fmt.Sprintf("dir%d-", i))), "index"))
		if err != nil {
			b.Fatal(err)
		}
		indexes = append(indexes, x)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range Merge(indexes) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 20201 {
			b.Fatal(n)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	name := filepath.Join(writeEntries(b, manyEntries(100000, "dir")), "index")
	for b.Loop() {
		x, err := OpenIndex(name)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := x.Lookup("dir500/file-of-some-length-50007"); err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}
