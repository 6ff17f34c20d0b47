package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/layerctl/layerctl/image/reference"
)

// server is a registry in this process, on loopback and without TLS, whose answers a test makes.
type server struct {
	*httptest.Server
	t    *testing.T
	mu   sync.Mutex
	seen []*http.Request
}

func serve(t *testing.T, h http.HandlerFunc) *server {
	t.Helper()
	s := &server{t: t}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) host() string { return strings.TrimPrefix(s.URL, "http://") }

func (s *server) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

// open opens the repository "a/b" of a server, with little patience, and notes what it says.
func (s *server) open() (*Repository, *notices) {
	s.t.Helper()
	n := &notices{}
	ref, err := reference.Parse(s.host() + "/a/b")
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := Open(ref, Options{Notice: n.add})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, src := range r.sources {
		src.wait = 4 * time.Millisecond
	}
	return r, n
}

type notices struct {
	mu    sync.Mutex
	lines []string
}

func (n *notices) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, s)
}

func (n *notices) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.lines, "\n")
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

var someBlob = bytes.Repeat([]byte("0123456789abcdef"), 4096)

// read reads someBlob.
func read(r *Repository, from int64) ([]byte, error) {
	b, err := r.BlobFrom(context.Background(), digestOf(someBlob), int64(len(someBlob)), from)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

// says fails the test unless err is of a kind and says each of the texts.
func says(t *testing.T, err, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one of the kind %q", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// A token is fetched once for all that want it, shown to the registry alone, and renewed when it has run out or is refused.
func TestTokens(t *testing.T) {
	home := lonely(t)
	var valid atomic.Value
	var issued atomic.Int32
	life := 300
	var realm string
	tokens := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"details": "incorrect username or password"}`)
			return
		}
		if got := r.URL.Query(); got.Get("service") != "srv" || got.Get("scope") != "repository:a/b:pull" || got.Get("keep") != "1" {
			t.Errorf("the token server was asked %s", r.URL)
		}
		tok := fmt.Sprintf("t%d", issued.Add(1))
		valid.Store(tok)
		fmt.Fprintf(w, `{"access_token": %q, "expires_in": %d}`, tok, life)
	})
	realm = tokens.URL + "/token?keep=1"
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if v, _ := valid.Load().(string); v == "" || r.Header.Get("Authorization") != "Bearer "+v {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="srv"`)
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}`)
			return
		}
		w.Write(someBlob)
	})
	r, _ := reg.open()
	_, err := read(r, 0)
	says(t, err, ErrUnauthorized, tokens.host(), reg.host(), "401", "incorrect username or password")

	write(t, home+"/.docker/config.json", `{"auths": {"`+reg.host()+`": {"auth": "`+b64("u:p")+`"}}}`, 0o600)
	r, _ = reg.open()
	tokens.requests()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	wg.Wait()
	if n := len(tokens.requests()); n != 1 {
		t.Errorf("%d tokens were fetched for 8 blobs of one repository", n)
	}
	// The registry forgets it: it is renewed once.
	valid.Store("other")
	if _, err := read(r, 0); err != nil {
		t.Error(err)
	}
	if n := len(tokens.requests()); n != 1 {
		t.Errorf("%d tokens were fetched to renew one", n)
	}
	// One that ends soon is renewed before it is refused.
	life = 1
	valid.Store("other")
	if _, err := read(r, 0); err != nil {
		t.Error(err)
	}
	time.Sleep(800 * time.Millisecond)
	reg.requests()
	if _, err := read(r, 0); err != nil {
		t.Error(err)
	}
	if n := len(reg.requests()); n != 1 {
		t.Errorf("a token that had run out was tried: %d requests", n)
	}
}

func TestTokenServersOfAllKinds(t *testing.T) {
	home := lonely(t)
	for _, c := range []struct {
		name, entry string
		answer      func(w http.ResponseWriter, r *http.Request)
		kind        error
		texts       []string
	}{
		{"an identity token buys one", `{"auth": "` + b64("u:") + `", "identitytoken": "idt"}`, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "POST" || r.FormValue("refresh_token") != "idt" || r.FormValue("grant_type") != "refresh_token" || r.FormValue("service") != "srv" ||
				r.FormValue("scope") != "repository:a/b:pull" || r.FormValue("client_id") == "" || r.Header.Get("Authorization") != "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			io.WriteString(w, `{"access_token": "good"}`)
		}, nil, nil},
		{"a registry token is one", `{"registrytoken": "good"}`, nil, nil, nil},
		{"for anybody", `{}`, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				io.WriteString(w, `{"token": "good"}`)
			}
		}, nil, nil},
		{"a token that is refused", `{}`, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"token": "bad"}`) }, ErrUnauthorized, []string{"401"}},
		{"no token", `{}`, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{}`) }, ErrCorrupt, []string{"without a token"}},
		{"a page", `{}`, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `<html>`) }, ErrCorrupt, []string{"no token"}},
		{"a token that forges a header", `{}`, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"token": "a\r\nX-Y: z"}`) }, ErrCorrupt, nil},
		{"a failure", `{}`, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }, ErrUnavailable, []string{"418", "token server"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens := serve(t, func(w http.ResponseWriter, r *http.Request) { c.answer(w, r) })
			reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer good" {
					w.Write(someBlob)
					return
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="srv",scope="repository:a/b:pull"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
			write(t, home+"/.docker/config.json", `{"auths": {"`+reg.host()+`": `+c.entry+`}}`, 0o600)
			r, _ := reg.open()
			b, err := read(r, 0)
			if c.kind == nil {
				if err != nil || !bytes.Equal(b, someBlob) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				return
			}
			says(t, err, c.kind, append(c.texts, reg.host())...)
		})
	}
	for _, realm := range []string{"", "ftp://x/y", "/token", "http://10.1.2.3/token", "http://registry.example/token"} {
		reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		r, _ := reg.open()
		if _, err := read(r, 0); err == nil {
			t.Errorf("the realm %q is taken", realm)
		}
	}
}

// What is shown to a registry is not shown to where it sends us, be it only another port.
func TestRedirectsDoNotLeak(t *testing.T) {
	home := lonely(t)
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(someBlob) })
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, other.URL+"/signed?secret", http.StatusTemporaryRedirect)
	})
	r, _ := reg.open()
	_, err := read(r, 0)
	says(t, err, ErrUnauthorized, "401")
	write(t, home+"/.docker/config.json", `{"auths": {"`+reg.host()+`": {"auth": "`+b64("u:p")+`"}}}`, 0o600)
	r, _ = reg.open()
	if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for _, r := range other.requests() {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
			t.Errorf("the other host was shown %v", r.Header)
		}
	}
	// The other host's 401 is not the registry's: it is not answered.
	shut := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	reg = serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, shut.URL, http.StatusFound) })
	r, _ = reg.open()
	_, err = read(r, 0)
	says(t, err, ErrUnauthorized, shut.host(), reg.host())
	if n := len(shut.requests()); n != 1 {
		t.Errorf("the other host was asked %d times", n)
	}
	// Round in circles.
	var circle *server
	circle = serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, circle.URL+r.URL.Path, http.StatusFound)
	})
	r, _ = circle.open()
	_, err = read(r, 0)
	says(t, err, ErrUnavailable, "from one place to the next")
}

// A remote registry cannot make us ask this machine's own services, nor go on without TLS.
func TestRedirectsToOurselves(t *testing.T) {
	lonely(t)
	ref, err := reference.Parse("registry.example/a/b")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(ref, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for url, text := range map[string]string{
		"https://127.0.0.1:1/x": "this machine's own", "https://localhost/x": "this machine's own", "https://169.254.169.254/latest": "this machine's own",
		"https://[::1]/x": "this machine's own", "https://[fe80::1]/x": "this machine's own", "http://elsewhere.example/x": "without TLS",
	} {
		_, err := r.sources[0].http.Get(url)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestManifestsThatLie(t *testing.T) {
	lonely(t)
	const doc = `{"schemaVersion": 2, "layers": []}`
	right := digestOf([]byte(doc))
	for name, c := range map[string]struct {
		ask, said, media, doc string
		text                  string
	}{
		"right":               {"latest", right, mediaManifest, doc, ""},
		"by digest":           {right, "", mediaManifest, doc, ""},
		"another digest":      {digestOf(nil), "", mediaManifest, doc, "has the digest " + right},
		"a header that lies":  {"latest", digestOf(nil), mediaManifest, doc, "the registry says"},
		"a page":              {"latest", "", "text/html", "<html>log in", "text/html"},
		"too large":           {"latest", "", mediaManifest, `"` + strings.Repeat("x", maxManifest) + `"`, "more than"},
		"index and image":     {"latest", "", mediaIndex, `{"manifests": [], "layers": []}`, "at once"},
		"another algorithm's": {"latest", "sha512:12", mediaManifest, doc, ""},
	} {
		reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", c.media)
			if c.said != "" {
				w.Header().Set("Docker-Content-Digest", c.said)
			}
			io.WriteString(w, c.doc)
		})
		r, _ := reg.open()
		m, err := r.Manifest(context.Background(), c.ask)
		if c.text == "" {
			if err != nil || m.Digest != right {
				t.Errorf("%s: %+v, %v", name, m, err)
			}
			continue
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), reg.host()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A registry that does not say the digest, or knows no HEAD.
	for code, want := range map[int]error{200: nil, 405: nil, 404: ErrNotFound} {
		reg := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
		r, _ := reg.open()
		if d, err := r.Head(context.Background(), "latest"); d != "" || !errors.Is(err, want) {
			t.Errorf("HEAD with %d: %q, %v", code, d, err)
		}
	}
}
