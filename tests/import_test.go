package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// everything is added to the Debian tree: what a layer must carry.
const everything = `
mkdir -p odd; printf x > "$(printf 'odd/\377\376')"; printf x > "$(printf 'odd/new\nline')"
mknod odd/null c 1 3; mknod odd/loop b 7 0; mkfifo odd/fifo; cp /bin/true odd/suid; chmod 6755 odd/suid; ln odd/suid odd/second
cp /bin/true odd/cap; setcap cap_net_raw+ep odd/cap; truncate -s 50M odd/sparse; printf end >> odd/sparse; setfattr -n user.k -v v odd
setfacl -m u:99:r odd/suid; touch -d '2001-02-03 04:05:06.789012345' odd/suid; ln -s /no/where odd/dangling; chown 70000:70001 odd/fifo`

// listing prints all that must survive.
const listing = `find . -printf '%P %y %m %U %G %T@ %l %n\n' | LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; getfattr -Rhdm - . 2>/dev/null; stat -c '%n %t %T' odd/null odd/loop`

func diffID(e *env, image string) string {
	return strings.TrimSpace(e.ok("inspect", "--format", "{{index .RootFS.Layers 0}}", image))
}

// The same tree gives the same diff ID, whatever it comes as and in whatever order; nothing is lost, and the source is not written.
func TestImportForms(t *testing.T) {
	e := newEnv(t)
	src := filepath.Join(e.dir, "debian")
	sh(t, e.dir, "cp -a "+debian(t)+" debian; cd debian;"+everything)
	before := sh(t, src, listing)
	e.ok("import", "./debian")
	want := diffID(e, "debian")
	if after := sh(t, src, listing); after != before {
		t.Error("the import changed its source")
	}
	tree := filepath.Join(e.root, "snapshots/trees/1/fs")
	if got := sh(t, tree, listing); got != before {
		os.WriteFile(filepath.Join(e.dir, "a"), []byte(before), 0o600)
		os.WriteFile(filepath.Join(e.dir, "b"), []byte(got), 0o600)
		t.Errorf("the stored tree differs:\n%s", sh(t, e.dir, "diff a b | head -20 || true"))
	}
	if blocks := strings.TrimSpace(sh(t, tree, "stat -c %b odd/sparse")); len(blocks) > 3 {
		t.Errorf("a sparse file takes %s blocks", blocks)
	}
	const tar = "tar --format=pax --xattrs --xattrs-include='*' -C debian -c"
	sh(t, e.dir, tar+" . > t.tar; gzip -1k t.tar; zstd -q t.tar; bzip2 -1k t.tar & (cd debian; find . -mindepth 1 -print0 | LC_ALL=C sort -zR) > order; "+
		"tar --format=pax --xattrs --xattrs-include='*' -C debian --no-recursion --null -T <(printf './\\0'; cat order) -c | xz -0 -T0 > shuffled.tar.xz; wait")
	for _, file := range []string{"t.tar", "t.tar.gz", "t.tar.zst", "t.tar.bz2", "shuffled.tar.xz"} {
		e.ok("import", file, "from:"+strings.ReplaceAll(file, ".", "-"))
		if got := diffID(e, "from:"+strings.ReplaceAll(file, ".", "-")); got != want {
			t.Errorf("%s has the diff ID %s, the directory %s", file, got, want)
		}
	}
	f, err := os.Open(filepath.Join(e.dir, "t.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := e.command("import", "-", "stdin")
	cmd.Stdin = f
	if r := e.finish(cmd); r.code != 0 || diffID(e, "stdin") != want {
		t.Errorf("from stdin: %+v, %s", r, diffID(e, "stdin"))
	}
	// Eight imports, one tree.
	if names := list(filepath.Join(e.root, "snapshots/trees")); len(names) != 1 {
		t.Errorf("trees %q, want one", names)
	}
	if got := e.ok("run", "--rm", "debian", "sh", "-c", "/odd/second && . /etc/os-release && echo $ID"); got != "debian\n" {
		t.Errorf("the imported image prints %q", got)
	}
}

func TestImportSettings(t *testing.T) {
	e := newEnv(t)
	e.busybox("tree")
	e.ok("import", "--change", `CMD ["echo","a b"]`, "--change", "ENV A=1 B='two words'", "--change", "WORKDIR /srv", "--change", "USER ann",
		"--change", "LABEL x=y", "--change", "EXPOSE 80 53/udp", "-m", "because", "tree", "app:1")
	if got := e.ok("run", "--rm", "app:1"); got != "a b\n" {
		t.Errorf("CMD printed %q", got)
	}
	if got := e.ok("run", "--rm", "app:1", "sh", "-c", `echo "$A $B $PWD $(id -un)"`); got != "1 two words /srv ann\n" {
		t.Errorf("the settings came out as %q", got)
	}
	if got := e.ok("inspect", "--format", "{{.Comment}} {{json .Config}}", "app:1"); !strings.Contains(got, "because") || !strings.Contains(got, `"53/udp"`) || !strings.Contains(got, `"x":"y"`) {
		t.Errorf("inspect shows %s", got)
	}
	if got := e.ok("history", "--format", "{{.CreatedBy}} {{.Comment}}", "app:1"); got != "layerctl import because\n" {
		t.Errorf("history shows %q", got)
	}
	e.ok("import", "--change", "ENTRYPOINT echo from a shell", "tree", "shell")
	if got := e.ok("run", "--rm", "shell"); got != "from a shell\n" {
		t.Errorf("ENTRYPOINT in shell form printed %q", got)
	}
	cmd := e.command("import", "tree", "epoch")
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=1600000000")
	first := e.finish(cmd)
	cmd = e.command("import", "tree", "epoch2")
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=1600000000")
	if second := e.finish(cmd); second.stdout != first.stdout || first.code != 0 {
		t.Errorf("the same import at the same time: %+v and %+v", first, second)
	}
}

func TestImportBad(t *testing.T) {
	e := newEnv(t)
	e.busybox("tree")
	e.ok("images")
	sh(t, e.dir, `echo text > text; : > empty; mkdir wh; touch wh/.wh.x; mkdir dev; mknod dev/zero c 0 0; head -c 100000 /dev/urandom | gzip > noise.gz
tar -cf cut.tar tree; truncate -s 3000 cut.tar; mkdir "Bad Name"; tar -c tree | gzip > t.gz; head -c 2000 t.gz > cut.gz; ln -s store/.. around`)
	for name, row := range map[string]struct {
		args  []string
		texts []string
	}{
		"missing":             {[]string{"nowhere"}, []string{"no such file"}},
		"text":                {[]string{"text"}, []string{"tarball"}},
		"empty":               {[]string{"empty"}, []string{"empty"}},
		"noise":               {[]string{"noise.gz"}, []string{"tarball"}},
		"cut":                 {[]string{"cut.tar"}, []string{"tarball"}},
		"cut gzip":            {[]string{"cut.gz"}, []string{"tarball"}},
		"the root":            {[]string{"/"}, []string{"running system"}},
		"the store":           {[]string{"store", "x"}, []string{"the store itself"}},
		"in the store":        {[]string{"store/snapshots", "x"}, []string{"the store itself"}},
		"around the store":    {[]string{".", "x"}, []string{"the store itself"}},
		"around it by a link": {[]string{"around", "x"}, []string{"the store itself"}},
		"a whiteout's name":   {[]string{"wh"}, []string{".wh.x"}},
		"a whiteout's device": {[]string{"dev"}, []string{"zero", "0/0"}},
		"no name for it":      {[]string{"Bad Name"}, []string{"give one"}},
		"a bad name":          {[]string{"tree", "UPPER"}, []string{"lower case"}},
		"a bad change":        {[]string{"--change", "RUN x", "tree"}, []string{"RUN is none of"}},
		"an unclosed quote":   {[]string{"--change", `ENV A="x`, "tree"}, []string{"quote"}},
		"a device":            {[]string{"/dev/null", "x"}, []string{"neither a directory nor a tarball"}},
		"a bad platform":      {[]string{"--platform", "a//b", "tree"}, []string{"OS/ARCH"}},
	} {
		sub := *e
		t.Run(name, func(t *testing.T) {
			sub.t = t
			sub.fails(1, append(row.texts, "layerctl: import "), append([]string{"import"}, row.args...)...)
		})
	}
	if out := e.ok("images", "-q"); out != "" {
		t.Errorf("an image has a name: %s", out)
	}
}

// A tree that vanishes while it is read gives an error and no image.
func TestImportVanishing(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, "mkdir -p tree; cd tree; for d in $(seq 60); do mkdir $d; for i in $(seq 60); do echo $i > $d/$i; done; done")
	failed := 0
	for i := range 5 {
		sh(t, e.dir, "rm -rf gone; cp -a tree gone")
		cmd := e.command("import", "gone")
		var errs strings.Builder
		cmd.Stderr = &errs
		e.start(cmd)
		time.Sleep(time.Duration(5+10*i) * time.Millisecond)
		os.RemoveAll(filepath.Join(e.dir, "gone"))
		cmd.Wait()
		if cmd.ProcessState.ExitCode() != 0 {
			failed++
			if !errorForm.MatchString(errs.String()) {
				t.Errorf("the error is not one line: %s", errs.String())
			}
			if out := e.ok("images", "-q"); failed == i+1 && out != "" {
				t.Errorf("an image has a name: %s", out)
			}
		}
	}
	if failed == 0 {
		t.Error("no import met a vanishing file")
	}
}

func TestNames(t *testing.T) {
	e := withBusybox(t)
	id := strings.TrimSpace(e.ok("images", "-q", "--no-trunc"))
	e.ok("tag", "busybox", "registry.example/bb:v1")
	e.ok("tag", id[7:15], "other")
	out := e.ok("images", "--format", "{{.Repository}}:{{.Tag}}")
	if out != "localhost/busybox:latest\nlocalhost/other:latest\nregistry.example/bb:v1\n" {
		t.Errorf("images: %q", out)
	}
	if got := strings.Count(e.ok("images", "--format", "json"), "\n"); got != 3 {
		t.Errorf("%d lines of JSON", got)
	}
	if got := e.ok("images", "other"); strings.Contains(got, "/bb") || !strings.Contains(got, "other") {
		t.Errorf("images other: %s", got)
	}
	for _, name := range []string{"busybox", "localhost/busybox:latest", id, id[7:], id[7:11], "registry.example/bb:v1"} {
		if got := e.ok("run", "--rm", name, "echo", "ran"); got != "ran\n" {
			t.Errorf("run %s: %q", name, got)
		}
	}
	e.fails(1, []string{"no such image", "hint: "}, "tag", "nothing", "x")
	e.fails(1, []string{"lower case"}, "tag", "busybox", "X")
	e.fails(1, []string{"it has the names"}, "rmi", id[7:])
	if got := e.ok("rmi", "other"); got != "Untagged: localhost/other:latest\n" {
		t.Errorf("rmi other: %q", got)
	}
	e.ok("run", "--name", "user", "busybox", "true")
	e.ok("rmi", "registry.example/bb:v1")
	e.fails(1, []string{"container user was made from it", "hint: "}, "rmi", "busybox")
	e.ok("rm", "user")
	if got := e.ok("rmi", "busybox"); !strings.Contains(got, "Deleted: "+id) {
		t.Errorf("rmi: %q", got)
	}
	e.fails(1, []string{"no such image"}, "rmi", "busybox")
	if names := list(filepath.Join(e.root, "snapshots/trees")); len(names) > 1 {
		t.Errorf("trees %q are left", names)
	}
	if names := list(filepath.Join(e.root, "images/blobs/sha256")); len(names) > 0 {
		t.Errorf("blobs %q are left", names)
	}
}

// A tarball that hides what is below it, where nothing is: the mark is the layer's, and is packed again with it.
func TestImportOfMarks(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, "mkdir -p t/d && touch t/d/.wh..wh..opq t/d/.wh.gone t/d/x && tar -C t -cf t.tar .")
	e.ok("import", "t.tar", "marked")
	e.ok("check", "--full")
	e.ok("save", "-o", "saved.tar", "marked")
}
