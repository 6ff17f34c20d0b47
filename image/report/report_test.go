package report

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/packages"
	"github.com/layerctl/layerctl/image/waste"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// fake is a layer of files: their sizes by path, -1 for a whiteout.
type fake []layer.Entry

func layerOf(files map[string]int64) diff.Layer {
	all := map[string]layer.Entry{".": {Path: ".", Type: layer.TypeDir}}
	for p, size := range files {
		e := layer.Entry{Path: p, Type: layer.TypeFile, Size: size}
		if size < 0 {
			e = layer.Entry{Path: p, Type: layer.TypeWhiteout}
		}
		copy(e.Content[:], fmt.Sprintf("%016x", size))
		all[p] = e
		for _, d := range diff.Parents(p) {
			all[d] = layer.Entry{Path: d, Type: layer.TypeDir}
		}
	}
	var f fake
	for _, e := range all {
		f = append(f, e)
	}
	slices.SortFunc(f, func(a, b layer.Entry) int { return diff.ComparePaths(a.Path, b.Path) })
	return f
}

func (f fake) Cursor() diff.Cursor                { return &cursor{f, -1} }
func (f fake) Open(path string) (*os.File, error) { return nil, fs.ErrNotExist }
func (f fake) ID() string                         { return "" }

type cursor struct {
	f  fake
	at int
}

func (c *cursor) Next() bool                  { c.at++; return c.at < len(c.f) }
func (c *cursor) Path() []byte                { return []byte(c.f[c.at].Path) }
func (c *cursor) Type() byte                  { return c.f[c.at].Type }
func (c *cursor) Entry() (layer.Entry, error) { return c.f[c.at], nil }
func (c *cursor) Err() error                  { return nil }
func (c *cursor) Close()                      {}
func (c *cursor) Seek(string) bool            { panic("nobody seeks") }

// reportOf is the report of layers that were made by commands.
func reportOf(t testing.TB, commands []string, layers ...diff.Layer) *Report {
	r := &Report{Name: "app:1", ID: "sha256:0123456789abcdef0123456789abcdef", Platform: "linux/amd64", Created: time.Unix(1767225600, 0), Tree: &Tree{}}
	for _, c := range commands {
		r.Layers = append(r.Layers, Layer{DiffID: "sha256:fedcba9876543210", CreatedBy: c})
	}
	var err error
	if r.Analysis, err = waste.Analyse(layers, r.Tree.Add); err != nil {
		t.Fatal(err)
	}
	return r
}

func pageOf(t testing.TB, r *Report) string {
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// example is an image with everything that a page shows.
func example(t testing.TB) *Report {
	r := reportOf(t, []string{"COPY rootfs /", "RUN apt-get update && apt-get install -y python3", "ADD file:1 in /srv", "RUN chown -R app /srv # buildkit\n\n\tsecond line"},
		layerOf(map[string]int64{"usr/bin/bash": 800_000, "usr/lib/libc.so": 1_900_000, "etc/passwd": 1000, "usr/share/doc/a/copyright": 30_000}),
		layerOf(map[string]int64{"usr/bin/python3": 1_200_000, "usr/share/doc/b/copyright": 30_000, "var/lib/apt/lists/main": 640_000, "etc/passwd": 1100}),
		layerOf(map[string]int64{"srv/app/model.bin": 400_000, "srv/app/app.py": 20_000, "tmp/x": 5000}),
		layerOf(map[string]int64{"srv/app/model.bin": 400_000, "srv/app/app.py": 20_000, "var/lib/apt/lists/main": -1}))
	r.Packages = []packages.Package{{Manager: packages.Dpkg, Name: "bash", Version: "5.2-1", Arch: "amd64", Size: 7_300_000}, {Manager: packages.Dpkg, Name: "python3", Version: "3.11~rc1", Arch: "all", Layer: 1},
		{Manager: packages.Dpkg, Name: "zlib1g", Version: "1:1.2", Arch: "amd64", Size: 100, Layer: -1}}
	return r
}

func TestPageIsTheSame(t *testing.T) {
	first := pageOf(t, example(t))
	for range 5 {
		if pageOf(t, example(t)) != first {
			t.Fatal("the same image gives another page")
		}
	}
	for _, want := range []string{"<title>app:1 – layerctl report</title>", "RUN apt-get update &amp;&amp; apt-get install -y python3", "ADD file:1 in /srv", "3.11~rc1", "/var/lib/apt/lists/", "created 1 January 2026",
		`<span class="chip" data-kind="rewritten">`, "3 installed, by dpkg"} {
		if !strings.Contains(first, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	if strings.Contains(first, "ZgotmplZ") {
		t.Error("the template's engine has replaced a value")
	}
}

func TestPageOfNothing(t *testing.T) {
	r := reportOf(t, []string{""}, layerOf(nil))
	r.Digest, r.PackagesError = "sha256:00", errors.New("rpmdb.sqlite: <broken>")
	for _, want := range []string{"Nothing in this image is carried for nothing", "No database of dpkg", "&lt;broken&gt;", "100.0%"} {
		if p := pageOf(t, r); !strings.Contains(p, want) {
			t.Errorf("the page does not say %s", want)
		}
		r = reportOf(t, []string{""}, layerOf(nil))
		r.PackagesError = errors.New("rpmdb.sqlite: <broken>")
	}
}

// A million bytes or two, whatever the image.
func TestPageIsBounded(t *testing.T) {
	files := map[string]int64{}
	for i := range 100_000 {
		files[fmt.Sprintf("usr/share/d%03d/%s-%d", i%500, strings.Repeat("<long>", 20), i)] = int64(i%1000) + 1
	}
	over := map[string]int64{}
	for i := range 3000 {
		over[fmt.Sprintf("usr/share/d%03d/%s-%d", i%500, strings.Repeat("<long>", 20), i)] = 5
	}
	command := "RUN " + strings.Repeat("echo '<&>' ", 10_000)
	r := reportOf(t, []string{command, command}, layerOf(files), layerOf(over))
	for i := range 5000 {
		r.Packages = append(r.Packages, packages.Package{Manager: packages.RPM, Name: fmt.Sprint("a-package-with-some-name-", i), Version: "1.2.3-4.el9", Arch: "x86_64"})
	}
	start := time.Now()
	p := pageOf(t, r)
	t.Logf("%d bytes in %v", len(p), time.Since(start))
	if len(p) > 2_000_000 {
		t.Errorf("the page has %d bytes", len(p))
	}
	for _, want := range []string{"small files, of ", "And 3,000 more", "smaller ones"} {
		if !strings.Contains(p, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// The tree loses no byte and no file by summing them.
func TestPrune(t *testing.T) {
	for _, nodes := range []int{0, 1, 3, 5, 8, 13, 100} {
		r := example(t)
		r.Tree.mark(r.Analysis.Items)
		summed, size := r.Tree.prune(nodes, maxNames)
		files, bytes := total(r.Tree.root.json(map[waste.Kind]int{waste.Deleted: 1}))
		if files != r.Analysis.Files || bytes != r.Analysis.Bytes {
			t.Errorf("%d nodes: %d files of %d bytes, want %d of %d", nodes, files, bytes, r.Analysis.Files, r.Analysis.Bytes)
		}
		if (summed == 0) != (nodes == 100) || (size == 0) != (nodes == 100) {
			t.Errorf("%d nodes: %d files summed, %d bytes", nodes, summed, size)
		}
	}
}

func total(node []any) (files int, bytes int64) {
	kids, dir := node[1].([]any)
	if !dir {
		return 1, node[1].(int64)
	}
	for _, k := range kids {
		f, b := total(k.([]any))
		files, bytes = files+f, bytes+b
	}
	if len(node) > 2 {
		files, bytes = files+node[2].(int), bytes+node[3].(int64)
	}
	return files, bytes
}

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{"plain ü 漢": "plain ü 漢", "a\x1b[31m": `a\u001b[31m`, "\xff\xfe": `\xff\xfe`, "a\u202eb": `a\u202eb`, "line\nend": `line\u000aend`, "\u2028": `\u2028`, "\ufffd": "\ufffd", "nbsp\u00a0": `nbsp\u00a0`} {
		if got := Visible(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
