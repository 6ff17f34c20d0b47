package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// compare is a script that says all that a tree is: names, modes, owners, sizes, times, links, contents and attributes.
const compare = `tree() { (cd $1 && find . \( -type d -printf '%p %m %U:%G %T@\n' -o -printf '%p %y %m %U:%G %s %T@ %n %l\n' \) | sort
find . -type f -print0 | sort -z | xargs -0 md5sum; getfattr -Rhd -m '^(user|security.cap|system)' -e hex . 2>/dev/null; getfacl -Rnp . 2>/dev/null); }
`

// writes is what a container does: something of every kind, and every way to hide what its image has.
const writes = `set -e
echo hi > /new; ln /new /etc/new; ln /etc/motd /etc/motto; rm /etc/one; rm -r /etc/sub; mkdir /etc/sub; echo n > /etc/sub/n
mkdir -p /srv/www/deep/er; echo x >> /etc/two; chmod 600 /etc/two; ln -sf two /etc/link; mkfifo /fifo; chown ann:staff /home/ann; chmod 1770 /var/log
rm -r /srv/www/deep; mkdir /srv/www/deep; dd if=/dev/zero of=/sparse bs=1 seek=3000000 count=1 2>/dev/null; touch /etc/group; touch "/odd
name"`

// What a stopped container has written is the image's next layer: a container of the image shows what the first one does, for others, too.
func TestCommit(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "work", "-e", "A=b", "-w", "/srv/www", "-u", "root", "busybox", "sh", "-c", writes)
	changed := e.ok("diff", "work")
	sh(t, e.dir, "mkdir before after")
	sh(t, e.dir, "cat > /dev/null <<'X'\n"+e.ok("export", "work", "-o", "before.tar")+"X\ntar --xattrs --acls -C before -xpf before.tar")
	before := time.Now()
	id := strings.TrimSpace(e.ok("commit", "-a", "Ann", "-m", "as it should be", "-c", `CMD ["cat", "/new"]`, "-c", "ENV C=d", "work", "made:1"))
	if got := e.ok("diff", "work"); got != changed {
		t.Errorf("after the commit the container has changed\n%s\nbefore it had\n%s", got, changed)
	}
	e.ok("export", "work", "-o", "after.tar")
	sh(t, e.dir, "cmp before.tar after.tar")
	if got := e.ok("run", "--rm", "made:1"); got != "hi\n" {
		t.Errorf("the image's command says %q", got)
	}
	if got := e.ok("run", "--rm", "made:1", "sh", "-c", "pwd; echo $A$C"); got != "/srv/www\nbd\n" {
		t.Errorf("the image's settings are %q", got)
	}
	var details []struct {
		ID                       string `json:"Id"`
		Author, Created, Comment string
		Config                   map[string]any
		RootFS                   struct{ Layers []string }
	}
	fromJSON(t, e.ok("inspect", "made:1"), &details)
	d := details[0]
	if made, err := time.Parse(time.RFC3339Nano, d.Created); d.ID != id || d.Author != "Ann" || d.Comment != "as it should be" || len(d.RootFS.Layers) != 2 || err != nil || made.Before(before) {
		t.Errorf("it is %+v", d)
	}
	e.ok("check", "--full")

	// Others see the same: by an OCI layout that umoci unpacks, and by an archive, from which the layers have the same digests.
	e.ok("save", "--format", "oci-dir", "-o", "layout", "made:1")
	sh(t, e.dir, "skopeo copy -q oci:layout:localhost/made:1 oci:copy:x && umoci unpack --image copy:x bundle >/dev/null")
	got := sh(t, e.dir, compare+"tree before > a; tree bundle/rootfs > b; diff a b || true")
	if got != "" {
		t.Errorf("umoci unpacks another tree:\n%s", got)
	}
	e.ok("save", "-o", "made.tar", "made:1")
	other := newEnv(t)
	other.ok("load", "-i", filepath.Join(e.dir, "made.tar"))
	var loaded []struct{ RootFS struct{ Layers []string } }
	fromJSON(t, other.ok("inspect", "made:1"), &loaded)
	if strings.Join(loaded[0].RootFS.Layers, " ") != strings.Join(d.RootFS.Layers, " ") {
		t.Errorf("loaded, it has the layers %q", loaded[0].RootFS.Layers)
	}
	other.ok("check", "--full")

	// With nothing written since, a further commit is a step without a layer; the container goes when it is removed, its layer with the image.
	again := strings.TrimSpace(e.ok("commit", "work"))
	fromJSON(t, e.ok("inspect", again), &details)
	if len(details[0].RootFS.Layers) != 2 || details[0].Author != "" {
		t.Errorf("committed again it is %+v", details[0])
	}
	if got := strings.Count(e.ok("history", again), "\n"); got != 4 {
		t.Errorf("it has the history\n%s", e.ok("history", again))
	}
	e.ok("rmi", "made:1", again)
	e.ok("image", "prune", "-af", "--filter", "until=1s")
	if got := e.ok("diff", "work"); got != changed {
		t.Errorf("without the image the container has changed\n%s", got)
	}
	e.ok("rm", "work")
	e.ok("image", "prune", "-f")
	if trees := list(filepath.Join(e.root, "snapshots/trees")); len(trees) != 2 {
		t.Errorf("there are the trees %q", trees)
	}
}

// A damaged layer that was committed comes out of its index again, whiteouts included.
func TestRepairOfACommittedLayer(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "work", "busybox", "sh", "-c", writes)
	e.ok("commit", "work", "made")
	e.ok("rm", "work")
	tree := filepath.Join(e.root, "snapshots/trees/2/fs")
	sh(t, tree, "rm etc/one; chmod 700 etc/two; setfattr -x trusted.overlay.opaque etc/sub; rm etc/new")
	e.fails(1, []string{"6 things are not as it should be"}, "check", "--full")
	e.ok("check", "--repair", "--full")
	e.ok("check", "--full")
	if got := e.ok("run", "--rm", "made", "sh", "-c", "ls /etc/sub; [ -e /etc/one ] || cat /etc/new"); got != "n\nhi\n" {
		t.Errorf("afterwards there is %q", got)
	}
}

// A running container's upper is copied while nothing in it runs.
func TestCommitRunning(t *testing.T) {
	e := withBusybox(t)
	// Whoever reads the two files at one moment finds that they differ by at most one: the second is written after the first.
	cmd := e.command("run", "--rm", "--name", "work", "busybox", "sh", "-c", `i=0; rm /etc/one; while :; do i=$((i+1)); echo $i > /t; mv /t /a; echo $i > /t; mv /t /b; done`)
	e.start(cmd)
	defer cmd.Wait()
	defer func() { e.ok("rm", "-f", "work") }()
	eventually(t, "it writes", func() bool { return strings.Contains(e.run("diff", "work").stdout, "A /b") })
	for range 3 {
		e.ok("commit", "work", "made")
		if got := e.ok("run", "--rm", "made", "sh", "-c", `a=$(cat /a); b=$(cat /b); echo $((a-b)); [ -e /etc/one ] || echo none`); got != "0\nnone\n" && got != "1\nnone\n" {
			t.Errorf("the files are of different moments: %q", got)
		}
	}
	if got := e.run("diff", "work").stdout; !strings.Contains(got, "A /a") || !strings.Contains(got, "D /etc/one") {
		t.Errorf("the container has changed %q", got)
	}
	e.ok("commit", "--pause=false", "work", "made:unpaused")
	e.ok("check", "--full")
	now := func() string { return e.ok("export", "work") }
	first := now()
	eventually(t, "it goes on", func() bool { return now() != first })

	// Killed while it is stopped, it goes on when the next command looks.
	e.program = buildWith(t, "layerctl-failpoints", "-tags", "failpoints")
	dead := e.command("commit", "work", "made")
	dead.Env = append(dead.Env, "LAYERCTL_FAILPOINT=pause/frozen")
	if e.finish(dead); !killed(dead) {
		t.Error("it was not killed")
	}
	e.program = ""
	e.ok("ps")
	first = now()
	eventually(t, "it goes on after a kill", func() bool { return now() != first })
	e.ok("image", "prune", "-f")
}

func TestCommitTwoAtOnceAndInItsEnd(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "work", "busybox", "sh", "-c", "echo x > /x; head -c 30000000 /dev/zero > /big")
	one, two := e.command("commit", "work", "one"), e.command("commit", "work", "two")
	e.start(one)
	e.start(two)
	if err, err2 := one.Wait(), two.Wait(); err != nil || err2 != nil {
		t.Errorf("two at once: %v, %v", err, err2)
	}
	for _, name := range []string{"one", "two"} {
		if got := e.ok("run", "--rm", name, "cat", "/x"); got != "x\n" {
			t.Errorf("%s has %q", name, got)
		}
	}
	// One that ends, or is gone, while it is committed: what comes is whole, or an error, and nothing is left of it.
	for i, remove := range []string{"", "--rm"} {
		name := []string{"ends", "goes"}[i]
		args := append([]string{"run", "-i", "--name", name}, strings.Fields(remove+" busybox sh -c")...)
		cmd := e.command(append(args, "mkdir /d; for i in $(seq 1000); do echo $i > /d/$i; done; echo done; cat")...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		eventually(t, name+" has written", func() bool { return strings.Contains(e.run("diff", name).stdout, "A /d/999\n") })
		commit := e.command("commit", "--pause=false", name, name)
		var out strings.Builder
		commit.Stderr = &out
		e.start(commit)
		in.Close()
		cmd.Wait()
		if err := commit.Wait(); err != nil && !strings.Contains(out.String(), "removed meanwhile") && !strings.Contains(out.String(), "no such") {
			t.Errorf("%s: %v: %s", name, err, out.String())
		}
		if e.run("inspect", name).code == 0 {
			e.ok("run", "--rm", name, "true")
		}
	}
	e.ok("check", "--full")
}

// The same writes at another time, bound by SOURCE_DATE_EPOCH, give the same image.
func TestCommitIsReproducible(t *testing.T) {
	e := withBusybox(t)
	commit := func(name string) string {
		e.ok("run", "--name", name, "busybox", "sh", "-c", "umask 022; "+writes)
		changed := e.ok("diff", name)
		e.ok("export", name, "-o", name+".1")
		cmd := e.command("commit", "-m", "m", name, name)
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=1750000000", "TZ=Asia/Tokyo")
		r := e.finish(cmd)
		if r.code != 0 {
			t.Fatalf("commit: %s", r.stderr)
		}
		e.ok("export", name, "-o", name+".2")
		sh(t, e.dir, "cmp "+name+".1 "+name+".2")
		if got := e.ok("diff", name); got != changed {
			t.Errorf("after the commit the container has changed %q", got)
		}
		return r.stdout
	}
	one := commit("c1")
	time.Sleep(1100 * time.Millisecond)
	if two := commit("c2"); one != two {
		t.Errorf("the images are %s and %s", one, two)
	}
	e.ok("check", "--full")
}

func TestCommitRefuses(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "work", "busybox", "sh", "-c", "echo x > /x")
	e.ok("run", "--name", "plain", "--rootfs", "busybox", "true")
	e.ok("run", "--name", "odd", "busybox", "sh", "-c", "echo x > /.wh.x")
	for _, row := range []struct {
		code  int
		texts []string
		args  []string
	}{
		{1, []string{"commit: container none: no such container"}, []string{"none"}},
		{2, []string{"want a CONTAINER"}, nil},
		{1, []string{"commit work: ", "UPPER"}, []string{"work", "UPPER"}},
		{1, []string{"commit work: ", "NONSENSE is none of CMD"}, []string{"-c", "NONSENSE x", "work", "new"}},
		{1, []string{"commit plain: it was made from a plain directory"}, []string{"plain", "new"}},
		{1, []string{`commit odd: "`, `.wh.x": a name beginning with .wh. means a deletion`}, []string{"odd", "new"}},
	} {
		e.fails(row.code, row.texts, append([]string{"commit"}, row.args...)...)
	}
	cmd := e.command("commit", "work", "new")
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=soon")
	if r := e.finish(cmd); r.code != 1 || !strings.Contains(r.stderr, "SOURCE_DATE_EPOCH") {
		t.Errorf("a bad time: %+v", r)
	}
	e.ok("rmi", "-f", "busybox")
	e.fails(1, []string{"commit work: the image that it was made from", "no such image", "pull"}, "commit", "work", "new")
	if got := e.ok("diff", "work"); got != "A /x\n" {
		t.Errorf("the container has changed %q", got)
	}
	if names := list(filepath.Join(e.root, "snapshots/staging")); len(names) > 0 {
		t.Errorf("the stagings are %q", names)
	}
	if r := e.run("images", "-q"); r.stdout != "" {
		t.Errorf("there are images: %s", r.stdout)
	}
}

// Each commit is a layer on those of the earlier ones, with their steps in its history. What no layer carries stays the container's.
func TestCommitOnCommits(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "work", "busybox", "sh", "-c", "echo 1 > /x; echo 1 > /y; mkdir /d; echo 1 > /d/z")
	e.ok("commit", "-m", "first", "work", "made:1")
	write := func(script string) {
		dir := strings.TrimSpace(e.ok("mount", "work"))
		sh(t, dir, script)
		e.ok("umount", "work")
	}
	write("echo 2 > x; rm y; rm -r d; mkdir d; echo 2 > d/new; rm etc/one")
	dir := strings.TrimSpace(e.ok("mount", "work"))
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/socket", d.Fd())})
		unix.Close(fd)
	}
	d.Close()
	if err != nil {
		t.Fatal(err)
	}
	e.ok("umount", "work")
	changed := e.ok("diff", "work")
	if want := "A /d\nA /d/new\nC /etc\nD /etc/one\nA /socket\nA /x\n"; changed != want {
		t.Errorf("the container has changed\n%s", changed)
	}
	if r := e.run("commit", "-m", "second", "work", "made:2"); r.code != 0 || !strings.Contains(r.stderr, "a socket, which a tar cannot carry") {
		t.Errorf("a container with a socket: %+v", r)
	}
	if got := e.ok("diff", "work"); got != changed {
		t.Errorf("after the commit the container has changed\n%s", got)
	}
	if got := e.ok("history", "--format", "{{.Comment}}", "made:2"); got != "second\nfirst\n\n" {
		t.Errorf("the history is %q", got)
	}
	if got := e.ok("run", "--rm", "made:2", "sh", "-c", "cat /x /d/*; ls /y /etc/one /socket 2>&1 | wc -l"); got != "2\n2\n3\n" {
		t.Errorf("the second image has %q", got)
	}
	if got := e.ok("run", "--rm", "made:1", "sh", "-c", "cat /x /y /d/*"); got != "1\n1\n1\n" {
		t.Errorf("the first image has %q", got)
	}
	// The first image goes, and its layer stays with who stands on it.
	e.ok("rmi", "made:1", "made:2")
	e.ok("image", "prune", "-f")
	e.ok("commit", "-m", "third", "work", "made:3")
	if got := e.ok("history", "--format", "{{.Comment}}", "made:3"); got != "third\nfirst\n\n" {
		t.Errorf("the history is %q", got)
	}
	e.ok("check", "--full")
	e.ok("rm", "work")
	if got := e.ok("run", "--rm", "made:3", "cat", "/d/new"); got != "2\n" {
		t.Errorf("the third image has %q", got)
	}
}
