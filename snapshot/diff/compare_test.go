package diff

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestComparePaths(t *testing.T) {
	order := []string{".", "-", "a", "a/x", "a/x/y", "a/x-", "a-", "a-/b", "ab", "b"}
	for i, a := range order {
		for j, b := range order {
			if got := ComparePaths(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("ComparePaths(%q, %q) = %d", a, b, got)
			}
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{"": ".", "/": ".", "/etc/": "etc", "./etc//x": "etc/x", "../../a/../b": "b", ".": "."} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// lines are the changes as text, with what differs.
func lines(t *testing.T, a, b *Stack, o Options) []string {
	t.Helper()
	var got []string
	for c, err := range Compare(context.Background(), a, b, o) {
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %s", c.Kind, c.Path)
		if c.From != "" {
			line += " from " + c.From
		}
		if n := c.Differs.Names(); len(n) > 0 {
			line += " " + strings.Join(n, ",")
		}
		got = append(got, line)
	}
	return got
}

// What a stack of layers shows is what the kernel's overlayfs shows, and comparing two stacks is comparing what is mounted.
func TestStackIsOverlay(t *testing.T) {
	dir := t.TempDir()
	layers := []string{
		"mkdir -p etc/sub var/log deep/a/b; echo 1 > etc/one; echo 2 > etc/two; echo 3 > etc/sub/three; ln -s one etc/link; echo x > deep/a/b/c; echo f > file; mkdir -p gone/x; echo g > gone/x/g; echo - > etc-; echo k > kept",
		"mkdir -p etc deep; echo two > etc/two; mknod file c 0 0; mknod gone c 0 0; mkdir -p deep/a; setfattr -n trusted.overlay.opaque -v y deep/a; echo n > deep/a/n; mkdir new; echo q > new/q",
		"mkdir file; echo in > file/in; mkdir -p etc; mknod etc/sub c 0 0; echo now > deep; mkdir gone; chmod 700 gone",
		"mkdir -p etc/sub new; echo again > etc/sub/again; mknod new/q c 0 0; mknod deep c 0 0; setfattr -n user.x -v y etc/sub; ln -s kept tokept",
	}
	var dirs []string
	for i, script := range layers {
		d := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		sh(t, d, script)
		sh(t, d, "find . -exec touch -h -d 2020-02-0"+fmt.Sprint(i+1)+" {} +")
		dirs = append(dirs, d)
	}
	var stacks, mounted []*Stack
	for n := 1; n <= len(dirs); n++ {
		var in []Layer
		var lower []string
		for i := range n {
			in = append(in, named{UpperLayer(dirs[i]), fmt.Sprint("layer", i)})
			lower = append([]string{dirs[i]}, lower...)
		}
		at := filepath.Join(dir, fmt.Sprint("merged", n))
		os.Mkdir(at, 0o755)
		os.Mkdir(filepath.Join(dir, "empty"), 0o755)
		if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(append(lower, filepath.Join(dir, "empty")), ":")); err != nil {
			t.Fatal("mount overlayfs: ", err)
		}
		defer unix.Unmount(at, unix.MNT_DETACH)
		stacks, mounted = append(stacks, NewStack(in...)), append(mounted, Dir(at))
	}
	for i := range stacks {
		if got := lines(t, mounted[i], stacks[i], Options{}); got != nil {
			t.Errorf("the stack of %d is not what is mounted: %q", i+1, got)
		}
		for j := range stacks {
			want := lines(t, mounted[i], mounted[j], Options{})
			if got := lines(t, stacks[i], stacks[j], Options{}); !slices.Equal(got, want) {
				t.Errorf("from %d to %d:\ngot  %q\nwant %q", i+1, j+1, got, want)
			}
			for _, path := range []string{"etc", "etc/sub", "deep/a", "file", "nowhere/x", "new/q"} {
				want := slices.DeleteFunc(slices.Clone(want), func(line string) bool { return !within(strings.Fields(line)[1][1:], path) })
				if got := lines(t, stacks[i], stacks[j], Options{Path: path}); !slices.Equal(got, want) {
					t.Errorf("from %d to %d in %s:\ngot  %q\nwant %q", i+1, j+1, path, got, want)
				}
			}
		}
		for f, err := range mounted[i].Merged() {
			if err != nil {
				t.Fatal(err)
			}
			if got, err := stacks[i].Lookup(f.Path); err != nil || got.Type != f.Type || got.Path != f.Path {
				t.Errorf("%d: Lookup(%q) = %+v, %v", i+1, f.Path, got, err)
			}
		}
		if _, err := stacks[i].Lookup("etc/nothing"); err == nil {
			t.Error("found what is not there")
		}
	}
}

type named struct {
	Layer
	id string
}

func (n named) ID() string { return n.id }

func TestCompareFields(t *testing.T) {
	for _, row := range []struct {
		name, do string
		o        Options
		want     []string
	}{
		{"nothing", "true", Options{}, nil},
		{"content of the same size", "echo x > etc/one; touch -d 2020-02-02 etc/one", Options{}, []string{"C /etc/one content"}},
		{"size", "echo xy > etc/one; touch -d 2020-02-02 etc/one", Options{}, []string{"C /etc/one content,size"}},
		{"mode and time", "chmod 600 etc/one; touch etc/one", Options{}, []string{"C /etc/one mode,mtime"}},
		{"no times", "chmod 600 etc/one; touch etc/one etc/two", Options{NoTimes: true}, []string{"C /etc/one mode"}},
		{"owner and attribute", "chown 1:2 etc/one; setfattr -n user.a -v b etc/two", Options{}, []string{"C /etc/one owner", "C /etc/two xattrs"}},
		{"link", "ln -sfn two etc/link; touch -h -d 2020-02-02 etc/link etc", Options{}, []string{"C /etc/link link"}},
		{"type", "rm etc/one; mkfifo etc/one; touch -d 2020-02-02 etc/one etc", Options{}, []string{"C /etc/one type"}},
		{"a tree for a file", "rm etc/one; mkdir etc/one; echo n > etc/one/n; touch -d 2020-02-02 etc/one etc", Options{}, []string{"C /etc/one type,mode", "A /etc/one/n"}},
		{"moved", "mkdir new; mv etc/big new/large; chmod 600 new/large", Options{Moves: true, NoTimes: true}, []string{"A /new", "R /new/large from /etc/big mode"}},
		{"copied is not moved", "cp -p etc/big etc/large", Options{Moves: true, NoTimes: true}, []string{"A /etc/large"}},
		{"the same name wins", "mkdir new; cp etc/big new/another; mv etc/big new/big", Options{Moves: true, NoTimes: true}, []string{"A /new", "A /new/another", "R /new/big from /etc/big"}},
		{"without -M", "mv etc/big big", Options{NoTimes: true}, []string{"A /big", "D /etc/big"}},
		{"an empty file does not move", "rm etc/empty; : > void", Options{Moves: true, NoTimes: true}, []string{"D /etc/empty", "A /void"}},
		{"a path", "echo > new; rm etc/two; echo n > var/n", Options{Path: "var", NoTimes: true}, []string{"A /var/n"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			sh(t, dir, `mkdir -p a/etc a/var; echo 1 > a/etc/one; echo 2 > a/etc/two; ln -s one a/etc/link; : > a/etc/empty; seq 1000 > a/etc/big
				find a -exec touch -h -d 2020-02-02 {} +; cp -a a b; touch -d 2020-02-02 b`)
			cmd := exec.Command("sh", "-ec", row.do)
			cmd.Dir = filepath.Join(dir, "b")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if len(row.want) == 0 || !strings.Contains(row.do, "touch -d") {
				sh(t, dir, "touch -d 2020-02-02 b")
			}
			got := lines(t, Dir(filepath.Join(dir, "a")), Dir(filepath.Join(dir, "b")), row.o)
			if !slices.Equal(got, row.want) {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
		})
	}
}

// What is written meanwhile is there or not there, and never an error.
func TestCompareWhileWritten(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "mkdir a b; for i in $(seq 30); do mkdir a/$i; seq 1000 > a/$i/f; ln -s x a/$i/l; done; cp -a a/. b/")
	script := exec.Command("sh", "-c", `cd b; while :; do for i in *; do mv $i tmp; rm -rf tmp; mkdir $i; seq 1000 > $i/f; ln -s y $i/l; rm $i/f; mkfifo $i/f; done; done`)
	script.Dir = dir
	script.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-script.Process.Pid, syscall.SIGKILL) // with what it is running
		script.Wait()
		for range 100 { // nobody waits for its children, which must not write any more
			if syscall.Kill(-script.Process.Pid, 0) != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		for _, err := range Compare(context.Background(), Dir(filepath.Join(dir, "a")), NewStack(UpperLayer(filepath.Join(dir, "b"))), Options{Moves: true}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
