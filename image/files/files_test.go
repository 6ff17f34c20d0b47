package files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

// trees are a host's directory and a container's root, with the same in both.
func trees(t testing.TB) (host string, root *os.File) {
	t.Helper()
	dir := t.TempDir()
	sh(t, dir, `mkdir host root; for d in host root; do ( cd $d
mkdir dir dir/sub full full/dir empty; echo file > file; echo 1 > dir/one; echo 2 > dir/sub/two; ln -s one dir/link; echo old > full/file; echo kept > full/dir/kept
mkdir clash clash2 clash2/file; echo x > clash/dir; ln -s file to-file; ln -s dir to-dir; ln -s nowhere broken; ln -s empty to-empty
) done`)
	f, err := os.Open(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return filepath.Join(dir, "host"), f
}

// tree lists files: links with what they lead to, others with their content.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := "." + strings.TrimPrefix(path, dir)
		switch d.Type() {
		case fs.ModeDir:
			fmt.Fprintf(&list, "%s/\n", name)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			fmt.Fprintf(&list, "%s -> %s\n", name, target)
			return err
		default:
			b, err := os.ReadFile(path)
			fmt.Fprintf(&list, "%s = %s\n", name, strings.TrimSpace(string(b)))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}

// The rules of docker cp (docs.docker.com, "docker container cp", "Extended description"), in both directions: what is where is given as
// what the copy adds or changes.
func TestRules(t *testing.T) {
	dir := "./X/\n./X/link -> one\n./X/one = 1\n./X/sub/\n./X/sub/two = 2\n"
	for _, c := range []struct {
		src, dst string
		follow   bool
		want     string // lines that are new, with the name X in them
		as       string // X
		fails    string
	}{
		// SRC is a file.
		{src: "file", dst: "new", want: "./X = file\n", as: "new"},
		{src: "file", dst: "new/", fails: "the directory does not exist"},
		{src: "file", dst: "new/.", fails: "the directory does not exist"},
		{src: "file", dst: "missing/new", fails: "the directory above it does not exist"},
		{src: "dir/one", dst: "file", want: "./X = 1\n", as: "file"},
		{src: "file", dst: "empty", want: "./X = file\n", as: "empty/file"},
		{src: "file", dst: "empty/", want: "./X = file\n", as: "empty/file"},
		{src: "file", dst: "to-empty", want: "./X = file\n", as: "empty/file"},
		{src: "dir/one", dst: "to-file", want: "./X = 1\n", as: "file"},
		{src: "dir/one", dst: "broken", want: "./X = 1\n", as: "nowhere"},
		{src: "file", dst: "full", want: "./X = file\n", as: "full/file"},
		{src: "file", dst: "file/", fails: "not a directory"},
		{src: "file/", dst: "empty", fails: "not a directory"},
		{src: "file/.", dst: "empty", fails: "not a directory"},
		{src: "nothing", dst: "empty", fails: "nothing: no such file or directory"},
		{src: "missing/nothing", dst: "empty", fails: "no such file or directory"},
		// SRC is a directory.
		{src: "dir", dst: "new", want: dir, as: "new"},
		{src: "dir", dst: "new/", want: dir, as: "new"},
		{src: "dir/.", dst: "new", want: dir, as: "new"},
		{src: "dir", dst: "missing/new", fails: "the directory above it does not exist"},
		{src: "dir", dst: "file", fails: "a directory cannot be copied to it"},
		{src: "dir/.", dst: "file", fails: "a directory cannot be copied to it"},
		{src: "dir", dst: "empty", want: dir, as: "empty/dir"},
		{src: "dir/", dst: "empty/", want: dir, as: "empty/dir"},
		{src: "dir/.", dst: "empty", want: strings.TrimPrefix(dir, "./X/\n"), as: "empty"},
		{src: "dir", dst: "full", want: strings.TrimPrefix(dir, "./X/\n"), as: "full/dir"},
		{src: "full/.", dst: "dir", want: "./X/file = old\n./X/dir/\n./X/dir/kept = kept\n", as: "dir"},
		{src: "full/dir", dst: "dir/sub/two", fails: "a directory cannot be copied to it"},
		// A directory and a file of one name do not replace each other.
		{src: "file", dst: "dir/sub/x", want: "./X = file\n", as: "dir/sub/x"},
		{src: "full/.", dst: "clash", fails: "it is not overwritten"},
		{src: "clash2/.", dst: "full", fails: "it is not overwritten"},
		// Links.
		{src: "to-file", dst: "new", want: "./X -> file\n", as: "new"},
		{src: "to-dir", dst: "empty", want: "./X -> dir\n", as: "empty/to-dir"},
		{src: "broken", dst: "empty", want: "./X -> nowhere\n", as: "empty/broken"},
		{src: "to-file", dst: "new", follow: true, want: "./X = file\n", as: "new"},
		{src: "to-file", dst: "empty", follow: true, want: "./X = file\n", as: "empty/to-file"},
		{src: "to-dir", dst: "empty", follow: true, want: dir, as: "empty/to-dir"},
		{src: "to-dir/", dst: "new", want: dir, as: "new"},
		{src: "to-dir/.", dst: "new", want: dir, as: "new"},
		{src: "broken", dst: "empty", follow: true, fails: "no such file or directory"},
		{src: "", dst: "empty", fails: "an empty path"},
		{src: "file", dst: "", fails: "an empty path"},
	} {
		for _, out := range []bool{true, false} {
			host, root := trees(t)
			away := Place{Root: root, Path: c.src}
			local := Place{Path: host + "/" + c.dst}
			dstDir := host
			if c.dst == "" {
				local.Path = ""
			}
			if !out {
				away.Path, local.Path, dstDir = c.dst, host+"/"+c.src, root.Name()
				if c.src == "" {
					local.Path = ""
				}
			}
			before := tree(t, dstDir)
			src, dst := away, local
			if !out {
				src, dst = local, away
			}
			what := fmt.Sprintf("out %v: cp %q %q (follow %v)", out, c.src, c.dst, c.follow)
			_, err := Copy(context.Background(), src, dst, Options{Follow: c.follow})
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%s: %v, want %q", what, err, c.fails)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			// What is there afterwards: what was there, but for what was replaced, and what is new.
			lines := map[string]string{}
			for _, l := range strings.Split(strings.TrimSpace(before+strings.ReplaceAll(c.want, "./X", "./"+c.as)), "\n") {
				name, _, _ := strings.Cut(strings.TrimSuffix(l, "/"), " ")
				lines[name] = l
			}
			got := strings.Split(strings.TrimSpace(tree(t, dstDir)), "\n")
			for _, l := range got {
				name, _, _ := strings.Cut(strings.TrimSuffix(l, "/"), " ")
				if lines[name] != l {
					t.Errorf("%s: there is %q, want %q", what, l, lines[name])
				}
				delete(lines, name)
			}
			if len(lines) > 0 {
				t.Errorf("%s: there is not %v", what, lines)
			}
		}
	}
}

// Links of a container's lead nowhere but into the container.
func TestLinksStayInside(t *testing.T) {
	host, root := trees(t)
	dir := filepath.Dir(host)
	sh(t, dir, `echo secret > secret; cd root; ln -s ../../../../../../../../../../..$PWD/../secret up; ln -s $PWD/../secret abs; ln -s $PWD/.. above; ln -s / self
ln -s /proc/self/root magic; ln -s loop loop; ln -s ../../../../file clamped; ln -s /dir/one inner`)
	try := func(path string, follow bool) (string, error) {
		os.RemoveAll(filepath.Join(host, "out"))
		_, err := Copy(context.Background(), Place{Root: root, Path: path}, Place{Path: host + "/out"}, Options{Follow: follow})
		b, _ := os.ReadFile(filepath.Join(host, "out"))
		return string(b), err
	}
	for path, want := range map[string]string{"up": "", "abs": "", "above/secret": "", "magic/etc/passwd": "", "loop": "", "self/up": "",
		"../../../../secret": "", "clamped": "file\n", "inner": "1\n", "self/self/../file": "file\n", "/../file": "file\n"} {
		got, err := try(path, true)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("read %s: %q, %v; want %q", path, got, err, want)
		}
	}
	// Nor are they written through.
	for _, path := range []string{"up", "abs", "above/new", "above", "magic/tmp/lct-new"} {
		_, err := Copy(context.Background(), Place{Path: host + "/file"}, Place{Root: root, Path: path}, Options{})
		if got := sh(t, dir, "cat secret; ls"); got != "secret\nhost\nroot\nsecret\n" {
			t.Errorf("write %s: %v: the host has %q", path, err, got)
		}
	}
	if _, err := os.Lstat("/tmp/lct-new"); err == nil {
		t.Error("a magic link was written through")
	}
}

// entry is one of a tar that a test makes.
type entry struct {
	name, link, content string
	kind                byte
	mode                int64
	uid                 int
	xattrs              map[string]string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.uid, Size: int64(len(e.content)),
			ModTime: time.Unix(1700000000, 0), PAXRecords: map[string]string{}}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		for k, v := range e.xattrs {
			h.PAXRecords[paxXattr+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

// What a stream says is made below the directory that it is extracted into, or leads to where a link of the container leads for the
// container.
func TestHostileStream(t *testing.T) {
	for _, c := range []struct {
		what    string
		entries []entry
		want    string // lines that are new below root
		fails   string
	}{
		{what: "names that lead out", entries: []entry{{name: "../../x", content: "1"}, {name: "/y", content: "2"}}, want: "./empty/x = 1\n./empty/y = 2\n"},
		{what: "a link out, and a file through it", entries: []entry{{name: "l", kind: tar.TypeSymlink, link: "../../.."}, {name: "l/x", content: "1"}},
			want: "./empty/l -> ../../..\n./x = 1\n"},
		{what: "an absolute link, and a file through it", entries: []entry{{name: "l", kind: tar.TypeSymlink, link: "/dir"}, {name: "l/x", content: "1"}},
			want: "./empty/l -> /dir\n./dir/x = 1\n"},
		{what: "a link to a file, replaced by a file", entries: []entry{{name: "l", kind: tar.TypeSymlink, link: "/file"}, {name: "l", content: "1"}}, want: "./empty/l = 1\n"},
		{what: "a hard link out", entries: []entry{{name: "h", kind: tar.TypeLink, link: "../../../../etc/passwd"}}, fails: "no such file"},
		{what: "a hard link to a link", entries: []entry{{name: "l", kind: tar.TypeSymlink, link: "/file"}, {name: "h", kind: tar.TypeLink, link: "l"}, {name: "h", content: "1"}},
			want: "./empty/l -> /file\n./empty/h = 1\n"},
		{what: "a directory in the place of a link", entries: []entry{{name: "l", kind: tar.TypeSymlink, link: "/dir"}, {name: "l", kind: tar.TypeDir, mode: 0o700}}, fails: "not overwritten"},
		{what: "no directories", entries: []entry{{name: "a/b/c", content: "1"}}, want: "./empty/a/\n./empty/a/b/\n./empty/a/b/c = 1\n"},
		{what: "a file as a directory", entries: []entry{{name: "a", content: "1"}, {name: "a/b", content: "2"}}, fails: "not a directory"},
		{what: "a whiteout's name", entries: []entry{{name: ".wh.x", content: "1"}}, want: "./empty/.wh.x = 1\n"},
		{what: "overlayfs' attributes", entries: []entry{{name: "d", kind: tar.TypeDir, mode: 0o755, xattrs: map[string]string{"trusted.overlay.opaque": "y", "user.x": "1"}}},
			want: "./empty/d/\n"},
		{what: "the root as a file", entries: []entry{{name: "./", kind: tar.TypeSymlink, link: "/"}}, fails: "something else"},
		{what: "an owner beyond", entries: []entry{{name: "x", uid: 1 << 33}}, fails: "an owner of"},
	} {
		host, root := trees(t)
		before := tree(t, root.Name())
		outside := sh(t, filepath.Dir(host), "find host | sort; ls")
		_, err := Receive(context.Background(), bytes.NewReader(tarOf(t, c.entries...)), Place{Root: root, Path: "/empty"}, Options{})
		if c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) || c.fails == "" && err != nil {
			t.Errorf("%s: %v, want %q", c.what, err, c.fails)
		}
		if after := sh(t, filepath.Dir(host), "find host | sort; ls"); after != outside {
			t.Errorf("%s: outside there is %q", c.what, after)
		}
		if c.fails != "" {
			continue
		}
		got := map[string]bool{}
		for _, l := range strings.Split(tree(t, root.Name()), "\n") {
			got[l] = true
		}
		for _, l := range strings.Split(before+c.want, "\n") {
			if !got[l] {
				t.Errorf("%s: there is not %q", c.what, l)
			}
			delete(got, l)
		}
		if len(got) > 0 {
			t.Errorf("%s: there is %v", c.what, got)
		}
	}
	_, root := trees(t)
	for text, b := range map[string][]byte{"no whole tar": []byte(strings.Repeat("nonsense", 200)), "is not a directory": nil} {
		path := "/empty"
		if b == nil {
			path = "/file"
		}
		if _, err := Receive(context.Background(), bytes.NewReader(b), Place{Root: root, Path: path}, Options{}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Receive(context.Background(), strings.NewReader(""), Place{Root: root, Path: "/empty"}, Options{}); err == nil {
		t.Error("nothing was taken for a tar")
	}
	never, _ := io.Pipe()
	soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Receive(soon, never, Place{Root: root, Path: "/empty"}, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a pipe that says nothing: %v", err)
	}
	whole := tarOf(t, entry{name: "cut", content: strings.Repeat("x", 5000)})
	if _, err := Receive(context.Background(), bytes.NewReader(whole[:3000]), Place{Root: root, Path: "/empty"}, Options{}); err == nil {
		t.Error("half a tar was taken for a whole one")
	}
	if got := sh(t, root.Name(), "ls -A empty"); got != "" {
		t.Errorf("half a file is left: %q", got)
	}
}

// Owners, modes and what hangs on them.
func TestAttributes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root gives files away")
	}
	host, root := trees(t)
	make := `mkdir a; cp /bin/true a/suid; chown 7:8 a/suid; chmod 6755 a/suid; cp /bin/true a/rootsuid; chmod 4755 a/rootsuid; cp /bin/true a/cap; setcap cap_net_raw+ep a/cap
mknod a/null c 1 3; mkfifo a/fifo; ln a/cap a/cap2; ln -s x a/l; chown -h 7:8 a/l; setfattr -n user.x -v y a/cap; mkdir -m 2775 a/d; chown 7:8 a/d; chmod 2775 a/d
truncate -s 1M a/hole; echo end >> a/hole; find a -exec touch -h -d 2020-01-02 {} +`
	sh(t, host, make)
	sh(t, root.Name(), make)
	list := func(dir string) string {
		return sh(t, dir, `find got -mindepth 1 -printf '%P %u:%g %m %TY%Tm%Td\n' | sort; getcap got/cap; getfattr --absolute-names --only-values -n user.x got/cap; [ got/cap -ef got/cap2 ]; [ $(stat -c %b got/hole) -lt 1500 ]`)
	}
	ids := strings.NewReplacer("7:8", sh(t, host, "a=$(stat -c %U:%G a/suid); printf $a"), "0:0", "root:root")
	common := "cap2 0:0 755 20200102\ncap 0:0 755 20200102\n"
	for _, c := range []struct {
		what string
		out  bool
		opt  Options
		want string
	}{
		{"to the host", true, Options{}, common + "d 0:0 775 20200102\nfifo 0:0 644 20200102\nhole 0:0 644 20200102\nl 0:0 777 20200102\nrootsuid 0:0 755 20200102\nsuid 0:0 755 20200102\ny"},
		{"to the host, all", true, Options{Archive: true}, common + "d 7:8 2775 20200102\nfifo 0:0 644 20200102\nhole 0:0 644 20200102\nl 7:8 777 20200102\nnull 0:0 644 20200102\nrootsuid 0:0 4755 20200102\nsuid 7:8 6755 20200102\ngot/cap cap_net_raw=ep\ny"},
		{"to a container", false, Options{}, common + "d 0:0 775 20200102\nfifo 0:0 644 20200102\nhole 0:0 644 20200102\nl 0:0 777 20200102\nnull 0:0 644 20200102\nrootsuid 0:0 4755 20200102\nsuid 0:0 755 20200102\ngot/cap cap_net_raw=ep\ny"},
		{"to a container, all", false, Options{Archive: true}, common + "d 7:8 2775 20200102\nfifo 0:0 644 20200102\nhole 0:0 644 20200102\nl 7:8 777 20200102\nnull 0:0 644 20200102\nrootsuid 0:0 4755 20200102\nsuid 7:8 6755 20200102\ngot/cap cap_net_raw=ep\ny"},
	} {
		src, dst, dir := Place{Root: root, Path: "a"}, Place{Path: host + "/got"}, host
		if !c.out {
			src, dst, dir = Place{Path: host + "/a"}, Place{Root: root, Path: "got"}, root.Name()
		}
		sh(t, dir, "rm -rf got")
		var warned []string
		c.opt.Warn = func(s string) { warned = append(warned, s) }
		n, err := Copy(context.Background(), src, dst, c.opt)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		lines := func(s string) []string {
			return slices.Sorted(slices.Values(strings.Split(strings.TrimSpace(s), "\n")))
		}
		if got, want := lines(list(dir)), lines(ids.Replace(c.want)); !slices.Equal(got, want) {
			t.Errorf("%s:\n%q\nwant\n%q", c.what, got, want)
		}
		if n < 1<<20 {
			t.Errorf("%s: %d bytes", c.what, n)
		}
		if left := strings.Join(warned, "; "); strings.Contains(left, "a device") != (c.out && !c.opt.Archive) {
			t.Errorf("%s: warned %q", c.what, left)
		}
	}
}

// A container that exchanges a directory for a link all the time never gets anything of the host's read or written.
func TestExchanged(t *testing.T) {
	host, root := trees(t)
	sh(t, filepath.Dir(host), `mkdir outside; echo secret > outside/one; echo secret > outside/file; cd root; mkdir -p race/d; echo 1 > race/d/one; ln -s $PWD/../outside race/l`)
	d, l := filepath.Join(root.Name(), "race/d"), filepath.Join(root.Name(), "race/l")
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, d, unix.AT_FDCWD, l, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for n := range 150 {
		out := filepath.Join(host, "out", fmt.Sprint(n))
		os.MkdirAll(out, 0o755)
		Copy(context.Background(), Place{Root: root, Path: "race/d/one", Live: true}, Place{Path: out + "/f"}, Options{Follow: true})
		Copy(context.Background(), Place{Root: root, Path: "race", Live: true}, Place{Path: out + "/t"}, Options{})
		Copy(context.Background(), Place{Path: host + "/file"}, Place{Root: root, Path: "race/d/file", Live: true}, Options{})
		Receive(context.Background(), bytes.NewReader(tarOf(t, entry{name: "d/file", content: "1"})), Place{Root: root, Path: "race", Live: true}, Options{})
	}
	close(stop)
	<-stopped
	if got := sh(t, filepath.Dir(host), "cat outside/one outside/file; ls -A outside; grep -r secret host || true"); got != "secret\nsecret\nfile\none\n" {
		t.Errorf("outside: %q", got)
	}
}

// Into itself a directory is not copied, by whatever name.
func TestIntoItself(t *testing.T) {
	_, root := trees(t)
	for _, dst := range []string{"/dir/sub", "/dir/new", "/dir"} {
		_, err := Copy(context.Background(), Place{Root: root, Path: "/dir/."}, Place{Path: root.Name() + dst}, Options{})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", dst, err)
		}
	}
}
