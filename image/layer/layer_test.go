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
	// Whatever was unpacked is as its index says, or check would call every store damaged that has such a layer.
	if got := verify(t, dir, true); got != "" {
		t.Errorf("the tree is not as its index says:\n%s", got)
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

func es(entries ...func(*tar.Writer) error) []func(*tar.Writer) error { return entries }

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
