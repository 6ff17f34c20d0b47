package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// changes is what a container does to the rich tree: every kind of mark, in odd places.
const changes = `
rm etc/file usr/fifo; rm -r var/empty; rm -r usr/bin; mkdir usr/bin; echo new > usr/bin/new; ln usr/bin/new usr/bin/again; ln usr/bin/new etc/new
echo more >> big; chmod 1777 etc; rm "$(printf 'odd names/\377\376')"; rm -r n*; rm longlink; ln -s big longlink
truncate -s 5M holes; setfattr -n user.a -v b sparse; touch -- -first '!first' ; rm sparse; mkdir sparse; mkfifo sparse/pipe
setfacl -m u:99:r etc/new 2>/dev/null || true; mv etc cte
`

// upper mounts an overlay over a tree, changes it, and returns the upper.
func upper(t *testing.T, lower, script string) string {
	t.Helper()
	dir := t.TempDir()
	sh(t, dir, "mkdir up work merged; mount -t overlay -o index=off,redirect_dir=nofollow,metacopy=off,xino=auto,lowerdir="+lower+",upperdir=up,workdir=work overlay merged")
	merged := filepath.Join(dir, "merged")
	defer unix.Unmount(merged, unix.MNT_DETACH)
	sh(t, merged, script)
	return filepath.Join(dir, "up")
}

func described(t *testing.T, fs string) (string, Result) {
	t.Helper()
	dir := t.TempDir()
	res, err := Describe(context.Background(), openDir1(t, fs), openDir1(t, dir), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fs, filepath.Join(dir, "fs")); err != nil {
		t.Fatal(err)
	}
	return dir, res
}

func packed(t *testing.T, tree string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(context.Background(), openDir1(t, filepath.Join(tree, "fs")), &b, PackOptions{Marks: true}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// What Describe makes of an upper is what Apply makes of its tar: the same index, the same needs, the same tree. And the tar comes out of
// either, and of the index of a damaged one.
func TestDescribedUpperIsTheLayer(t *testing.T) {
	lower := t.TempDir()
	sh(t, lower, rich)
	tree, res := described(t, upper(t, lower, changes))
	tar := packed(t, tree)
	if got := digestOf(tar); got != res.DiffID || int64(len(tar)) != res.TarSize {
		t.Errorf("packed again: %s of %d bytes, described as %s of %d", got, len(tar), res.DiffID, res.TarSize)
	}
	again, applied := apply(t, bytes.NewReader(tar))
	if applied != res {
		t.Errorf("described as %+v, unpacked as %+v", res, applied)
	}
	if res.Needs == 0 || res.Left != 0 {
		t.Errorf("an upper with whiteouts: %+v", res)
	}
	if !bytes.Equal(packed(t, again), tar) {
		t.Error("the tar of the tar's tree is another")
	}
	for _, name := range []string{"index", "needs"} {
		if a, b := read(t, filepath.Join(tree, name)), read(t, filepath.Join(again, name)); a != b {
			t.Errorf("%s differs:\n%q\n%q", name, a, b)
		}
	}
	for _, dir := range []string{tree, again} {
		if _, err := Verify(context.Background(), dir, VerifyOptions{Content: true}, func(path, problem string) { t.Errorf("%s: %s", path, problem) }); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, tree, "chmod 0 fs/cte; rm fs/usr/bin/again fs/usr/fifo; setfattr -x trusted.overlay.opaque fs/usr/bin")
	var b bytes.Buffer
	if err := Salvage(context.Background(), tree, &b); err != nil || !bytes.Equal(b.Bytes(), tar) {
		t.Errorf("salvaged: %v, %s", err, digestOf(b.Bytes()))
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A mark says nothing but its name, whatever that is.
func TestMarks(t *testing.T) {
	lower := t.TempDir()
	long := strings.Repeat("w", 255)
	sh(t, lower, "mkdir d e; touch d/zz d/!a e/x "+long)
	up := upper(t, lower, "rm d/zz d/!a "+long+"; touch d/!b d/zzz; rm -r e; mkdir e; touch e/!; touch -d 2020-01-01 . d d/* e e/*")
	tree, _ := described(t, up)
	b := packed(t, tree)
	got := sh(t, t.TempDir(), "tar -tf "+tarFile(t, b))
	want := "./\nd/\nd/.wh.!a\nd/!b\nd/.wh.zz\nd/zzz\ne/\ne/.wh..wh..opq\ne/!\n.wh." + long + "\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again, _ := apply(t, bytes.NewReader(b)); !bytes.Equal(packed(t, again), b) {
		t.Error("unpacked, it is another layer")
	}
	if got := sh(t, t.TempDir(), "tar --full-time --numeric-owner -tvf "+tarFile(t, b)+" d/.wh.zz"); got != "---------- 0/0               0 1970-01-01 00:00:00 d/.wh.zz\n" {
		t.Errorf("a whiteout is %q", got)
	}
}

func tarFile(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Sockets, and the marks of an overlay inside a container, are in no layer, and stay where they are.
func TestDescribeCountsWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "mkdir d; setfattr -n trusted.overlay.overlay.opaque -v y d; setfattr -n trusted.overlay.origin -v x d; echo f > f; setfattr -n trusted.overlay.origin -v x f")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")})
		unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	var warned []string
	res, err := Describe(context.Background(), openDir1(t, dir), openDir1(t, t.TempDir()), func(s string) { warned = append(warned, s) })
	if err != nil || res.Left != 2 || len(warned) != 1 {
		t.Errorf("%v: %+v, warned of %q", err, res, warned)
	}
	if got := sh(t, dir, "getfattr -m trusted -d d f; ls"); strings.Contains(got, "overlay.origin") || !strings.Contains(got, "overlay.overlay.opaque") || !strings.Contains(got, "socket") {
		t.Errorf("there are %s", got)
	}
}

// A tree that changes while it is read is no layer.
func TestDescribeRefuses(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "touch .wh.file")
	if _, err := Describe(context.Background(), openDir1(t, dir), openDir1(t, t.TempDir()), nil); err == nil || !strings.Contains(err.Error(), `".wh.file": a name beginning`) {
		t.Errorf("a name that means a deletion: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Describe(ctx, openDir1(t, dir), openDir1(t, t.TempDir()), nil); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkDescribe(b *testing.B) {
	dir := b.TempDir()
	sh(b, dir, "head -c 300000000 /dev/urandom > large; mkdir d; cd d; for i in $(seq 3000); do echo $i > $i; done")
	fs, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer fs.Close()
	out, err := os.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	b.SetBytes(300_000_000)
	for b.Loop() {
		if _, err := Describe(context.Background(), fs, out, nil); err != nil {
			b.Fatal(err)
		}
	}
}
