package tests

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// fault is what a faultProxy does to one answer of the registry behind it; the zero fault does nothing.
type fault struct {
	status    int                 // answer so instead of asking the registry
	message   string              // and say that
	take      int                 // pass only so many bytes of what is sent on, then cut both connections off
	header    map[string]string   // set on the answer; "" takes one away
	cut       int                 // cut the connection off after so many bytes of the body; -1 before any
	stall     int                 // send nothing more after so many bytes, until the other side hangs up; -1 before any
	pace      time.Duration       // between pieces of 16 KiB
	noRange   bool                // know no ranges
	chunked   bool                // do not say the length
	length    int                 // say another length: so much more than there is
	anonymous bool                // forget what the client has shown
	redirect  string              // send the client there, with the path appended
	change    func([]byte) []byte // change the body
}

// faultProxy stands before a registry and does to each request what rule says. n counts the requests for the same method and path, from 1.
type faultProxy struct {
	t    testing.TB
	addr string
	back string
	rule func(r *http.Request, n int) fault

	mu    sync.Mutex
	count map[string]int
	seen  []*http.Request
}

func startFaultProxy(t testing.TB, back string, rule func(r *http.Request, n int) fault) *faultProxy {
	t.Helper()
	p := &faultProxy{t: t, back: back, rule: rule, count: map[string]int{}}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	p.addr = strings.TrimPrefix(s.URL, "http://")
	return p
}

// requests returns what came since the last call.
func (p *faultProxy) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

func (p *faultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r)
	p.count[r.Method+r.URL.Path]++
	n := p.count[r.Method+r.URL.Path]
	p.mu.Unlock()
	f := p.rule(r, n)
	if f.status != 0 || f.redirect != "" {
		for k, v := range f.header {
			w.Header().Set(k, v)
		}
		if f.redirect != "" {
			w.Header().Set("Location", f.redirect+r.URL.Path)
			f.status = http.StatusTemporaryRedirect
		}
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(f.status)
		fmt.Fprintf(w, `{"errors": [{"message": %q}]}`, f.message)
		return
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+p.back+r.URL.Path+"?"+r.URL.RawQuery, http.NoBody)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	out.Header = r.Header.Clone()
	out.Host = r.Host
	if r.ContentLength > 0 {
		out.Body, out.ContentLength = r.Body, r.ContentLength
	}
	if f.take > 0 {
		out.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, int64(f.take)), cutReader{}))
		http.DefaultTransport.RoundTrip(out)
		panic(http.ErrAbortHandler)
	}
	if f.noRange {
		out.Header.Del("Range")
	}
	if f.anonymous {
		out.Header.Del("Authorization")
	}
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	if f.change != nil {
		body = f.change(body)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	if f.chunked {
		w.Header().Del("Content-Length")
	}
	if f.length != 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)+f.length))
	}
	for k, v := range f.header {
		if v == "" {
			w.Header()[http.CanonicalHeaderKey(k)] = nil // nor guessed
			continue
		}
		w.Header().Set(k, v)
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method == http.MethodHead {
		return
	}
	p.send(w, r, body, f)
}

// cutReader ends a request in its middle.
type cutReader struct{}

func (cutReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (p *faultProxy) send(w http.ResponseWriter, r *http.Request, body []byte, f fault) {
	flush := http.NewResponseController(w).Flush
	end := len(body)
	if n := f.cut + f.stall; n != 0 {
		end = min(max(n, 0), end)
	}
	piece := end
	if f.pace > 0 || f.chunked {
		piece = 16 << 10
	}
	for sent := 0; sent < end; {
		n := min(piece, end-sent)
		if _, err := w.Write(body[sent : sent+n]); err != nil {
			return
		}
		sent += n
		if flush() != nil {
			return
		}
		time.Sleep(f.pace)
	}
	switch {
	case f.stall != 0:
		flush()
		<-r.Context().Done()
	case f.cut != 0 && end < len(body), f.length > 0:
		flush()
		panic(http.ErrAbortHandler)
	}
}

// TestPullThroughFaults pulls one image through every fault that there is a rule for.
func TestPullThroughFaults(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 400000 /dev/urandom > noise", "mkdir d; for i in $(seq 50); do echo $i > d/$i; done")
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct {
			Digest string
			Size   int
		}
	}
	fromJSON(t, sh(t, "/", "skopeo inspect --raw --tls-verify=false docker://"+reg.addr+"/app"), &manifest)
	noise := manifest.Layers[1]
	is := func(r *http.Request, what string) bool {
		return r.Method == "GET" && strings.Contains(r.URL.Path, what)
	}
	// once does it to the first request for something.
	once := func(what string, f fault) func(*http.Request, int) fault {
		return func(r *http.Request, n int) fault {
			if n == 1 && is(r, what) {
				return f
			}
			return fault{}
		}
	}
	always := func(what string, f fault) func(*http.Request, int) fault {
		return func(r *http.Request, n int) fault {
			if is(r, what) {
				return f
			}
			return fault{}
		}
	}
	soon := time.Now().Add(90 * time.Minute).UTC().Format(http.TimeFormat)
	bytesOf := func(b []byte) []byte {
		return bytes.Replace(b, []byte(fmt.Sprintf("%d", noise.Size)), []byte(fmt.Sprintf("%d", noise.Size-1)), 1)
	}
	sameLength := func(b []byte) []byte {
		return bytes.Replace(b, []byte(noise.Digest[:20]), []byte("sha256:0000000000000"), 1)
	}
	type row struct {
		name  string
		rule  func(*http.Request, int) fault
		says  []string // in what a pull that works says, or in the error of one that fails
		fails bool
		stall string // after how long a body counts as stalled
	}
	rows := []row{
		{name: "429 with seconds", rule: once("/manifests/", fault{status: 429, header: map[string]string{"Retry-After": "1"}}), says: []string{"waiting 1s: ", "429"}},
		{name: "503 with a date", rule: once(noise.Digest, fault{status: 503, header: map[string]string{"Retry-After": time.Now().UTC().Format(http.TimeFormat)}}), says: []string{"waiting ", "503"}},
		{name: "500 three times", rule: func(r *http.Request, n int) fault {
			if is(r, noise.Digest) && n <= 3 {
				return fault{status: 500}
			}
			return fault{}
		}, says: []string{"waiting ", "500"}},
		{name: "503 for ever", rule: always(noise.Digest, fault{status: 503}), says: []string{"layer " + noise.Digest, "503", "unavailable"}, fails: true},
		{name: "429 for an hour and a half", rule: always("/manifests/", fault{status: 429, header: map[string]string{"Retry-After": soon}}), says: []string{"429", "left alone for 1h"}, fails: true},
		{name: "a manifest cut in the middle", rule: once("/manifests/", fault{cut: 100}), says: []string{"waiting "}},
		{name: "a config cut in the middle", rule: once(manifest.Config.Digest, fault{cut: 50}), says: []string{"after 50 of "}},
		{name: "a connection cut before the answer", rule: once(noise.Digest, fault{cut: -1}), says: []string{"waiting "}},
		{name: "every connection cut", rule: always(noise.Digest, fault{cut: 50000}), says: []string{"after 50000 of ", "after 350000 of "}},
		{name: "cut, and no ranges known", rule: func(r *http.Request, n int) fault {
			if !is(r, noise.Digest) {
				return fault{}
			}
			return fault{noRange: true, cut: n * 150000}
		}, says: []string{"after 150000 of ", "after 300000 of "}},
		{name: "cut at the same place for ever", rule: always(noise.Digest, fault{noRange: true, cut: 100000}), says: []string{"layer " + noise.Digest, "after 100000 of ", "unavailable"}, fails: true},
		{name: "a range from elsewhere", rule: func(r *http.Request, n int) fault {
			switch {
			case !is(r, noise.Digest):
				return fault{}
			case n == 1:
				return fault{cut: 1000}
			}
			return fault{header: map[string]string{"Content-Range": fmt.Sprintf("bytes 0-%d/%d", noise.Size-1, noise.Size)}}
		}, says: []string{"layer " + noise.Digest, "verification failed", "from byte 1000"}, fails: true},
		{name: "a stall", rule: once(noise.Digest, fault{stall: 20000}), says: []string{"after 20000 of ", "nothing came for too long"}, stall: "1s"},
		{name: "a stall before the first byte", rule: once(noise.Digest, fault{stall: -1}), says: []string{"nothing came for too long"}, stall: "1s"},
		{name: "a manifest that stalls", rule: once("/manifests/", fault{stall: 20}), says: []string{"nothing came for too long"}, stall: "1s"},
		{name: "a slow link", rule: always(noise.Digest, fault{pace: 80 * time.Millisecond}), stall: "1s"},
		{name: "chunked bodies", rule: always("/", fault{chunked: true})},
		{name: "chunked, and cut", rule: once(noise.Digest, fault{chunked: true, cut: 30000}), says: []string{"after "}},
		{name: "a length that is too great", rule: always(noise.Digest, fault{length: 10}), says: []string{"layer " + noise.Digest, "verification failed"}, fails: true},
		{name: "a length that is too small", rule: always(noise.Digest, fault{change: func(b []byte) []byte { return b[:len(b)-10] }}), says: []string{"layer " + noise.Digest, "verification failed"}, fails: true},
		{name: "a chunked body that is too long", rule: always(noise.Digest, fault{chunked: true, change: func(b []byte) []byte { return append(b, "more"...) }}),
			says: []string{"layer " + noise.Digest, "verification failed"}, fails: true},
		{name: "a chunked body that is too short", rule: always(noise.Digest, fault{chunked: true, noRange: true, change: func(b []byte) []byte { return b[:len(b)-10] }}),
			says: []string{"layer " + noise.Digest, "unavailable"}, fails: true},
		{name: "a byte that changed", rule: always(noise.Digest, fault{change: func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }}),
			says: []string{"layer " + noise.Digest, "verification failed"}, fails: true},
		{name: "cut, and other bytes after it", rule: func(r *http.Request, n int) fault {
			switch {
			case !is(r, noise.Digest):
				return fault{}
			case n == 1:
				return fault{cut: 100000}
			}
			return fault{change: func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) }}
		}, says: []string{"layer " + noise.Digest, "verification failed"}, fails: true},
		{name: "a login page for a manifest", rule: always("/manifests/", fault{header: map[string]string{"Content-Type": "text/html", "Docker-Content-Digest": ""},
			change: func([]byte) []byte { return []byte("<html>please log in") }}), says: []string{"verification failed", "text/html"}, fails: true},
		{name: "a manifest as text", rule: always("/manifests/", fault{header: map[string]string{"Content-Type": "text/plain; charset=utf-8"}})},
		{name: "a manifest of no type", rule: always("/manifests/", fault{header: map[string]string{"Content-Type": ""}})},
		{name: "a manifest that came as an index", rule: always("/manifests/", fault{header: map[string]string{"Content-Type": "application/vnd.oci.image.index.v1+json"}}),
			says: []string{"verification failed", "index"}, fails: true},
		{name: "a manifest that is not what its digest says", rule: always("/manifests/", fault{change: sameLength}), says: []string{"verification failed", "digest"}, fails: true},
		{name: "a manifest that lies of a size", rule: always("/manifests/", fault{change: bytesOf, header: map[string]string{"Docker-Content-Digest": ""}}),
			says: []string{"layer " + noise.Digest, "verification failed", strconv.Itoa(noise.Size - 1)}, fails: true},
		{name: "a manifest that lies of a digest", rule: always("/manifests/", fault{change: sameLength, header: map[string]string{"Docker-Content-Digest": ""}}),
			says: []string{"no such image", "404"}, fails: true},
		{name: "a manifest without end", rule: always("/manifests/", fault{change: func([]byte) []byte { return bytes.Repeat([]byte(" "), 5<<20) }}),
			says: []string{"verification failed", "more than"}, fails: true},
		{name: "no HEAD", rule: func(r *http.Request, _ int) fault {
			if r.Method == "HEAD" {
				return fault{status: 405}
			}
			return fault{}
		}},
	}
	for _, n := range []int{1, 2, 9, 10, 11, 18, 511, 512, 513, 4095, 4096, 32768, 65535, 65536, noise.Size / 2, noise.Size - 9, noise.Size - 8, noise.Size - 1} {
		rows = append(rows, row{name: fmt.Sprintf("cut after %d bytes", n), rule: once(noise.Digest, fault{cut: n}), says: []string{fmt.Sprintf("after %d of %d bytes", n, noise.Size)}})
	}
	e := newEnv(t)
	alone(t, e)
	want := ""
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			p := startFaultProxy(t, reg.addr, c.rule)
			ref := p.addr + "/app"
			sub := *e
			sub.t = t
			if c.stall != "" {
				t.Setenv("LAYERCTL_STALL_TIMEOUT", c.stall)
			}
			if c.fails {
				sub.fails(1, append(c.says, "pull "+ref), "pull", ref)
				if out := sub.ok("images", "-q"); out != "" {
					t.Errorf("an image has a name: %s", out)
				}
				for _, dir := range []string{"snapshots/staging", "images/ingest"} {
					if names := list(filepath.Join(sub.root, dir)); len(names) > 0 {
						t.Errorf("%s holds %q", dir, names)
					}
				}
				return
			}
			r := sub.run("pull", ref)
			if r.code != 0 {
				t.Fatal(r.stderr)
			}
			for _, text := range c.says {
				if !strings.Contains(r.stderr, text) {
					t.Errorf("the pull does not say %q:\n%s", text, r.stderr)
				}
			}
			if c.says == nil && strings.Contains(r.stderr, "waiting") {
				t.Errorf("it waited:\n%s", r.stderr)
			}
			got := sub.ok("run", "--rm", ref, "sh", "-c", "cat /noise | /bin/busybox sha256sum; ls /d")
			if want == "" {
				want = got
			}
			if got != want || !strings.Contains(got, "50") {
				t.Errorf("the image is another one: %q, not %q", got, want)
			}
			sub.ok("pull", ref)
			sub.ok("rmi", ref)
		})
	}
}

// What a registry is shown is not shown to where it sends us.
func TestPullRedirects(t *testing.T) {
	open := startRegistry(t, "")
	open.push("app", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	home := alone(t, e)
	put(t, filepath.Join(e.dir, "htpasswd"), userSecret, 0o600)
	reg := open.also("", "auth: {htpasswd: {realm: test, path: "+e.dir+"/htpasswd}}")
	storage := startFaultProxy(t, open.addr, func(*http.Request, int) fault { return fault{} })
	_, port, _ := strings.Cut(storage.addr, ":")
	for name, to := range map[string]string{"another port": "http://" + storage.addr, "another name": "http://localhost:" + port} {
		p := startFaultProxy(t, reg.addr, func(r *http.Request, _ int) fault {
			if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Authorization") != "" {
				return fault{redirect: to}
			}
			return fault{}
		})
		put(t, filepath.Join(home, ".docker/config.json"), `{"auths": {"`+p.addr+`": {"username": "user", "password": "secret"}}}`, 0o600)
		e.ok("pull", p.addr+"/app")
		e.ok("run", "--rm", p.addr+"/app", "true")
		e.ok("rmi", p.addr+"/app")
		shown := 0
		for _, r := range p.requests() {
			if r.Header.Get("Authorization") != "" {
				shown++
			}
		}
		asked := storage.requests()
		if shown == 0 || len(asked) == 0 {
			t.Errorf("%s: nothing was redirected", name)
		}
		for _, r := range asked {
			if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" || regexp.MustCompile("user|secret").MatchString(fmt.Sprint(r.Header)) {
				t.Errorf("%s: it was shown %v", name, r.Header)
			}
		}
	}
}

// A pull that was killed goes on where it was, in another process; and bytes on the disk are believed no more than those of the network.
func TestPullResumed(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 12000000 /dev/urandom > noise")
	var manifest struct {
		Layers []struct {
			Digest string
			Size   int64
		}
	}
	fromJSON(t, sh(t, "/", "skopeo inspect --raw --tls-verify=false docker://"+reg.addr+"/app"), &manifest)
	noise := manifest.Layers[1]
	slow := true
	var mu sync.Mutex
	p := startFaultProxy(t, reg.addr, func(r *http.Request, _ int) fault {
		mu.Lock()
		defer mu.Unlock()
		if slow && strings.Contains(r.URL.Path, noise.Digest) {
			return fault{pace: 5 * time.Millisecond}
		}
		return fault{}
	})
	setSlow := func(v bool) { mu.Lock(); slow = v; mu.Unlock() }
	ref := p.addr + "/app"
	want := ""
	for name, c := range map[string]struct {
		signal syscall.Signal
		damage string
		anew   bool
	}{
		"killed":         {syscall.SIGKILL, "", false},
		"interrupted":    {syscall.SIGINT, "", false},
		"cut short":      {syscall.SIGKILL, "truncate -s 1500000 $f", false},
		"zeros":          {syscall.SIGKILL, "truncate -s 0 $f; truncate -s 3000000 $f", true},
		"a flipped byte": {syscall.SIGKILL, "printf XY | dd of=$f bs=1 seek=700000 conv=notrunc status=none", true},
		"too long":       {syscall.SIGKILL, "truncate -s 20000000 $f", true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			alone(t, e)
			data := filepath.Join(e.root, "images/ingest", strings.TrimPrefix(noise.Digest, "sha256:"), "data")
			setSlow(true)
			cmd := e.start(e.command("pull", ref))
			eventually(t, "two megabytes have come", func() bool {
				st, err := os.Stat(data)
				return err == nil && st.Size() > 2<<20
			})
			cmd.Process.Signal(c.signal)
			cmd.Wait()
			if out := e.ok("images", "-q"); out != "" {
				t.Fatalf("an image has a name: %s", out)
			}
			sh(t, e.dir, "f="+data+"; "+c.damage)
			setSlow(false)
			p.requests()
			r := e.run("pull", ref)
			if r.code != 0 {
				t.Fatal(r.stderr)
			}
			var ranges []string
			for _, r := range p.requests() {
				if strings.Contains(r.URL.Path, noise.Digest) {
					ranges = append(ranges, r.Header.Get("Range"))
				}
			}
			if anew := ranges[len(ranges)-1] == ""; anew != c.anew {
				t.Errorf("the layer was asked for with the ranges %q", ranges)
			}
			if !c.anew && !strings.Contains(r.stderr, "that an earlier pull has left") {
				t.Errorf("it does not say that it goes on: %s", r.stderr)
			}
			got := e.ok("run", "--rm", ref, "sh", "-c", "cat /noise | /bin/busybox sha256sum")
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("the image is another one: %q, not %q", got, want)
			}
			e.ok("prune", "-f") // of the tree that the killed pull was filling
		})
	}
}
