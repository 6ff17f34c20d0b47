package registry

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A token is for all that a push does. Where the other repositories are not for this user, it is for the rest.
func TestTokensForPushing(t *testing.T) {
	home := lonely(t)
	for _, strict := range []bool{false, true} {
		var asked []string
		tokens := serve(t, func(w http.ResponseWriter, r *http.Request) {
			scopes := r.URL.Query()["scope"]
			asked = append(asked, strings.Join(scopes, " "))
			if strict && len(scopes) > 1 {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			io.WriteString(w, `{"token": "good"}`)
		})
		k := serveTaker(t)
		k.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") != "Bearer good" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="srv",scope="repository:a/b:pull"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			return false
		}
		write(t, home+"/.docker/config.json", `{"auths": {"`+k.host()+`": {"auth": "`+b64("u:p")+`"}}}`, 0o600)
		r, _ := k.pushing("team/one")
		if _, err := r.HasBlob(context.Background(), digestOf(someBlob)); err != nil {
			t.Fatal(err)
		}
		if _, err := k.push(r, true, "team/one"); err != nil {
			t.Error(err)
		}
		want := "repository:a/b:pull,push repository:team/one:pull"
		if strict {
			want += "|repository:a/b:pull,push"
		}
		if got := strings.Join(asked, "|"); got != want {
			t.Errorf("the token server was asked for %s", got)
		}
	}
	if got := strings.Join(mergeScopes([]string{"repository:a:pull", "x"}, []string{"repository:a:push,pull", "repository:ab:pull", "repository:h:5/a:*"}), " "); got != "repository:a:pull,push x repository:ab:pull repository:h:5/a:*" {
		t.Error(got)
	}
}

// An upload may go on at another host, which is shown nothing, or be sent there for one part.
func TestUploadsElsewhere(t *testing.T) {
	home := lonely(t)
	for _, redirect := range []bool{false, true} {
		store := serveTaker(t)
		k := serveTaker(t)
		k.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if user, _, _ := r.BasicAuth(); user != "u" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			switch {
			case r.Method == "POST" && !redirect:
				store.mu.Lock()
				store.uploads["/v2/a/b/signed"] = nil
				store.mu.Unlock()
				w.Header().Set("Location", store.URL+"/v2/a/b/signed?_state=x%3D")
				w.WriteHeader(202)
				return true
			case r.Method == "PATCH" || r.Method == "PUT":
				if redirect {
					http.Redirect(w, r, store.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
				} else {
					t.Errorf("the registry itself was sent %s %s", r.Method, r.URL)
				}
				return true
			}
			return false
		}
		store.fault = func(w http.ResponseWriter, r *http.Request) bool {
			store.mu.Lock()
			if _, ok := store.uploads[r.URL.Path]; !ok {
				store.uploads[r.URL.Path] = nil
			}
			store.mu.Unlock()
			return false
		}
		write(t, home+"/.docker/config.json", `{"auths": {"`+k.host()+`": {"auth": "`+b64("u:p")+`"}}}`, 0o600)
		r, _ := k.pushing()
		if _, err := k.push(r, false); err != nil || !bytes.Equal(store.blobs[digestOf(someBlob)], someBlob) {
			t.Error(err)
		}
		for _, r := range store.requests() {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("the other host was shown %v", r.Header)
			}
		}
		clear(k.uploads)
	}
}

// A registry that takes nothing any more is left, and asked up to where it has the blob. One that is slow is not.
func TestUploadsThatStall(t *testing.T) {
	lonely(t)
	t.Setenv("LAYERCTL_STALL_TIMEOUT", "300ms")
	k := serveTaker(t)
	var patches atomic.Int32
	left := make(chan bool)
	var once sync.Once
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "GET" {
			once.Do(func() { close(left) })
		}
		if r.Method != "PATCH" {
			return false
		}
		switch patches.Add(1) {
		case 1:
			io.ReadFull(r.Body, make([]byte, 1000))
			<-left
			return true
		case 2:
			r.Body = slowly{r.Body}
		}
		return false
	}
	r, said := k.pushing()
	r.part = 20 << 20
	b := &some{b: bytes.Repeat(someBlob, 400)}
	if _, err := r.Upload(context.Background(), "", nil, b, func(int64) {}); err != nil || !bytes.Equal(k.blobs[digestOf(b.b)], b.b) {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "nothing was taken for too long (300ms)") || strings.Count(said.String(), "\n") > 0 {
		t.Errorf("it says %q", said)
	}
	// Taken, and not answered: it is asked.
	patches.Store(10)
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PATCH" || patches.Add(1) != 11 {
			return false
		}
		k.answerTo(r)
		<-r.Context().Done()
		return true
	}
	r, said = k.pushing()
	if _, err := k.push(r, false); err != nil || !bytes.Equal(k.blobs[digestOf(someBlob)], someBlob) {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "nothing came for too long (600ms)") {
		t.Errorf("it says %q", said)
	}
}

// slowly is read for a second.
type slowly struct{ io.ReadCloser }

func (s slowly) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	if n > 100<<10 || rand.IntN(100<<10) < n {
		time.Sleep(4 * time.Millisecond)
	}
	return n, err
}

func TestPutManifest(t *testing.T) {
	lonely(t)
	raw := []byte(`{"schemaVersion": 2}`)
	m := Manifest{Digest: digestOf(raw), MediaType: mediaManifest, Raw: raw}
	k := serveTaker(t)
	var busy atomic.Bool
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if busy.Swap(true) {
			return false
		}
		w.WriteHeader(503)
		return true
	}
	r, _ := k.pushing()
	if err := r.PutManifest(context.Background(), "1.0", m); err != nil || !bytes.Equal(k.tags["1.0 "+mediaManifest], raw) {
		t.Errorf("%v, %q", err, k.tags)
	}
	// Who has read a file that another push is writing knows better the next time.
	times := 2
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if times--; times < 0 {
			return false
		}
		w.WriteHeader(400)
		io.WriteString(w, `{"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match uploaded content"}]}`)
		return true
	}
	if err := r.PutManifest(context.Background(), "2.0", m); err != nil || !bytes.Equal(k.tags["2.0 "+mediaManifest], raw) {
		t.Errorf("%v, %q", err, k.tags)
	}
	for _, c := range []struct {
		code       int
		said, body string
		kind       error
		text       string
	}{
		{400, "", `{"errors": [{"code": "MANIFEST_INVALID", "message": "manifest invalid"}]}`, ErrRefused, "manifest invalid"},
		{400, "", `{"errors": [{"code": "DIGEST_INVALID", "message": "did not match"}]}`, ErrRefused, "did not match"},
		{413, "", ``, ErrRefused, "413"},
		{401, "", `{"errors": [{"message": "authentication required"}]}`, ErrUnauthorized, "authentication required"},
		{201, digestOf(nil), ``, ErrCorrupt, digestOf(nil)},
	} {
		k.fault = func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Docker-Content-Digest", c.said)
			w.WriteHeader(c.code)
			io.WriteString(w, c.body)
			return true
		}
		says(t, r.PutManifest(context.Background(), "1.0", m), c.kind, c.text, k.host())
	}
}
