package tests

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	}
	// The rest by hand.
	hex := strings.Repeat("ab", 32)
	id := strings.Repeat("cd", 32)
	sh(t, e.root, `mkdir -p snapshots/trees/77/fs/etc snapshots/staging/dead/fs snapshots/active/half snapshots/trash/old/x/y images/ingest/`+hex+` containers/`+id+`
ln -s ../`+strings.Repeat("ef", 32)+` containers/names/nobody
echo junk | tee images/blobs/sha256/`+hex+` images/blobs/sha256/.`+hex+`-1 images/.index.json-2 images/names/gone.json snapshots/chains/.x snapshots/chains/feed.json .format-3 > images/ingest/`+hex+`/data; touch snapshots/active/half/record.json
mkdir snapshots/children/feed snapshots/trash/mounted; touch snapshots/children/feed/nobody
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
