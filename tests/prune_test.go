package tests

import (
	"bytes"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gate stands before a registry and stops the first body of more than 100 kB in its middle, until it is opened.
type gate struct {
	addr    string
	stalled chan bool // closed when a body has stopped
	open    func()
}

func startGate(t *testing.T, reg *registry) *gate {
	t.Helper()
	stalled, opened := make(chan bool), make(chan bool)
	var once, stop sync.Once
	target := &url.URL{Scheme: "http", Host: reg.addr}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == "GET" && strings.Contains(r.Request.URL.Path, "/blobs/") && r.ContentLength > 100_000 {
			once.Do(func() { r.Body = &stallingBody{r.Body, r.ContentLength / 2, stalled, opened} })
		}
		return nil
	}
	server := httptest.NewServer(proxy)
	g := &gate{addr: server.Listener.Addr().String(), stalled: stalled, open: func() { stop.Do(func() { close(opened) }) }}
	t.Cleanup(func() {
		g.open()
		server.Close()
	})
	return g
}

func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.stalled:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody fetched what was to be stopped")
	}
}

type stallingBody struct {
	io.ReadCloser
	left            int64
	stalled, opened chan bool
}

func (b *stallingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.left = -1
		close(b.stalled)
		<-b.opened
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	return n, err
}

// pushBoth puts two images into the registry: "base" with a small root, and "app" with one more layer on that.
func (r *registry) pushBoth(second string) {
	r.t.Helper()
	dir, err := os.MkdirTemp(scratch, "image.")
	if err != nil {
		r.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sh(r.t, dir, `mkdir l0 l1; (cd l0; `+busyboxLayer+`); (cd l1; `+second+`); for i in 0 1; do tar -C l$i -cf l$i.tar .; done
umoci init --layout img; umoci new --image img:t; umoci config --image img:t --config.cmd /bin/sh
for i in base app; do umoci raw add-layer --image img:t l$([ $i = base ]; echo $?).tar; skopeo copy -q --dest-tls-verify=false oci:img:t docker://`+r.addr+`/$i; done`)
}

// stalledPull begins a pull that stops in the middle of its second layer; the first is the same as that of the image "base".
func stalledPull(t *testing.T, e *env, reg *registry) (finish func() result) {
	t.Helper()
	g := startGate(t, reg)
	done := make(chan result, 1)
	go func() { done <- e.run("pull", g.addr+"/app") }()
	g.wait(t)
	return func() result {
		g.open()
		r := <-done
		if r.code == 0 {
			if out := e.ok("run", "--rm", g.addr+"/app", "sh", "-c", "cat /etc/one; wc -c < /big"); out != "one\n3000000\n" {
				t.Errorf("the image that was pulled meanwhile printed %q", out)
			}
		}
		return r
	}
}

// What a pull found here when it began stays until it names it, whatever is removed meanwhile.
func TestRemoveWhilePulling(t *testing.T) {
	reg := startRegistry(t, "")
	e := newEnv(t)
	reg.pushBoth("head -c 3000000 /dev/urandom > big")
	e.ok("pull", reg.addr+"/base")
	finish := stalledPull(t, e, reg)
	e.ok("rmi", reg.addr+"/base")
	if out := e.ok("images", "-q"); out != "" {
		t.Errorf("the image that was removed is listed: %s", out)
	}
	if r := finish(); r.code != 0 {
		t.Fatalf("pull: %s", r.stderr)
	}
	// The layout is whole, too: others read it.
	sh(t, e.dir, "skopeo copy -q oci:"+filepath.Join(e.root, "images")+":$(jq -r '.manifests[0].annotations[\"org.opencontainers.image.ref.name\"]' "+
		filepath.Join(e.root, "images/index.json")+") oci:copy:t && umoci unpack --image copy:t out && cat out/rootfs/etc/one")
}

// What takes long to delete is deleted by a process of its own, which has nothing of its caller's.
func TestReaper(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, "mkdir many && cd many && mkdir d{1..20} && for d in d*; do touch $d/{1..200}; done")
	e.ok("import", "./many")
	tree := list(filepath.Join(e.root, "snapshots/trees"))
	if len(tree) != 1 {
		t.Fatalf("trees: %q", tree)
	}
	// The answer's pipe ends with the command, and not with the reaper, even where a stray descriptor leads to it.
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := e.command("rmi", "many")
	cmd.ExtraFiles = []*os.File{write}
	if r := e.finish(cmd); r.code != 0 {
		t.Fatal(r.stderr)
	}
	write.Close()
	if _, err := io.ReadAll(read); err != nil {
		t.Fatal(err)
	}
	if names := list(filepath.Join(e.root, "snapshots/trees")); len(names) != 0 {
		t.Errorf("trees: %q", names)
	}
	e.waitForReaper()

	// What a container wrote is deleted so, too, whether it is removed or removes itself.
	e.busybox("busybox")
	e.ok("import", "./busybox")
	script := "mkdir /d && cd /d && seq 3000 | xargs touch"
	e.ok("run", "--rm", "busybox", "sh", "-c", script)
	e.ok("run", "--name", "wrote", "busybox", "sh", "-c", script)
	e.ok("rm", "wrote")
	if names := list(filepath.Join(e.root, "snapshots/active")); len(names) != 0 {
		t.Errorf("active: %q", names)
	}
	e.waitForReaper()
}

// A record that outlived its image, as a kill may leave one, does not mislead run.
func TestRunAfterStaleRecord(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer)
	e := withBusybox(t)
	app := reg.addr + "/app"
	e.ok("pull", app)
	sh(t, e.root, "cp -r images/names stale")
	e.ok("rmi", app)
	e.ok("rmi", "busybox")
	sh(t, e.root, "cp stale/* images/names/ && rm -r stale")
	if out := e.ok("run", "--rm", app, "cat", "/etc/one"); out != "one\n" {
		t.Errorf("run printed %q", out)
	}
	e.fails(125, []string{"busybox: no such image"}, "run", "--rm", "--pull", "never", "busybox", "true")
}

// tree lists the store's files, but for what the databases and locks are.
func (e *env) files() string {
	return sh(e.t, e.root, `find . \( -path './snapshots/trees/*/fs/*' -o -name 'meta.db*' \) -prune -o -printf '%y %p\n' | sort`)
}

func TestPrune(t *testing.T) {
	e := withBusybox(t)
	e.busybox("other")
	sh(t, e.dir, "echo another > other/etc/one")
	e.ok("import", "--change", "LABEL keep=yes", "./other", "labelled")
	e.ok("run", "--name", "stopped", "busybox", "sh", "-c", "head -c 100000 /dev/zero > /written")
	e.ok("run", "--name", "kept", "labelled", "true")
	e.ok("import", "--change", "CMD one", "./busybox", "moved")
	e.ok("import", "--change", "CMD two", "./busybox", "moved") // the first one has no name any more
	if n := len(strings.Fields(e.ok("images", "-q"))); n != 4 {
		t.Fatalf("%d images:\n%s", n, e.ok("images"))
	}

	// Without an answer nothing happens.
	for _, answer := range []string{"", "n\n", "\n", "yes\n"} {
		for _, command := range []string{"prune", "prune -a", "image prune", "container prune"} {
			cmd := e.command(strings.Fields(command)...)
			cmd.Stdin = strings.NewReader(answer)
			r := e.finish(cmd)
			if r.code != 0 || !strings.HasPrefix(r.stdout, "WARNING! This will remove") || !strings.Contains(r.stdout, "Are you sure you want to continue? [y/N] ") ||
				strings.Contains(r.stdout, "Total") {
				t.Errorf("%s, answered %q: %+v", command, answer, r)
			}
		}
	}
	if n := len(strings.Fields(e.ok("ps", "-aq"))); n != 2 {
		t.Errorf("%d containers are left", n)
	}

	// Filters.
	out := e.ok("container", "prune", "-f", "--filter", "label=keep")
	if !strings.HasPrefix(out, "Deleted Containers:\n") || e.ok("ps", "-a", "--format", "{{.Names}}") != "stopped\n" {
		t.Errorf("by label:\n%s", out)
	}
	if out := e.ok("container", "prune", "-f", "--filter", "until=1h"); out != "Total reclaimed space: 0B\n" {
		t.Errorf("younger than an hour:\n%s", out)
	}
	if out := e.ok("image", "prune", "-a", "-f", "--filter", "until=1h"); out != "Total reclaimed space: 0B\n" {
		t.Errorf("younger than an hour:\n%s", out)
	}
	e.fails(2, []string{"--filter", "until"}, "prune", "-f", "--filter", "until=soon")

	// Only what lost its name goes without -a, and what a container was made from stays with it.
	out = e.ok("image", "prune", "-f")
	if !strings.HasPrefix(out, "Deleted Images:\ndeleted: sha256:") || strings.Contains(out, "untagged") || len(strings.Fields(e.ok("images", "-q"))) != 3 {
		t.Errorf("image prune:\n%s%s", out, e.ok("images"))
	}
	e.ok("image", "prune", "-a", "-f", "--filter", "label!=keep")
	if got := e.ok("images", "--format", "{{.Repository}}"); !strings.Contains(got, "labelled") || !strings.Contains(got, "busybox") {
		t.Errorf("image prune -a of what has no label left %q", got)
	}
	out = e.ok("image", "prune", "-af")
	if !strings.Contains(out, "untagged: localhost/labelled:latest\n") {
		t.Errorf("image prune -a:\n%s", out)
	}
	if got := e.ok("images", "--format", "{{.Repository}}"); !strings.Contains(got, "busybox") || strings.Contains(got, "labelled") {
		t.Errorf("image prune -a left %q", got)
	}
	if e.ok("diff", "stopped") != "A /written\n" {
		t.Error("the container's files are gone")
	}
	cmd := e.command("prune", "-a")
	cmd.Stdin = strings.NewReader("y\n")
	r := e.finish(cmd)
	if r.code != 0 || !strings.Contains(r.stdout, "Deleted Containers:\n") || !strings.Contains(r.stdout, "Deleted Images:\nuntagged: localhost/busybox:latest\n") ||
		!strings.Contains(r.stdout, "Total reclaimed space: ") || strings.Contains(r.stdout, "Leftovers") {
		t.Errorf("prune -a: %+v", r)
	}
	if got := e.files(); strings.Contains(got, "blobs/sha256/") || strings.Contains(got, "trees/2") || strings.Contains(got, ".json\n") && strings.Count(got, ".json\n") != 1 {
		t.Errorf("after prune -a there is\n%s", got)
	}
}

// Nothing that is in flight is touched.
func TestPruneInFlight(t *testing.T) {
	reg := startRegistry(t, "")
	e := withBusybox(t)
	reg.pushBoth("head -c 3000000 /dev/urandom > big")
	finish := stalledPull(t, e, reg)

	imported := e.command("import", "-", "piped")
	in, err := imported.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.start(imported)
	tarball := sh(t, e.dir, "tar -C busybox -c .")
	if _, err := io.WriteString(in, tarball[:len(tarball)/2]); err != nil {
		t.Fatal(err)
	}

	running := e.command("run", "--rm", "-i", "busybox", "sh", "-c", "echo up; cat; cat /etc/one")
	rin, err := running.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	rout, err := running.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.start(running)
	buf := make([]byte, 3)
	if _, err := io.ReadFull(rout, buf); err != nil || string(buf) != "up\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	eventually(t, "the import has begun", func() bool { return len(list(filepath.Join(e.root, "snapshots/staging"))) >= 3 })

	for range 3 {
		if out := e.ok("prune", "-af"); out != "Total reclaimed space: 0B\n" {
			t.Errorf("prune in the middle of it:\n%s", out)
		}
	}
	if _, err := io.WriteString(in, tarball[len(tarball)/2:]); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := imported.Wait(); err != nil {
		t.Errorf("import: %v", err)
	}
	if out := e.ok("run", "--rm", "piped", "cat", "/etc/one"); out != "one\n" {
		t.Errorf("what was imported says %q", out)
	}
	rin.Close()
	rest, err := io.ReadAll(rout)
	if err := running.Wait(); err != nil {
		t.Errorf("run: %v", err)
	}
	if err != nil || string(rest) != "one\n" {
		t.Errorf("what ran said %q, %v", rest, err)
	}
	if r := finish(); r.code != 0 {
		t.Errorf("pull: %s", r.stderr)
	}
}

// What a crash leaves, of every kind: prune removes it, and nothing else.
func TestPruneLeftovers(t *testing.T) {
	reg := startRegistry(t, "")
	e := withBusybox(t)
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 3000000 /dev/urandom > big")
	e.ok("pull", reg.addr+"/app")
	e.ok("run", "--name", "stays", "busybox", "sh", "-c", "echo x > /x")
	e.ok("prune", "-f", "--filter", "until=24h")
	want := e.files()

	// A pull that is killed in its middle.
	reg.push("app2", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 3000000 /dev/urandom > big")
	g := startGate(t, reg)
	pull := e.start(e.command("pull", g.addr+"/app2"))
	g.wait(t)
	pull.Process.Kill()
	pull.Wait()
	g.open()
	// Containers that are killed with their monitors, one that removes itself and one that stays.
	for _, how := range [][]string{{"run", "--rm", "busybox"}, {"run", "--name", "killed", "busybox"}} {
		cmd := e.command(append(how, "sh", "-c", "echo up; sleep 1000")...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if how[1] == "--name" {
			syscall.Kill(e.monitorOf("killed"), syscall.SIGKILL)
		}
	}
	// The rest by hand.
	hex := strings.Repeat("ab", 32)
	id := strings.Repeat("cd", 32)
	sh(t, e.root, `mkdir -p snapshots/trees/77/fs/etc snapshots/staging/dead/fs snapshots/active/half snapshots/trash/old/x/y images/ingest/`+hex+` containers/`+id+`
ln -s ../`+strings.Repeat("ef", 32)+` containers/names/nobody
echo junk | tee images/blobs/sha256/`+hex+` images/blobs/sha256/.`+hex+`-1 images/.index.json-2 images/names/gone.json snapshots/chains/.x snapshots/chains/feed.json .format-3 > images/ingest/`+hex+`/data; touch snapshots/active/half/record.json
rm images/index.json; mkdir snapshots/children/feed snapshots/trash/mounted; touch snapshots/children/feed/nobody
mount --bind snapshots/chains snapshots/trash/mounted`)
	if got := e.files(); got == want {
		t.Fatal("nothing was left behind")
	}
	out := e.ok("prune", "-f", "--filter", "until=24h")
	if !strings.Contains(out, "Deleted Leftovers:\n") {
		t.Errorf("prune:\n%s", out)
	}
	e.ok("rm", "killed")
	if got := e.files(); got != want {
		t.Errorf("prune left:\n%s\nwant\n%s", got, want)
	}
	if out := e.ok("prune", "-f", "--filter", "until=24h"); out != "Total reclaimed space: 0B\n" {
		t.Errorf("a second prune found something:\n%s", out)
	}
	if got := e.ok("run", "--rm", reg.addr+"/app", "cat", "/etc/one"); got != "one\n" {
		t.Errorf("the image that stays says %q", got)
	}
	e.ok("diff", "stays")
}

// A full disk: a pull that fails gives back what its first layers took, and removing works when there is no room for a byte.
func TestFullDiskIsFreed(t *testing.T) {
	reg := startRegistry(t, "")
	reg.pushBoth("head -c 30000000 /dev/urandom > big")
	e := newEnv(t)
	sh(t, e.dir, `mkdir small && truncate -s 24M disk && mkfs.ext4 -q -O ^has_journal disk && mount -o loop disk small`)
	defer sh(t, e.dir, "umount small")
	e.busybox("busybox")
	root := filepath.Join(e.dir, "small", "store")
	e.ok("--root", root, "import", "busybox")
	e.ok("--root", root, "run", "--name", "stopped", "busybox", "sh", "-c", "head -c 1000000 /dev/zero > /x")
	used := func() string {
		return strings.Fields(sh(t, e.dir, "sync; df --output=used small | tail -n 1"))[0]
	}
	before := used()
	r := e.run("--root", root, "pull", reg.addr+"/app")
	if r.code != 1 || !strings.Contains(r.stderr, "no space left on device") {
		t.Errorf("%+v", r)
	}
	if after := used(); after != before {
		t.Errorf("%s KiB were in use before the pull that failed, %s after", before, after)
	}
	e.ok("--root", root, "pull", reg.addr+"/base")
	sh(t, e.dir, "cat /dev/zero > small/filler || true; sync")
	e.ok("--root", root, "rmi", reg.addr+"/base")
	sh(t, e.dir, "cat /dev/zero >> small/filler || true; sync")
	e.ok("--root", root, "prune", "-af")
	if got := e.ok("--root", root, "images", "-q") + e.ok("--root", root, "ps", "-aq"); got != "" {
		t.Errorf("left: %q", got)
	}
	sh(t, e.dir, "rm small/filler")
	e.ok("--root", root, "import", "busybox")
	e.ok("--root", root, "run", "--rm", "busybox", "true")
}

// Whatever a kill interrupts, also the reaper in its middle, prune finishes.
func TestReaperKilled(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, "mkdir many && cd many && mkdir d{1..60} && for d in d*; do touch $d/{1..500}; done")
	e.busybox("busybox")
	e.ok("import", "./busybox")
	want := e.files()
	e.ok("import", "./many")
	trash := filepath.Join(e.root, "snapshots/trash")
	e.ok("rmi", "many")
	for killed := false; !killed; {
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			if b, err := os.ReadFile(p); err == nil && string(b) == "layerctl-reaper\x00"+filepath.Join(e.root, "snapshots")+"\x00" {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
				if err != nil {
					t.Fatal(err)
				}
				killed = syscall.Kill(pid, syscall.SIGKILL) == nil
			}
		}
		if len(list(trash)) == 0 {
			t.Fatal("the reaper had done before it was killed: the tree is too small for this test")
		}
	}
	if out := e.ok("prune", "-f"); !strings.Contains(out, "trash ") {
		t.Errorf("prune:\n%s", out)
	}
	if names := list(trash); len(names) > 0 {
		t.Errorf("trash: %q", names)
	}
	if got := e.files(); got != want {
		t.Errorf("the store holds\n%s\nwant\n%s", got, want)
	}
}

// Commands are killed at random moments. After a prune there is exactly what there would be without those commands.
func TestKilledThenPruned(t *testing.T) {
	reg := startRegistry(t, "")
	reg.pushBoth("head -c 2000000 /dev/urandom > big; mkdir d; touch d/{1..300}")
	e := withBusybox(t)
	app, base := reg.addr+"/app", reg.addr+"/base"
	e.ok("pull", base)
	e.ok("run", "--name", "stays", base, "true")
	// Files whose names hold what the names' order of making decides are told by what they name.
	normal := func() string { return regexp.MustCompile(`(trees)/\d+`).ReplaceAllString(e.files(), "$1/N") }
	e.ok("pull", app)
	with := normal()
	e.ok("rmi", app)
	e.waitForReaper()
	without := normal()
	rnd := rand.New(rand.NewSource(time.Now().UnixNano()))
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for i := range rounds {
		for _, args := range [][]string{{"pull", "-q", app}, {"import", "./busybox", "killed"}, {"run", "--rm", base, "true"}, {"rmi", app}, {"prune", "-f", "--filter", "until=24h"}} {
			cmd := e.command(args...)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			e.start(cmd)
			timer := time.AfterFunc(time.Duration(rnd.Intn(120))*time.Millisecond, func() { cmd.Process.Kill() })
			err := cmd.Wait()
			timer.Stop()
			if err != nil && cmd.ProcessState.ExitCode() != -1 && args[0] != "rmi" {
				t.Errorf("round %d: %q: %v\n%s", i, args, err, errs.String())
			}
		}
		e.run("rmi", "killed")
		e.ok("prune", "-f", "--filter", "until=24h")
		here := e.run("rmi", app).code == 0
		e.waitForReaper()
		if got := normal(); got != without {
			t.Fatalf("round %d: after the kills and a prune the store holds\n%s\nwant\n%s", i, got, without)
		}
		if here {
			t.Logf("round %d: the image was there", i)
		}
	}
	e.ok("pull", app)
	if got := normal(); got != with {
		t.Errorf("a pull after it all makes\n%s\nwant\n%s", got, with)
	}
	e.ok("check", "--full")
}
