package layer

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// copied copies a tree and describes the copy.
func copied(t *testing.T, fs string, opt CopyOptions) (string, Result) {
	t.Helper()
	dir := t.TempDir()
	if err := Copy(context.Background(), openDir1(t, fs), openDir1(t, dir), opt); err != nil {
		t.Fatal(err)
	}
	res, err := Describe(context.Background(), openDir1(t, filepath.Join(dir, "fs")), openDir1(t, dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

// A copy is the same layer as what it is a copy of, takes no more room, and leaves that as it was.
func TestCopyIsTheSameLayer(t *testing.T) {
	lower := t.TempDir()
	sh(t, lower, rich)
	for what, fs := range map[string]string{"a root": lower, "an upper": upper(t, lower, changes+"truncate -s 100M hole; printf x | dd of=hole bs=1 seek=50M conv=notrunc status=none")} {
		dir, got := copied(t, fs, CopyOptions{})
		used := func(dir string) string {
			return sh(t, dir, "du -s --apparent-size . ; du -s . | awk '{print int($1/100)}'")
		}
		if a, b := used(fs), used(filepath.Join(dir, "fs")); a != b {
			t.Errorf("%s: takes %s, its copy %s", what, a, b)
		}
		if _, want := described(t, fs); got != want {
			t.Errorf("%s: is the layer %+v, its copy %+v", what, want, got)
		}
	}
}

func TestCopyBoundsTimesAndLeavesSockets(t *testing.T) {
	fs := t.TempDir()
	sh(t, fs, "mkdir d; touch -d 2030-01-01 d/later d; touch -d 2020-01-01 d/earlier; touch -d 2030-01-01 d")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(fs, "socket")})
		unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	var warned []string
	dir, _ := copied(t, fs, CopyOptions{NotAfter: time.Unix(1700000000, 0), Warn: func(s string) { warned = append(warned, s) }})
	if got := sh(t, filepath.Join(dir, "fs"), "stat -c '%n %Y' d d/*; ls"); got != "d 1700000000\nd/earlier 1577836800\nd/later 1700000000\nd\n" {
		t.Errorf("there are %s", got)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "socket") {
		t.Errorf("warned of %q", warned)
	}
}

// What a container in a user namespace wrote is the host's ids in its upper, and the container's in the layer.
func TestCopyTranslatesIDs(t *testing.T) {
	fs := t.TempDir()
	sh(t, fs, `mkdir d; echo f > f; echo g > g; ln f h; ln -s f l; chown -h 100000:100000 d f l; chown 101000:100050 g; chown 100000:100000 .
setfacl -m u:100033:rw,g:100044:r f; setfacl -d -m u:100033:rwx d
python3 - <<'P'
import os, struct
cap = lambda root: struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, root)
os.setxattr("g", "security.capability", cap(100000))
P`)
	ids := &IDs{UID: []IDRange{{0, 100000, 65536}}, GID: []IDRange{{0, 100000, 65536}}}
	dir, _ := copied(t, fs, CopyOptions{IDs: ids})
	got := sh(t, filepath.Join(dir, "fs"), "stat -c '%n %u:%g %h' . *; getfacl -ncp f d | grep :.*:; getcap g; getfattr -n security.capability -e hex --only-values g | wc -c")
	want := ". 0:0 3\nd 0:0 2\nf 0:0 2\ng 1000:50 1\nh 0:0 2\nl 0:0 1\n"
	for _, part := range []string{want, "user:33:rw-\n", "group:44:r--\n", "default:user:33:rwx\n", "g cap_net_raw=ep\n", "20\n"} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in\n%s", part, got)
		}
	}
	for what, script := range map[string]string{"an owner": "chown 5:100000 f", "an ACL": "chown 100000:100000 f; setfacl -m u:7:r f"} {
		sh(t, fs, script)
		err := Copy(context.Background(), openDir1(t, fs), openDir1(t, t.TempDir()), CopyOptions{IDs: ids})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), `copy "f": `) {
			t.Errorf("%s that is not the container's: %v", what, err)
		}
	}
}

func TestCapabilityOfAnotherRoot(t *testing.T) {
	ids := &IDs{UID: []IDRange{{5, 100000, 10}}}
	for _, row := range [][2]string{
		{"0100000300200000000000000000000000000000a1860100", "010000030020000000000000000000000000000006000000"}, // not root's in the layer
		{"0100000200200000000000000000000000000000", "0100000200200000000000000000000000000000"},                 // of the host's root: from an image
		{"01000003002000000000000000000000000000000a000000", ""},
	} {
		b, err := hex.DecodeString(row[0])
		if err != nil {
			t.Fatal(err)
		}
		got, err := ids.capability(string(b))
		if hex.EncodeToString([]byte(got)) != row[1] || (err != nil) != (row[1] == "") {
			t.Errorf("%s becomes %x, %v", row[0], got, err)
		}
	}
}

// Somebody makes, grows, cuts, replaces and removes files all the time: the copy is a tree whose description is its own.
func TestCopyWhileItIsWritten(t *testing.T) {
	fs := t.TempDir()
	sh(t, fs, "mkdir a b; for i in $(seq 200); do head -c $((i*700)) /dev/urandom > a/$i; done; truncate -s 10M sparse")
	stop := make(chan bool)
	var busy sync.WaitGroup
	busy.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(fs, "a", []string{"1", "60", "100", "150", "200"}[i%5])
			switch i % 7 {
			case 0:
				os.WriteFile(name, make([]byte, i%200000), 0o644)
			case 1:
				os.Remove(name)
			case 2:
				os.Mkdir(name, 0o755)
			case 3:
				os.Symlink("x", name)
			case 4:
				os.Truncate(filepath.Join(fs, "sparse"), int64(i%20000000))
			case 5:
				os.Rename(filepath.Join(fs, "a", "7"), filepath.Join(fs, "b", "7"))
			case 6:
				os.Rename(filepath.Join(fs, "b", "7"), filepath.Join(fs, "a", "7"))
			}
		}
	})
	rounds := 20
	if underRace {
		rounds = 5
	}
	for range rounds {
		dir, res := copied(t, fs, CopyOptions{})
		if got := digestOf(packed(t, dir)); got != res.DiffID {
			t.Errorf("described as %s, it is %s", res.DiffID, got)
		}
	}
	close(stop)
	busy.Wait()
}

// Two names are exchanged again and again while the tree is copied, each of a file that has a second name: that name's content is what it
// always was.
func TestCopyOfLinksThatMove(t *testing.T) {
	dir := t.TempDir()
	name := func(n string) string { return filepath.Join(dir, n) }
	for _, n := range []string{"1", "2"} {
		if err := errors.Join(os.WriteFile(name("a"+n), []byte(n), 0o644), os.Link(name("a"+n), name("b"+n))); err != nil {
			t.Fatal(err)
		}
	}
	from, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, name("a1"), unix.AT_FDCWD, name("a2"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for try := range 1000 {
		to, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		err = Copy(context.Background(), from, to, CopyOptions{})
		if err != nil && strings.Contains(err.Error(), errChanged.Error()) {
			err = nil // it was never still
		} else if err == nil {
			for _, n := range []string{"1", "2"} {
				if got, rerr := os.ReadFile(filepath.Join(to.Name(), "fs/b"+n)); rerr != nil || string(got) != n {
					t.Errorf("copy %d: b%s is %q, %v", try, n, got, rerr)
				}
			}
		}
		to.Close()
		if err != nil {
			t.Errorf("copy %d: %v", try, err)
		}
		if t.Failed() {
			return
		}
	}
}
