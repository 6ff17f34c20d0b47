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

// stalledPull begins a pull that stops in the middle of its second layer; the first is the same as that of the image "base".
func stalledPull(t *testing.T, e *env, reg *registry) (finish func() result) {
	t.Helper()
	reg.push("base", "", "--config.cmd /bin/sh", busyboxLayer)
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 3000000 /dev/urandom > big")
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
	reg.push("base", "", "--config.cmd /bin/sh", busyboxLayer)
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
}
