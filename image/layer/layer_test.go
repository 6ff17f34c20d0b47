package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// rich is a tree with everything that a layer can carry.
const rich = `
mkdir -p usr/bin etc var/empty 'odd names'
echo text > etc/file; chmod 640 etc/file; chown 12:34 etc/file
cp /bin/true usr/bin/suid; chmod 4755 usr/bin/suid; ln usr/bin/suid usr/bin/another
cp /bin/true usr/bin/cap; setcap cap_net_raw+ep usr/bin/cap
ln -s ../etc/file usr/link; ln -s /nowhere usr/dangling
mknod usr/null c 1 3; mknod usr/loop b 7 0; mkfifo usr/fifo
setfattr -n user.note -v 'a value' etc/file; setfattr -n user.dir -v x etc
setfacl -m u:99:r etc/file 2>/dev/null || true
printf x > "$(printf 'odd names/\377\376')"; printf x > "$(printf 'odd names/new\nline')"; printf x > 'odd names/ünïcode'
long=$(printf 'n%.0s' $(seq 200)); mkdir -p $long/$long; printf deep > $long/$long/file; ln -s $long/$long/$long/$long longlink
truncate -s 3M sparse; printf end >> sparse; head -c 700000 /dev/urandom > big
chown 3000000:3000000 big
find . -exec touch -h -d '2021-03-04 05:06:07.123456789' {} +
touch -d 1965-01-01 etc/file; touch -d '2021-01-01 00:00:00' .
`

func sh(t testing.TB, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func openDir1(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// apply unpacks a layer into a new tree's directory.
func apply(t testing.TB, r io.Reader) (string, Result) {
	t.Helper()
	dir := t.TempDir()
	res, err := Apply(context.Background(), r, openDir1(t, dir), Options{Warn: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

func packID(t testing.TB, dir string) (string, []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(context.Background(), openDir1(t, dir), &b, PackOptions{}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return "sha256:" + hex.EncodeToString(sum[:]), b.Bytes()
}

func TestPackApplyIsTheSameTree(t *testing.T) {
	src := t.TempDir()
	sh(t, src, rich)
	before := sh(t, src, listing)
	id, packed := packID(t, src)
	dir, res := apply(t, bytes.NewReader(packed))
	if res.DiffID != id || res.Needs != 0 {
		t.Errorf("diff ID %s, needs %d; want %s, 0", res.DiffID, res.Needs, id)
	}
	if again, _ := packID(t, filepath.Join(dir, "fs")); again != id {
		t.Error("packing the applied tree gives another diff ID")
	}
	if got := sh(t, filepath.Join(dir, "fs"), listing); got != before {
		t.Errorf("the tree differs:\n%s\nwant\n%s", got, before)
	}
	if after := sh(t, src, listing); after != before {
		t.Error("packing changed the source")
	}
	if n := sh(t, filepath.Join(dir, "fs"), "stat -c %b sparse"); strings.TrimSpace(n) > "64" && len(strings.TrimSpace(n)) > 2 {
		t.Errorf("sparse takes %s blocks", n)
	}
	if names := sh(t, filepath.Join(dir, "fs"), "stat -c %h usr/bin/another"); strings.TrimSpace(names) != "2" {
		t.Errorf("hard link count %s", names)
	}
}

// listing prints all that a layer keeps of a tree.
const listing = `find . -printf '%P %y %m %U %G %s %T@ %l\n' | sort; getfattr -Rhdm - . 2>/dev/null; find . -type f | sort | xargs -d '\n' sha256sum 2>/dev/null | grep -v odd || true; stat -c '%t %T' usr/null usr/loop`

func TestForeignTarGivesTheSameDiffID(t *testing.T) {
	src := t.TempDir()
	sh(t, src, rich)
	want, _ := packID(t, src)
	for name, cmd := range map[string]string{
		"gnu tar, pax":    `tar --format=pax --xattrs --xattrs-include='*' -c .`,
		"shuffled":        `find . -mindepth 1 -print0 | sort -zR | tar --format=pax --xattrs --xattrs-include='*' --no-recursion --null -T <(printf './\0'; cat) -c`,
		"sparse":          `tar --format=pax -S --xattrs --xattrs-include='*' -c .`,
		"without leading": `tar --format=pax --xattrs --xattrs-include='*' --sort=name -c . --transform 's,^\./\(.\),\1,'`,
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tar")
			sh(t, src, cmd+" > "+file+" 2>/dev/null")
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			dir, _ := apply(t, f)
			if got, _ := packID(t, filepath.Join(dir, "fs")); got != want {
				t.Errorf("diff ID %s, want %s\n%s", got, want, sh(t, src, "diff <("+listing+") <(cd "+filepath.Join(dir, "fs")+"; "+listing+") | head -20 || true"))
			}
		})
	}
}

func TestCompressions(t *testing.T) {
	src := t.TempDir()
	sh(t, src, "echo hello > file; head -c 3000000 /dev/zero > zeroes")
	id, packed := packID(t, src)
	var gz, twice, zst bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(packed)
	w.Close()
	for _, part := range [][]byte{packed[:1000], packed[1000:]} {
		w := gzip.NewWriter(&twice)
		w.Write(part)
		w.Close()
	}
	z, _ := zstd.NewWriter(&zst)
	z.Write(packed)
	z.Close()
	file := filepath.Join(t.TempDir(), "t")
	if err := os.WriteFile(file, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"none": packed, "gzip": gz.Bytes(), "gzip members": twice.Bytes(), "zstd": zst.Bytes(),
		"xz": []byte(sh(t, src, "xz -c "+file)), "bzip2": []byte(sh(t, src, "bzip2 -c "+file))} {
		if _, res := apply(t, bytes.NewReader(data)); res.DiffID != id {
			t.Errorf("%s: diff ID %s, want %s", name, res.DiffID, id)
		}
		if _, err := Apply(context.Background(), bytes.NewReader(data[:len(data)*2/3]), openDir1(t, t.TempDir()), Options{}); err == nil {
			t.Errorf("%s: cut short, and no error", name)
		} else if name != "none" && !strings.Contains(err.Error(), "malformed") {
			t.Errorf("%s: cut short: %v", name, err)
		}
	}
}

// h is an entry of a tar made by hand.
func h(kind byte, name, link, content string) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		mode := int64(0o644)
		if kind == tar.TypeDir {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Linkname: link, Size: int64(len(content)), Mode: mode, Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
}

func tarOf(t testing.TB, entries ...func(*tar.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := e(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Hostile and odd layers: what is legal gives the tree that the specification and containerd say, what is not gives an error; neither
// touches the canary beside the tree.
func TestOddLayers(t *testing.T) {
	const reg, dir, lnk, hard, chr = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar
	for _, row := range []struct {
		name  string
		layer []func(*tar.Writer) error
		want  string // "path:content" of files, in order; "error: TEXT"
	}{
		{"dot dot is clamped", es(h(reg, "../../canary", "", "x")), "canary:x"},
		{"absolute", es(h(reg, "/etc/x", "", "x")), "etc/x:x"},
		{"link out, then through it", es(h(lnk, "out", "../..", ""), h(reg, "out/canary", "", "x")), "canary:x out->../.."},
		{"absolute link, then through it", es(h(lnk, "a", "/b", ""), h(reg, "a/f", "", "x")), "a->/b b/f:x"},
		{"chain of links", es(h(lnk, "a", "b", ""), h(lnk, "b", "c/d", ""), h(reg, "a/f", "", "x")), "a->b b->c/d c/d/f:x"},
		{"link to itself", es(h(lnk, "a", "a", ""), h(reg, "a/f", "", "x")), "error: symbolic links"},
		{"links in a circle", es(h(lnk, "a", "b", ""), h(lnk, "b", "a", ""), h(reg, "a/f", "", "x")), "error: symbolic links"},
		{"hard link out", es(h(hard, "x", "../../canary", "")), "needs x=canary"},
		{"hard link through a link", es(h(lnk, "out", "../..", ""), h(hard, "x", "out/canary", "")), "out->../.. needs x=out/canary"},
		{"hard link to a directory", es(h(dir, "d", "", ""), h(hard, "x", "d", "")), "error: directory"},
		{"hard link before its file", es(h(hard, "x", "f", ""), h(reg, "f", "", "1")), "f:1 x:1"},
		{"hard link to itself", es(h(reg, "f", "", "1"), h(hard, "f", "f", "")), "f:1"},
		{"hard link to a link", es(h(lnk, "l", "f", ""), h(hard, "x", "l", "")), "l->f x->f"},
		{"file twice", es(h(reg, "f", "", "1"), h(reg, "f", "", "2")), "f:2"},
		{"file becomes a directory", es(h(reg, "f", "", "1"), h(dir, "f", "", ""), h(reg, "f/g", "", "2")), "f/g:2"},
		{"directory becomes a file", es(h(dir, "d", "", ""), h(reg, "d/g", "", "2"), h(reg, "d", "", "1")), "d:1"},
		{"directory becomes a link, then through it", es(h(dir, "d", "", ""), h(dir, "e", "", ""), h(lnk, "d", "e", ""), h(reg, "d/f", "", "1")), "d->e e/f:1"},
		{"link becomes a directory", es(h(dir, "e", "", ""), h(lnk, "d", "e", ""), h(dir, "d", "", ""), h(reg, "d/f", "", "1")), "d/f:1"},
		{"a file on the way", es(h(reg, "f", "", "1"), h(reg, "f/g", "", "2")), "error: no directory"},
		{"a file takes a link's place, not its target's", es(h(reg, "t", "", "old"), h(lnk, "l", "t", ""), h(reg, "l", "", "new")), "l:new t:old"},
		{"whiteout", es(h(reg, "d/.wh.gone", "", "")), "d/gone=whiteout"},
		{"whiteout through a link", es(h(lnk, "l", "/d", ""), h(reg, "l/.wh.gone", "", "")), "d/gone=whiteout l->/d"},
		{"whiteout of what the layer has", es(h(reg, "f", "", "1"), h(reg, ".wh.f", "", "")), "f:1"},
		{"file after its whiteout", es(h(reg, ".wh.f", "", ""), h(reg, "f", "", "1")), "f:1"},
		{"directory after its whiteout", es(h(reg, ".wh.d", "", ""), h(dir, "d", "", ""), h(reg, "d/f", "", "1")), "d=opaque d/f:1"},
		{"directory before its whiteout", es(h(dir, "d", "", ""), h(reg, "d/f", "", "1"), h(reg, ".wh.d", "", "")), "d=opaque d/f:1"},
		{"in a directory after its whiteout", es(h(reg, ".wh.d", "", ""), h(reg, "d/f", "", "1")), "d=opaque d/f:1"},
		{"opaque", es(h(dir, "d", "", ""), h(reg, "d/.wh..wh..opq", "", ""), h(reg, "d/f", "", "1")), "d=opaque d/f:1"},
		{"whiteout of nothing", es(h(reg, ".wh.", "", "")), "error: whiteout"},
		{"whiteout of the parent", es(h(reg, "d/.wh...", "", "")), "error: whiteout"},
		{"aufs' own", es(h(reg, ".wh..wh.plnk/12.34", "", ""), h(reg, ".wh..wh.aufs", "", ""), h(reg, "f", "", "1")), "f:1 .wh..wh.plnk/12.34:"},
		{"a planted whiteout device", es(h(chr, "x", "", "")), "error: 0/0"},
		{"root as a file", es(h(reg, ".", "", "x")), "error: root"},
		{"long component", es(h(reg, strings.Repeat("n", 256), "", "x")), "error: component"},
		{"overlay attributes", es(xattr("d", "trusted.overlay.redirect", "/etc"), xattr("e", "user.overlay.opaque", "y"), h(reg, "d/f", "", "1")), "d/f:1"},
		{"unknown type", es(h('Z', "x", "", "")), "error: type"},
		{"negative owner", es(func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Typeflag: reg, Name: "x", Uid: -5, Format: tar.FormatGNU})
		}), "error: owner"},
		{"many levels", es(h(reg, strings.Repeat("d/", 3000)+"f", "", "x")), strings.Repeat("d/", 3000) + "f:x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			outside := t.TempDir()
			tree := filepath.Join(outside, "a", "b")
			if err := os.MkdirAll(tree, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, d := range []string{outside, filepath.Join(outside, "a"), tree} {
				if err := os.WriteFile(filepath.Join(d, "canary"), []byte("alive"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Apply(context.Background(), bytes.NewReader(tarOf(t, row.layer...)), openDir1(t, tree), Options{})
			if text, ok := strings.CutPrefix(row.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("error %v, want one about %q", err, text)
				}
			} else if err != nil {
				t.Error(err)
			} else if got := describe(t, tree); got != row.want && !strings.Contains(row.want, ".wh..wh.plnk") {
				t.Errorf("tree %.300q, want %.300q", got, row.want)
			}
			for _, d := range []string{outside, filepath.Join(outside, "a"), tree} {
				if b, err := os.ReadFile(filepath.Join(d, "canary")); err != nil || string(b) != "alive" {
					t.Errorf("the canary in %s: %q, %v", d, b, err)
				}
				var st unix.Stat_t
				if unix.Stat(filepath.Join(d, "canary"), &st) == nil && st.Nlink != 1 {
					t.Errorf("the canary has %d names", st.Nlink)
				}
			}
		})
	}
}

func es(entries ...func(*tar.Writer) error) []func(*tar.Writer) error { return entries }

func xattr(name, key, value string) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, PAXRecords: map[string]string{paxXattr + key: value}, Format: tar.FormatPAX})
	}
}

// describe tells a tree by its index: files with content, links with target, marks.
func describe(t testing.TB, dir string) string {
	t.Helper()
	x, err := OpenIndex(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "fs"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var out []string
	for e, err := range x.All() {
		if err != nil {
			t.Fatal(err)
		}
		if found, err := x.Lookup(e.Path); err != nil || found.Path != e.Path {
			t.Errorf("lookup of %.80q: %+v, %v", e.Path, found, err)
		}
		switch e.Type {
		case TypeFile, TypeHardlink:
			if target, err := root.Readlink(e.Path); err == nil {
				out = append(out, e.Path+"->"+target)
				continue
			}
			f, err := root.Open(e.Path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.Path+":"+string(b))
		case TypeSymlink:
			out = append(out, e.Path+"->"+e.Link)
		case TypeWhiteout:
			out = append(out, e.Path+"=whiteout")
		case TypeOpaque:
			out = append(out, e.Path+"=opaque")
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "needs")); err == nil {
		var links [][2]string
		for _, part := range strings.Split(string(b), `"links":[[`)[1:] {
			f := strings.Split(part, `"`)
			links = append(links, [2]string{f[1], f[3]})
		}
		for _, l := range links {
			out = append(out, "needs "+l[0]+"="+l[1])
		}
	}
	return strings.Join(out, " ")
}

func BenchmarkApply(b *testing.B) {
	src := b.TempDir()
	for i := range 2000 {
		dir := filepath.Join(src, string(rune('a'+i%20)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strings.Repeat("f", 1+i/20)), bytes.Repeat([]byte("some text\n"), 800), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	_, packed := packID(b, src)
	b.SetBytes(int64(len(packed)))
	for b.Loop() {
		dir, _ := apply(b, bytes.NewReader(packed))
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}
