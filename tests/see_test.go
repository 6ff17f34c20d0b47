package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers, diff and blame over an image of three layers that was pulled, another that has its lowest, a container and what is no image.
func TestSeeIntoLayers(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", smallLayer+"; mkdir -p usr/lib; mv bin usr/bin; ln -s usr/bin bin; chmod 755 usr", "mkdir etc; echo more > etc/one; seq 100 > etc/hundred; touch etc/.wh.passwd", "mkdir srv; seq 1000 > srv/big; mkdir etc; touch etc/.wh.hundred")
	reg.push("other", "", "--config.cmd /bin/sh", smallLayer+"; mkdir -p usr/lib; mv bin usr/bin; ln -s usr/bin bin; chmod 755 usr", "mkdir opt; seq 1000 > opt/moved; touch opt/x")
	e := newEnv(t)
	app, other := reg.addr+"/app", reg.addr+"/other"
	e.ok("pull", app)
	e.ok("pull", other)
	want := func(what, got string, lines ...string) {
		t.Helper()
		if got != strings.Join(append(lines, ""), "\n") {
			t.Errorf("%s:\n%swant\n%s", what, got, strings.Join(lines, "\n"))
		}
	}
	want("layers", e.ok("layers", "--format", "{{.Layer}} {{.Files}} {{.Deleted}} {{.SharedBy}}", app), "1 8 0 ", "2 2 1 ", "3 1 1 ")
	var first struct {
		DiffID, ChainID, Digest string
		Size                    int64
	}
	fromJSON(t, strings.SplitN(e.ok("layers", "--no-trunc", "--format", "json", app), "\n", 2)[0], &first)
	ids := strings.Fields(e.ok("layers", "-q", "--no-trunc", app))
	if len(ids) != 3 || first.DiffID != ids[0] || first.ChainID != ids[0] || first.Size == 0 || !exists(filepath.Join(e.root, "images/blobs/sha256", strings.TrimPrefix(first.Digest, "sha256:"))) {
		t.Errorf("layers: %q, %+v", ids, first)
	}

	top := []string{"D /etc/hundred", "A /srv", "A /srv/big"}
	want("diff of an image", e.ok("diff", "--no-mtime", app), top...)
	want("diff of a layer", e.ok("diff", "--no-mtime", app+"#3"), top...)
	want("diff of a layer by its ID", e.ok("diff", "--no-mtime", ids[2][7:20]), top...)
	want("diff of the middle one", e.ok("diff", "--no-mtime", app+"#2"), "A /etc/hundred", "C /etc/one", "D /etc/passwd")
	want("diff of two images", e.ok("diff", "--no-mtime", "-M", app, other), "C /etc/one", "A /etc/passwd", "A /opt", "R /srv/big -> /opt/moved", "A /opt/x", "D /srv")
	want("narrowed", e.ok("diff", "--no-mtime", "--path", "etc", app, other), "C /etc/one", "A /etc/passwd")
	want("stat", e.ok("diff", "--no-mtime", "--stat", "--format", "{{.Directory}} {{.Added}} {{.Changed}} {{.Deleted}} {{.Grew}}", app, other),
		"/ 1 0 1 +0B", "/etc 1 1 0 +25B", "/opt 2 0 0 +3.89kB", "/srv 0 0 1 -3.89kB", "total 4 1 2 +25B")
	want("tree", e.ok("diff", "--no-mtime", "--tree", app+"#2"), "/  +267B", "└── etc  +267B", "    ├── A hundred  +292B", "    ├── C one  +1B", "    └── D passwd  -26B")
	if got := e.ok("diff", "--patch", "--path", "/etc/one", app, other); !strings.HasSuffix(got, "--- a/etc/one\n+++ b/etc/one\n@@ -1 +1 @@\n-more\n+one\n") {
		t.Errorf("patch: %s", got)
	}
	var record struct {
		Kind, Path string
		Differs    []string
		Old, New   struct {
			Type, Mode, Content string
			Size                int64
		}
	}
	fromJSON(t, e.ok("diff", "--no-mtime", "--format", "json", "--path", "etc/one", app, other), &record)
	if record.Kind != "C" || record.Path != "/etc/one" || strings.Join(record.Differs, " ") != "content size" || record.Old.Size != 5 || record.New.Size != 4 || record.New.Mode != "0644" || len(record.Old.Content) != 32 {
		t.Errorf("record: %+v", record)
	}

	// What is on the host, and a container.
	e.ok("run", "--name", "cc", app, "sh", "-c", "echo c > /etc/made; : > /srv/big")
	sh(t, e.dir, "mkdir dir; tar -C dir -xf "+filepath.Join(e.root, "none")+" 2>/dev/null || cp -a "+filepath.Join(e.root, "snapshots/trees/1/fs")+"/. dir/; tar -C dir -czf dir.tgz .; echo new > dir/etc/new")
	want("a container and its image", e.ok("diff", "--no-mtime", app, "cc"), "A /etc/made", "C /srv/big")
	for _, file := range []string{"./dir", "./dir.tgz"} {
		cmd := e.command("diff", "--no-mtime", file, other+"#1")
		cmd.Dir = e.dir
		r := e.finish(cmd)
		if file == "./dir" {
			want(file, r.stdout, "D /etc/new")
		} else {
			want(file, r.stdout)
		}
		if r.code != 0 {
			t.Errorf("%s: %s", file, r.stderr)
		}
	}
	if left := list(filepath.Join(e.root, "snapshots/staging")); len(left) > 0 {
		t.Errorf("a tarball left %q", left)
	}

	want("blame", e.ok("blame", "--format", "{{.Layer}} {{.Kind}} {{.Wins}} {{.Differs}}", app, "/etc/one"), "1 A false ", "2 C true content, size, mtime")
	want("blame of what is gone", e.ok("blame", "--format", "{{.Layer}} {{.Kind}} {{.Wins}}", app, "etc/hundred"), "2 A false", "3 D false")
	r := e.run("blame", "--format", "{{.Path}}", app, "/bin/sh")
	want("blame over a link", r.stdout, "/usr/bin/sh")
	want("what is said of it", r.stderr, "/bin is a link to usr/bin", "/bin/sh is /usr/bin/sh", "/usr/bin/sh is itself a link, to busybox")
	e.fails(1, []string{"/etc/nothing: no such path in the image"}, "blame", app, "/etc/nothing")

	// Names.
	e.ok("tag", app, "cc")
	r = e.run("diff", "--no-mtime", "cc", app)
	want("a container has the name first", r.stdout, "D /etc/made", "C /srv/big")
	if !strings.Contains(r.stderr, "cc is a container and an image") {
		t.Errorf("said %q", r.stderr)
	}
	e.fails(1, []string{"no such container, image or layer", "hint: "}, "diff", "nothing")
	e.fails(1, []string{"its layers are", "#1 to #3", "hint: "}, "diff", app+"#4")
	e.fails(1, []string{"--path /nowhere: no such path"}, "diff", "--path", "/nowhere", app, other)
	e.fails(2, []string{"ask for one"}, "diff", "--stat", "--tree", app)
	e.fails(2, []string{"give another to compare"}, "diff", "/etc")
	e.fails(1, []string{"unpack /bin/busybox: malformed layer"}, "diff", "/bin/busybox", app)

	// A closed pipe is nobody's error.
	pipe := e.command("diff", "--format", "json", app, other)
	pipe.Args = []string{"bash", "-c", strings.Join(pipe.Args, " ") + ` | true; echo "${PIPESTATUS[0]}"`}
	if bash, err := exec.LookPath("bash"); err != nil {
		t.Fatal(err)
	} else {
		pipe.Path = bash
	}
	if r := e.finish(pipe); r.stderr != "" || r.stdout != "141\n" && r.stdout != "0\n" { // 0 where it was done before the pipe closed
		t.Errorf("into a pipe that closes: %q, %q", r.stdout, r.stderr)
	}

	// A damaged index is made again, and said; one whose tree is damaged, too, is not believed.
	index := filepath.Join(e.root, "snapshots/trees/1/index")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	sh(t, e.dir, "printf X | dd of="+index+" bs=1 seek=100 conv=notrunc status=none")
	r = e.run("layers", "-q", app)
	want("damaged", r.stdout, ids[0][7:19], ids[1][7:19], ids[2][7:19])
	r = e.run("layers", "--format", "{{.Files}}", app)
	want("damaged", r.stdout, "8", "2", "1")
	if now, err := os.ReadFile(index); err != nil || string(now) != string(whole) || !strings.Contains(r.stderr, "was made again") {
		t.Errorf("a damaged index: %v, the same again: %v, said %q", err, string(now) == string(whole), r.stderr)
	}
	e.ok("check", "--full")
	os.Remove(index)
	sh(t, e.dir, "echo evil > "+filepath.Join(e.root, "snapshots/trees/1/fs/etc/one"))
	e.fails(1, []string{"cannot be made again", "check --repair"}, "layers", app)
	e.ok("rm", "cc")
	e.run("check", "--repair")
	want("repaired", e.ok("layers", "--format", "{{.Files}}", app), "8", "2", "1")
}

// A peer's answer: what diff says of two images is what diff -rq says of what they unpack to.
func TestDiffIsDiffs(t *testing.T) {
	e := newEnv(t)
	tree := debian(t)
	sh(t, e.dir, "cp -a "+tree+" a; rm -r a/dev; cp -a a b; cd b; echo x >> etc/passwd; rm -r usr/share/doc/a*; mkdir new; echo n > new/n; rm etc/motd; mkdir etc/motd; ln -sfn nowhere etc/localtime; mv usr/bin/ls usr/bin/list")
	e.ok("import", filepath.Join(e.dir, "a"), "a")
	e.ok("import", filepath.Join(e.dir, "b"), "b")
	theirs := sh(t, e.dir, `(LC_ALL=C diff -rq --no-dereference a b || true) | sed -E 's!^Only in a(.*): (.*)!D \1/\2!; s!^Only in b(.*): (.*)!A \1/\2!; s!^Files a(/.*) and b/.* differ$!C \1!; s!^(Symbolic links|File) a(/.*) (and b/.* differ|is a .*while file.*)$!C \2!' | LC_ALL=C sort`)
	// diff -rq does not name what is in a directory that is new.
	var ours []string
	made := "\x00"
	for _, line := range strings.SplitAfter(e.ok("diff", "--no-mtime", "a", "b"), "\n") {
		name := strings.TrimSpace(strings.TrimPrefix(line, "A "))
		if strings.HasPrefix(line, "A ") && strings.HasPrefix(name, made) {
			continue
		}
		if strings.HasPrefix(line, "A ") {
			made = name + "/"
		}
		ours = append(ours, line)
	}
	slices.Sort(ours)
	if got := strings.Join(ours, ""); got != theirs || theirs == "" {
		t.Errorf("layerctl:\n%s\ndiff -rq:\n%s", got, theirs)
	}
}
