package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/layerctl/layerctl/image/reference"
)

// taker is a registry that can be pushed to. fault, where it is set, sees each request first and says whether it has answered it.
type taker struct {
	*server
	mu      sync.Mutex
	blobs   map[string][]byte // by digest
	uploads map[string][]byte // by path
	tags    map[string][]byte
	next    int
	fault   func(w http.ResponseWriter, r *http.Request) bool
	wrong   []string
}

func serveTaker(t *testing.T) *taker {
	t.Helper()
	k := &taker{blobs: map[string][]byte{}, uploads: map[string][]byte{}, tags: map[string][]byte{}}
	k.server = serve(t, k.answer)
	t.Cleanup(func() {
		for _, s := range k.wrong {
			t.Error(s)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.uploads) > 0 && !t.Failed() {
			t.Errorf("%d uploads were left in the registry", len(k.uploads))
		}
	})
	return k
}

func (k *taker) answer(w http.ResponseWriter, r *http.Request) {
	if k.fault != nil && k.fault(w, r) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v2/a/b/")
	switch data, known := k.uploads[r.URL.Path]; {
	case r.Method == "HEAD" && strings.HasPrefix(path, "blobs/"):
		if _, ok := k.blobs[strings.TrimPrefix(path, "blobs/")]; !ok {
			w.WriteHeader(404)
		}
	case r.Method == "POST" && path == "blobs/uploads/":
		if b, ok := k.blobs["mountable "+r.FormValue("from")]; ok && digestOf(b) == r.FormValue("mount") {
			k.blobs[digestOf(b)] = b
			w.WriteHeader(201)
			return
		}
		k.next++
		at := fmt.Sprintf("/v2/a/b/blobs/uploads/%d", k.next)
		k.uploads[at] = nil
		w.Header().Set("Location", at+"?_state=x%3D")
		w.WriteHeader(202)
	case r.Method == "PUT" && strings.HasPrefix(path, "manifests/"):
		b, _ := io.ReadAll(r.Body)
		k.tags[strings.TrimPrefix(path, "manifests/")+" "+r.Header.Get("Content-Type")] = b
		w.Header().Set("Docker-Content-Digest", digestOf(b))
		w.WriteHeader(201)
	case !known:
		w.WriteHeader(404)
		io.WriteString(w, `{"errors": [{"message": "blob upload unknown"}]}`)
	case !strings.HasPrefix(r.URL.RawQuery, "_state=x%3D"):
		k.wrong = append(k.wrong, "the query of an upload's place was changed: "+r.URL.RawQuery)
	case r.Method == "GET":
		k.upTo(w, r, 204)
	case r.Method == "DELETE":
		delete(k.uploads, r.URL.Path)
		w.WriteHeader(204)
	case r.Method == "PATCH":
		if first, _, _ := strings.Cut(r.Header.Get("Content-Range"), "-"); first != strconv.Itoa(len(data)) {
			w.WriteHeader(416)
			return
		}
		b, _ := io.ReadAll(r.Body)
		k.uploads[r.URL.Path] = append(data, b...)
		k.upTo(w, r, 202)
	case r.Method == "PUT":
		b, _ := io.ReadAll(r.Body)
		delete(k.uploads, r.URL.Path)
		if data = append(data, b...); digestOf(data) != r.FormValue("digest") {
			w.WriteHeader(400)
			io.WriteString(w, `{"errors": [{"message": "provided digest did not match uploaded content"}]}`)
			return
		}
		k.blobs[digestOf(data)] = data
		w.WriteHeader(201)
	}
}

func (k *taker) upTo(w http.ResponseWriter, r *http.Request, code int) {
	w.Header().Set("Location", r.URL.RequestURI())
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(k.uploads[r.URL.Path])-1, 0)))
	w.WriteHeader(code)
}

// pushing opens the repository a/b for pushing, whose parts are of 10,000 bytes.
func (k *taker) pushing(mounts ...string) (*Repository, *notices) {
	k.t.Helper()
	n := &notices{}
	ref, err := reference.Parse(k.host() + "/a/b")
	if err != nil {
		k.t.Fatal(err)
	}
	r, err := Open(ref, Options{Push: true, Mounts: mounts, Notice: n.add})
	if err != nil {
		k.t.Fatal(err)
	}
	r.part = 10000
	r.registry().wait = 4 * time.Millisecond
	return r, n
}

// some are bytes that are all there, or that come little by little.
type some struct {
	b     []byte
	slow  bool
	opens atomic.Int32
	fail  error
}

func (s *some) Part(_ context.Context, from, most int64) (Part, error) {
	n := min(most, int64(len(s.b))-from)
	if s.slow && n > 3000 {
		n = 3000
	}
	return Part{Size: n, Last: from+n == int64(len(s.b)), Open: func() (io.ReadCloser, error) {
		s.opens.Add(1)
		if s.fail != nil {
			return nil, s.fail
		}
		return io.NopCloser(bytes.NewReader(s.b[from : from+n])), nil
	}}, nil
}

func (s *some) Whole(context.Context) (string, int64, error) {
	return digestOf(s.b), int64(len(s.b)), nil
}

// push uploads someBlob, whose digest is not told where its bytes are to tell it.
func (k *taker) push(r *Repository, known bool, from ...string) (string, error) {
	digest := ""
	if known {
		digest = digestOf(someBlob)
	}
	at := int64(0)
	return r.Upload(context.Background(), digest, from, &some{b: someBlob}, func(n int64) { at = max(at, n) })
}

func methods(seen []*http.Request) string {
	var list []string
	for _, r := range seen {
		if n := len(list); n > 0 && list[n-1] == r.Method && r.Method == "PATCH" {
			continue
		}
		list = append(list, r.Method)
	}
	return strings.Join(list, " ")
}

func TestUpload(t *testing.T) {
	lonely(t)
	for _, size := range []int{0, 1, 2, 9999, 10000, 10001, 65536} {
		for _, slow := range []bool{false, true} {
			k := serveTaker(t)
			r, said := k.pushing()
			b := &some{b: someBlob[:size], slow: slow}
			at := int64(0)
			if _, err := r.Upload(context.Background(), "", nil, b, func(n int64) { at = n }); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if got := k.blobs[digestOf(b.b)]; !bytes.Equal(got, b.b) || at != int64(size) || said.String() != "" {
				t.Errorf("%d bytes: the registry has %d, progress says %d, and %q", size, len(got), at, said)
			}
			want := "POST PUT"
			if size > 10000 || slow && size > 3000 {
				want = "POST PATCH PUT"
			}
			seen := k.requests()
			if got := methods(seen); got != want {
				t.Errorf("%d bytes: %s, want %s", size, got, want)
			}
			if has, err := r.HasBlob(context.Background(), digestOf(b.b)); !has || err != nil {
				t.Error(has, err)
			}
			if has, err := r.HasBlob(context.Background(), digestOf([]byte("other"))); has || err != nil {
				t.Error(has, err)
			}
		}
	}
}

// What goes wrong once, in the middle, is mended.
func TestUploadsThatAreInterrupted(t *testing.T) {
	lonely(t)
	abort := func(k *taker, r *http.Request, keep int) {
		b := make([]byte, keep)
		io.ReadFull(r.Body, b)
		k.mu.Lock()
		k.uploads[r.URL.Path] = append(k.uploads[r.URL.Path], b...)
		k.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	for name, c := range map[string]struct {
		fault func(k *taker, w http.ResponseWriter, r *http.Request, patches int) bool
		text  string // that is said
		want  string // requests
	}{
		"cut": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				abort(k, r, 7777)
			}
			return false
		}, "after 20000 bytes", "POST PATCH GET PATCH PUT"},
		"cut, and nothing kept of the part": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				abort(k, r, 0)
			}
			return false
		}, "after 20000 bytes", "POST PATCH GET PATCH PUT"},
		"cut, and nothing kept at all": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				abort(k, r, 0)
			}
			return false
		}, "after 0 bytes", "POST PATCH GET DELETE POST PATCH PUT"},
		"forgotten": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				k.mu.Lock()
				clear(k.uploads)
				k.mu.Unlock()
			}
			return false
		}, "", "POST PATCH DELETE POST PATCH PUT"},
		"more of it than we know": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				k.mu.Lock()
				k.uploads[r.URL.Path] = bytes.Clone(someBlob[:25000])
				k.mu.Unlock()
			}
			return false
		}, "", "POST PATCH GET PATCH PUT"},
		"more of it than it was sent": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				k.mu.Lock()
				k.uploads[r.URL.Path] = make([]byte, 1<<20)
				k.mu.Unlock()
			}
			return false
		}, "", "POST PATCH GET DELETE POST PATCH PUT"},
		"busy": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				w.WriteHeader(429)
			}
			return n == 3
		}, "429", "POST PATCH GET PATCH PUT"},
		"an answer without words": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if n > 0 {
				b, _ := io.ReadAll(r.Body)
				k.mu.Lock()
				k.uploads[r.URL.Path] = append(k.uploads[r.URL.Path], b...)
				k.mu.Unlock()
				w.WriteHeader(202)
			}
			return n > 0
		}, "", "POST PATCH PUT"},
		"the last answer lost": {func(k *taker, w http.ResponseWriter, r *http.Request, n int) bool {
			if r.Method == "PUT" {
				k.answerTo(r)
				panic(http.ErrAbortHandler)
			}
			return false
		}, "after 65536 bytes", "POST PATCH PUT HEAD"},
		"parts refused with 405":   {refuse(405), "without parts", "POST PATCH DELETE POST PUT"},
		"parts refused with 501":   {refuse(501), "without parts", "POST PATCH DELETE POST PUT"},
		"parts refused with 400":   {refuse(400), "without parts", "POST PATCH DELETE POST PUT"},
		"parts refused with 416":   {refuse(416), "without parts", "POST PATCH GET DELETE POST PATCH DELETE POST PUT"},
		"parts that are not known": {refuse(404), "without parts", ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := serveTaker(t)
			var patches atomic.Int32
			k.fault = func(w http.ResponseWriter, r *http.Request) bool {
				n := 0
				if r.Method == "PATCH" {
					n = int(patches.Add(1))
				}
				return c.fault(k, w, r, n)
			}
			r, said := k.pushing()
			if _, err := k.push(r, false); err != nil {
				t.Fatal(err)
			}
			if got := k.blobs[digestOf(someBlob)]; !bytes.Equal(got, someBlob) {
				t.Errorf("the registry has %d bytes", len(got))
			}
			if !strings.Contains(said.String(), c.text) || c.text == "" && said.String() != "" {
				t.Errorf("it says %q, want %q", said, c.text)
			}
			if got := methods(k.requests()); c.want != "" && got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func refuse(code int) func(*taker, http.ResponseWriter, *http.Request, int) bool {
	return func(_ *taker, w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 0 {
			w.WriteHeader(code)
		}
		return n > 0
	}
}

// answerTo does what a request asks for, and answers nobody.
func (k *taker) answerTo(r *http.Request) {
	fault := k.fault
	k.fault = nil
	k.answer(httptest.NewRecorder(), r)
	k.fault = fault
}

// What does not pass ends in a line that says who refused what, and nothing stays behind.
func TestUploadsThatAreRefused(t *testing.T) {
	lonely(t)
	for name, c := range map[string]struct {
		method string
		code   int
		body   string
		kind   error
		texts  []string
	}{
		"the beginning":          {"POST", 400, `{"errors": [{"message": "no such project"}]}`, ErrRefused, []string{"400", "no such project"}},
		"the beginning, unknown": {"POST", 404, ``, ErrNotFound, []string{"404"}},
		"without access":         {"POST", 403, `{"errors": [{"message": "requested access to the resource is denied"}]}`, ErrUnauthorized, []string{"403", "is denied"}},
		"read only":              {"POST", 405, `{"errors": [{"message": "the registry is read only"}]}`, ErrRefused, []string{"405", "read only"}},
		"a part, without access": {"PATCH", 403, ``, ErrUnauthorized, []string{"403"}},
		"the end":                {"PUT", 400, `{"errors": [{"message": "provided digest did not match"}]}`, ErrRefused, []string{"400", "did not match"}},
		"for good":               {"PUT", 503, ``, ErrUnavailable, []string{"503", "5 times after 65536 bytes"}},
		"a place that is none":   {"POST", 202, ``, ErrCorrupt, []string{"no place"}},
		"another answer":         {"POST", 200, ``, ErrCorrupt, []string{"200"}},
		"a part's other answer":  {"PATCH", 200, ``, ErrCorrupt, []string{"200"}},
		"the end's other answer": {"PUT", 202, ``, ErrCorrupt, []string{"202"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := serveTaker(t)
			k.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == c.method {
					w.WriteHeader(c.code)
					io.WriteString(w, c.body)
				}
				return r.Method == c.method
			}
			r, _ := k.pushing()
			_, err := k.push(r, true)
			says(t, err, c.kind, append(c.texts, k.host())...)
		})
	}
	k := serveTaker(t)
	r, _ := k.pushing()
	mine := errors.New("the disk is broken")
	if _, err := r.Upload(context.Background(), "", nil, &some{b: someBlob, fail: mine}, func(int64) {}); !errors.Is(err, mine) || errors.Is(err, ErrUnavailable) {
		t.Errorf("a disk that is broken: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PATCH" {
			cancel()
			io.Copy(io.Discard, r.Body)
		}
		return r.Method == "PATCH"
	}
	if _, err := r.Upload(ctx, "", nil, &some{b: someBlob}, func(int64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	k.fault = nil
}

// A proxy that takes only small bodies gets small ones; a registry that wants large parts gets those.
func TestSizesOfParts(t *testing.T) {
	lonely(t)
	k := serveTaker(t)
	var sizes []int64
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.ContentLength > 5<<20 {
			w.WriteHeader(413)
			return true
		}
		if r.Method == "PATCH" {
			sizes = append(sizes, r.ContentLength)
		}
		return false
	}
	r, _ := k.pushing()
	r.part = 16 << 20
	b := &some{b: bytes.Repeat(someBlob, 129)}
	if _, err := r.Upload(context.Background(), "", nil, b, func(int64) {}); err != nil || !bytes.Equal(k.blobs[digestOf(b.b)], b.b) {
		t.Error(err)
	}
	if len(sizes) != 3 || sizes[0] != 4<<20 {
		t.Errorf("the parts have %d bytes", sizes)
	}
	sizes = nil
	k.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" {
			w.Header().Set("OCI-Chunk-Min-Length", "50000")
		}
		if r.Method == "PATCH" {
			sizes = append(sizes, r.ContentLength)
		}
		return false
	}
	r, _ = k.pushing()
	if _, err := k.push(r, false); err != nil || len(sizes) != 2 || sizes[0] != 50000 {
		t.Errorf("the parts have %d bytes: %v", sizes, err)
	}
}

func TestMounts(t *testing.T) {
	lonely(t)
	k := serveTaker(t)
	k.blobs["mountable team/two"] = someBlob
	r, _ := k.pushing("team/one", "team/two")
	if from, err := k.push(r, true, "team/one", "team/two", "team/three"); err != nil || from != "team/two" || !bytes.Equal(k.blobs[digestOf(someBlob)], someBlob) {
		t.Errorf("mounted from %q, %v", from, err)
	}
	if got := methods(k.requests()); got != "POST DELETE POST" {
		t.Error(got)
	}
	// One that mounts nothing is sent the bytes; whether it says so by beginning an upload or by an error.
	for _, code := range []int{0, 400, 401, 403, 404, 405} {
		k := serveTaker(t)
		k.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if code != 0 && r.FormValue("mount") != "" {
				w.WriteHeader(code)
				return true
			}
			return false
		}
		r, said := k.pushing("team/one")
		if from, err := k.push(r, true, "team/one"); err != nil || from != "" || !bytes.Equal(k.blobs[digestOf(someBlob)], someBlob) || said.String() != "" {
			t.Errorf("refused with %d: mounted from %q, %v, %s", code, from, err, said)
		}
		want := "POST PATCH PUT"
		if code != 0 {
			want = "POST POST PATCH PUT"
		}
		if got := methods(k.requests()); got != want {
			t.Errorf("refused with %d: %s", code, got)
		}
	}
}
