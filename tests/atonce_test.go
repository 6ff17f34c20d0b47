package tests

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Twenty processes pull images that overlap, import, run, tag, remove and prune in one store for a minute, under the race detector.
func TestTwentyAtOnce(t *testing.T) {
	seconds := 60
	if s := os.Getenv("LAYERCTL_TEST_SECONDS"); s != "" {
		var err error
		if seconds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CGO_ENABLED", "1") // the race detector's
	program := buildWith(t, "layerctl-race", "-race")
	reg := startRegistry(t, "")
	// Tarballs that are the same bytes are the same layers.
	sh(t, reg.dir, `mkdir base shared c d
(cd base; `+smallLayer+`); (cd shared; head -c 3000000 /dev/zero | tr '\0' x > shared; mkdir srv; seq 20000 > srv/numbers); echo c > c/c; echo d > d/d
for l in base shared c d; do tar -C $l --sort=name --format=gnu --mtime=@1700000000 -cf $l.tar .; done
umoci init --layout img
image() { name=$1; shift; umoci new --image img:$name; for l; do umoci raw add-layer --image img:$name $l.tar; done; umoci config --image img:$name --config.cmd true
skopeo copy -q --dest-tls-verify=false oci:img:$name docker://`+reg.addr+`/$name; }
image a base; image b base shared; image c base shared c; image d base d shared`)
	e := newEnv(t)
	sh(t, e.dir, `mkdir tree && cd tree && `+smallLayer)
	e.program = program
	reg.requests()

	// One registry's images, each by five: every layer comes once, and is unpacked once.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if r := e.run("pull", "-q", reg.addr+"/"+string("abcd"[i%4])); r.code != 0 {
				t.Errorf("pull: status %d: %s", r.code, r.stderr)
			}
		})
	}
	wg.Wait()
	gets := map[string]int{}
	for _, request := range reg.requests() {
		if digest, ok := strings.CutPrefix(request[strings.LastIndex(request, "/")+1:], "sha256:"); ok && strings.HasPrefix(request, "GET") && strings.Contains(request, "/blobs/") {
			gets[digest]++
		}
	}
	layers := strings.Fields(e.ok("inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", reg.addr+"/a", reg.addr+"/b", reg.addr+"/c", reg.addr+"/d"))
	distinct := map[string]bool{}
	for _, l := range layers {
		distinct[l] = true
	}
	if len(layers) != 9 || len(distinct) != 4 {
		t.Errorf("the images have %d layers, %d distinct ones: they do not overlap as they should", len(layers), len(distinct))
	}
	trees := list(filepath.Join(e.root, "snapshots/trees"))
	if len(trees) != len(distinct) {
		t.Errorf("%d layers became the trees %q", len(distinct), trees)
	}
	for _, tree := range trees {
		if n, err := strconv.Atoi(tree); err != nil || n > len(distinct) {
			t.Errorf("a layer was unpacked more than once: there are the trees %q", trees)
		}
	}
	fetched := 0
	for digest, n := range gets {
		if n > 1 && exists(filepath.Join(e.root, "images/blobs/sha256", digest)) && bytes.HasPrefix(firstBytes(t, filepath.Join(e.root, "images/blobs/sha256", digest)), []byte{0x1f, 0x8b}) {
			t.Errorf("layer %s was fetched %d times", digest, n)
		}
		fetched += n
	}
	if fetched < len(distinct) {
		t.Errorf("%d blobs were fetched: are the registry's requests seen?", fetched)
	}

	// What a user expects who shares a store with others that remove things.
	expected := regexp.MustCompile(`no such (image|container|snapshot)|was made from it|has that name|it has the names|name in use|snapshot in use|container is running`)
	var counted [2]atomic.Int64
	until := time.Now().Add(time.Duration(seconds) * time.Second)
	for worker := range 20 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 4))
			names := []string{reg.addr + "/a", reg.addr + "/b", reg.addr + "/c", reg.addr + "/d", "localhost/tree", "localhost/t0", "localhost/t1"}
			any := func() string { return names[random.IntN(len(names))] }
			for n := 0; time.Now().Before(until) && !t.Failed(); n++ {
				own := fmt.Sprintf("w%d-%d", worker, n)
				var commands []string
				switch random.IntN(12) {
				case 0, 1, 2:
					commands = []string{"pull -q " + names[random.IntN(4)]}
				case 3:
					commands = []string{"import tree tree"}
				case 4, 5:
					commands = []string{"run --rm --pull never " + any() + " true"}
				case 6:
					commands = []string{"run --pull never --name " + own + " " + any() + " true", "rm " + own}
				case 7:
					commands = []string{"tag " + any() + " t" + fmt.Sprint(random.IntN(2))}
				case 8, 9:
					commands = []string{"rmi " + any()}
				case 10:
					commands = []string{"prune -f"}
				default:
					commands = []string{[]string{"images", "ps -a", "df", "check --quick"}[random.IntN(4)]}
				}
				for _, c := range commands {
					cmd := e.command(strings.Fields(c)...)
					cmd.Env = append(cmd.Env, "GORACE=halt_on_error=1 exitcode=66")
					r := e.finish(cmd)
					if strings.Contains(r.stderr, "DATA RACE") || strings.Contains(r.stderr, "goroutine ") || r.code != 0 && !expected.MatchString(r.stderr) {
						t.Errorf("%s: status %d: %s%s", c, r.code, r.stdout, r.stderr)
					}
					counted[min(r.code, 1)].Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d commands, and %d that found something gone or in use", counted[0].Load(), counted[1].Load())
	e.program = ""
	e.ok("check", "--full")
	for _, image := range strings.Fields(e.ok("images", "-q", "--no-trunc")) {
		e.ok("run", "--rm", image, "true")
	}
	if ids := strings.Fields(e.ok("ps", "-aq")); len(ids) > 0 {
		e.ok(append([]string{"rm", "-f"}, ids...)...)
	}
	e.ok("prune", "-f", "-a")
	e.waitForReaper()
	if names := list(filepath.Join(e.root, "snapshots/trees")); len(names) != 1 || names[0] != "init" {
		t.Errorf("the trees %q are left", names)
	}
	if names := list(filepath.Join(e.root, "images/blobs/sha256")); len(names) > 0 {
		t.Errorf("the blobs %q are left", names)
	}
}

func firstBytes(t testing.TB, path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4)
	n, _ := io.ReadFull(f, b)
	return b[:n]
}

// A registry that stops in the middle of a blob holds up who pulls that blob, and nobody else.
func TestNothingWaitsForTheNetwork(t *testing.T) {
	e := withBusybox(t)
	reg := startRegistry(t, "")
	reg.push("stalled", "", "--config.cmd true", smallLayer, "head -c 2000000 /dev/urandom > big")
	reg.push("other", "", "--config.cmd true", smallLayer+"; echo other > etc/other")
	target, err := url.Parse("http://" + reg.addr)
	if err != nil {
		t.Fatal(err)
	}
	release, stalled := make(chan bool), make(chan bool, 100)
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/stalled/blobs/") {
			proxy.ServeHTTP(w, r)
			return
		}
		resp, err := http.Get(target.String() + r.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Length", resp.Header.Get("Content-Length"))
		if _, err := io.CopyN(w, resp.Body, 100000); err == nil { // a big one
			w.(http.Flusher).Flush()
			stalled <- true
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		io.Copy(w, resp.Body)
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	e.ok("tag", "busybox", "away")
	e.ok("pull", "-q", reg.addr+"/other")
	type pull struct {
		cmd    *exec.Cmd
		stderr string
		done   chan error
	}
	start := func(name string) *pull {
		p := &pull{cmd: e.command("pull", "--progress", "plain", addr+"/stalled"), stderr: filepath.Join(e.dir, name), done: make(chan error, 1)}
		f, err := os.Create(p.stderr)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p.cmd.Stderr = f
		e.start(p.cmd)
		go func() { p.done <- p.cmd.Wait() }()
		return p
	}
	first := start("first")
	<-stalled
	second := start("second")
	eventually(t, "the second pull says what it waits for", func() bool {
		b, _ := os.ReadFile(second.stderr)
		return regexp.MustCompile(`(?m)^[^\n]*[0-9a-f]{12}[^\n]*waiting for another process`).Match(b)
	})
	for _, args := range []string{"images", "run --rm busybox true", "run --name kept busybox true", "rm kept", "rmi away", "rmi " + reg.addr + "/other",
		"import busybox again", "prune -f", "pull -q " + addr + "/other", "df", "check --full", "tag busybox more", "ps -a", "history busybox"} {
		begin := time.Now()
		e.ok(strings.Fields(args)...)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%s took %v", args, took)
		}
	}
	for _, p := range []*pull{first, second} {
		select {
		case err := <-p.done:
			b, _ := os.ReadFile(p.stderr)
			t.Fatalf("a pull ended before it could: %v: %s", err, b)
		default:
		}
	}
	close(release)
	for _, p := range []*pull{first, second} {
		if err := <-p.done; err != nil {
			b, _ := os.ReadFile(p.stderr)
			t.Errorf("pull: %v: %s", err, b)
		}
	}
	e.ok("run", "--rm", addr+"/stalled", "cat", "/etc/one")
}
