package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/image/reference"
)

func TestPlaces(t *testing.T) {
	const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ name, conf, ref, want string }{
		{"nothing", ``, "h.z/a", "h.z/a"},
		{"another's", "[[registry]]\nlocation = 'x.y'\ninsecure = true", "h.z/a", "h.z/a"},
		{"insecure", "[[registry]]\nlocation = 'h.z'\ninsecure = true", "h.z/a", "h.z/a insecure"},
		{"a host is not its port's", "[[registry]]\nlocation = 'h.z'\ninsecure = true", "h.z:5000/a", "h.z:5000/a"},
		{"with a port", "[[registry]]\nlocation = 'h.z:5000'\ninsecure = true", "h.z:5000/a", "h.z:5000/a insecure"},
		{"a name is not its beginning", "[[registry]]\nprefix = 'h.z/a'\nlocation = 'x.y'", "h.z/ab", "h.z/ab"},
		{"elsewhere", "[[registry]]\nprefix = 'h.z/foo'\nlocation = 'x.y/bar'", "h.z/foo/img", "x.y/bar/img"},
		{"the whole name", "[[registry]]\nprefix = 'h.z/foo/img'\nlocation = 'x.y/other'", "h.z/foo/img:1", "x.y/other"},
		{"the longest prefix", "[[registry]]\nprefix = 'h.z'\nlocation = 'a.b'\n[[registry]]\nprefix = 'h.z/foo'\nlocation = 'c.d/foo'\n[[registry]]\nprefix = 'h.z/fo'\nlocation = 'e.f'",
			"h.z/foo/img", "c.d/foo/img"},
		{"mirrors in order", "[[registry]]\nlocation = 'h.z'\n[[registry.mirror]]\nlocation = 'm.one/x'\n[[registry.mirror]]\nlocation = 'm.two:1'\ninsecure = true",
			"h.z/a/b", "m.one/x/a/b mirror, m.two:1/a/b insecure mirror, h.z/a/b"},
		{"Docker Hub", "[[registry]]\nprefix = 'docker.io/library'\nlocation = 'docker.io/library'\n[[registry.mirror]]\nlocation = 'm.one/hub'", "debian", "m.one/hub/debian mirror, docker.io/library/debian"},
		{"subdomains", "[[registry]]\nprefix = '*.h.z'\ninsecure = true\n[[registry.mirror]]\nlocation = 'm.one'", "a.b.h.z:5/x", "m.one/x mirror, a.b.h.z:5/x insecure"},
		{"a subdomain is not the domain", "[[registry]]\nprefix = '*.h.z'\ninsecure = true", "h.z/x", "h.z/x"},
		{"subdomains elsewhere", "[[registry]]\nprefix = '*.h.z'\nlocation = 'x.y/q'", "a.h.z/x", "x.y/q/x"},
		{"a host beats its wildcard", "[[registry]]\nprefix = '*.h.z'\ninsecure = true\n[[registry]]\nlocation = 'long.h.z'", "long.h.z/x", "long.h.z/x"},
		{"a tag", "[[registry]]\nprefix = 'h.z/a:1'\nlocation = 'x.y/b'", "h.z/a:1", "x.y/b"},
		{"another tag", "[[registry]]\nprefix = 'h.z/a:1'\nlocation = 'x.y/b'", "h.z/a:12", "h.z/a"},
		{"digests only, a tag", "[[registry]]\nlocation = 'h.z'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm.one'", "h.z/a", "h.z/a"},
		{"digests only, a digest", "[[registry]]\nlocation = 'h.z'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm.one'", "h.z/a" + digest, "m.one/a mirror, h.z/a"},
		{"each its own", "[[registry]]\nlocation = 'h.z'\n[[registry.mirror]]\nlocation = 'm.one'\npull-from-mirror = 'digest-only'\n[[registry.mirror]]\nlocation = 'm.two'\npull-from-mirror = 'tag-only'\n[[registry.mirror]]\nlocation = 'm.six'\npull-from-mirror = 'all'",
			"h.z/a", "m.two/a mirror, m.six/a mirror, h.z/a"},
		{"what is of no use to us", "unqualified-search-registries = ['a.b']\nshort-name-mode = 'enforcing'\n[aliases]\n'x' = 'a.b/x'\n[[registry]]\nlocation = 'h.z'\nnew-key = 7", "h.z/a", "h.z/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, err := parseConf([]byte(c.conf))
			if err != nil {
				t.Fatal(err)
			}
			ref, err := reference.Parse(c.ref)
			if err != nil {
				t.Fatal(err)
			}
			places, err := placesOf(ref, conf.Registries)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range places {
				s := p.location
				if p.insecure {
					s += " insecure"
				}
				if p.mirror {
					s += " mirror"
				}
				got = append(got, s)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestConfsThatAreWrong(t *testing.T) {
	for conf, text := range map[string]string{
		"[[registry]]\ninsecure = true":                                                             "neither a prefix nor a location",
		"[[registry]]\nlocation = 'no/host'":                                                        "HOST[:PORT]",
		"[[registry]]\nprefix = '*.h.z/a'":                                                          "*.HOST",
		"[[registry]]\nprefix = 'a.*.z'":                                                            "HOST[:PORT]",
		"[[registry]]\nprefix = 'h.z'\nlocation = 'https://x.y'":                                    "https://x.y",
		"[[registry]]\nlocation = 'h.z'\n[[registry]]\nlocation = 'h.z'":                            "two tables",
		"[[registry]]\nlocation = 'h.z'\n[[registry.mirror]]\ninsecure = true":                      "of a mirror",
		"[[registry]]\nlocation = 'h.z'\n[[registry.mirror]]\nlocation='m.n'\npull-from-mirror='x'": "pull-from-mirror",
		"[[registry]]\nlocation = 'h.z'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.n'\npull-from-mirror='all'": "twice",
		"[registries.search]\nregistries = ['a']":       "old format",
		"[[registry]]\nlocation = 'h.z'\ninsecure = 12": "line 3",
		"= 7": "line 1",
	} {
		if _, err := parseConf([]byte(conf)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s\n%v, want one of %q", conf, err, text)
		}
	}
}

func TestConfFiles(t *testing.T) {
	home := lonely(t)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
	open := func() string {
		t.Helper()
		r, err := Open(reference.Ref{Registry: "lonely.example", Repository: "a", Tag: "latest"}, Options{})
		if err != nil {
			return err.Error()
		}
		return r.sources[0].host
	}
	if got := open(); got != "lonely.example" {
		t.Errorf("without files: %s", got)
	}
	table := func(host string) string {
		return "[[registry]]\nprefix = 'lonely.example'\nlocation = '" + host + "'\n"
	}
	conf := filepath.Join(home, ".config/containers")
	write(t, conf+"/registries.conf", table("user.example"), 0o600)
	if got := open(); got != "user.example" {
		t.Errorf("the user's file: %s", got)
	}
	write(t, conf+"/registries.conf.d/10.conf", table("ten.example"), 0o600)
	write(t, conf+"/registries.conf.d/20.conf", table("twenty.example"), 0o600)
	write(t, conf+"/registries.conf.d/30.txt", table("text.example"), 0o600)
	if got := open(); got != "twenty.example" {
		t.Errorf("the last drop-in decides: %s", got)
	}
	write(t, home+"/named", "[[registry]]\nlocation = 'lonely.example'\nblocked = true", 0o600)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/named")
	if got := open(); got != "lonely.example is blocked" {
		t.Errorf("the named file alone: %s", got)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/none")
	if got := open(); !strings.Contains(got, home+"/none") {
		t.Errorf("a named file that is not there: %s", got)
	}
	write(t, home+"/named", "[[", 0o600)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/named")
	if got := open(); !strings.Contains(got, home+"/named: line 1") {
		t.Errorf("a file that does not parse: %s", got)
	}
}

// A mirror that is down, lacks the image or lies is passed over, at any moment, and without waiting for it.
func TestMirrorsFallThrough(t *testing.T) {
	home := lonely(t)
	warned := warnings(t)
	const doc = `{"schemaVersion": 2, "layers": []}`
	good := func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			io.WriteString(w, doc)
			return
		}
		cutting(len(someBlob), true)(w, r)
	}
	served := map[string]http.HandlerFunc{
		"lacks it":      http.NotFound,
		"is busy":       func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) },
		"wants to know": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) },
		"has a page":    func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") },
		"lacks blobs": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.NotFound(w, r)
				return
			}
			good(w, r)
		},
		"goes away": func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Range") != "":
				w.WriteHeader(502)
			case strings.Contains(r.URL.Path, "/blobs/"):
				cutting(1000, true)(w, r)
			default:
				good(w, r)
			}
		},
		"cuts and cuts": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				cutting(10000, true)(w, r)
				return
			}
			good(w, r)
		},
		"sends nothing": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				cutting(0, true)(w, r)
				return
			}
			good(w, r)
		},
		"is not there": nil,
		"is good":      good,
	}
	for name, handler := range served {
		t.Run(name, func(t *testing.T) {
			primary, mirror := serve(t, good), serve(t, func(w http.ResponseWriter, r *http.Request) { handler(w, r) })
			if handler == nil {
				mirror.Close()
			}
			write(t, home+"/registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = '%s/cache'\n", primary.host(), mirror.host()), 0o600)
			t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/registries.conf")
			r, said := primary.open()
			if m, err := r.Manifest(context.Background(), "latest"); err != nil || string(m.Raw) != doc {
				t.Fatalf("%+v, %v", m, err)
			}
			if b, err := read(r, 0); err != nil || len(b) != len(someBlob) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			asked := primary.requests()
			if name == "has a page" {
				said.add(warned.String())
			}
			if name == "is good" {
				if len(asked) != 0 || said.String() != "" {
					t.Errorf("the registry was asked %d times: %s", len(asked), said)
				}
				for _, r := range mirror.requests() {
					if !strings.HasPrefix(r.URL.Path, "/v2/cache/a/b/") {
						t.Errorf("the mirror was asked for %s", r.URL.Path)
					}
				}
				return
			}
			if len(asked) == 0 || !strings.Contains(said.String(), "trying "+primary.host()+": ") || !strings.Contains(said.String(), mirror.host()) {
				t.Errorf("asked %d times, said %q", len(asked), said)
			}
			want, n := map[string]int{"lacks blobs": 2, "goes away": 3, "cuts and cuts": 1 + mirrorCuts, "sends nothing": 1 + mirrorCuts}[name], len(mirror.requests())
			if handler != nil && n != max(want, 1) {
				t.Errorf("the mirror was asked %d times", n)
			}
		})
	}
	// When all fail, the registry's answer counts, and the mirror's is said, too.
	primary, mirror := serve(t, http.NotFound), serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	write(t, home+"/registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", primary.host(), mirror.host()), 0o600)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/registries.conf")
	r, _ := primary.open()
	_, err := r.Manifest(context.Background(), "latest")
	says(t, err, ErrNotFound, primary.host()+" answered 404", mirror.host()+" answered 503")
	if errors.Is(err, ErrUnavailable) {
		t.Errorf("the mirror's error decides: %v", err)
	}
}

// warnings collects what is warned of.
func warnings(t *testing.T) *notices {
	t.Helper()
	n, before := &notices{}, slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(n, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return n
}

func (n *notices) Write(b []byte) (int, error) {
	n.add(string(b))
	return len(b), nil
}

// Bytes are verified by whoever keeps them. When he says that they were wrong, the next source is asked, and the mirror no more.
func TestMirrorsThatLie(t *testing.T) {
	home := lonely(t)
	warned := warnings(t)
	blob := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.Write(b) }
	}
	wrong := bytes.ToUpper(someBlob)
	wrong[0] = '!'
	// It begins with wrong bytes and is cut until it is given up, so that what comes after them is the registry's.
	begins := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(someBlob)))
		if r.Header.Get("Range") != "" {
			panic(http.ErrAbortHandler)
		}
		w.Write(wrong[:100])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	primary, other := serve(t, blob(someBlob)), serve(t, blob(wrong))
	for name, handler := range map[string]http.HandlerFunc{"all": blob(wrong), "the beginning": begins, "not a byte": blob(someBlob)} {
		mirror := serve(t, handler)
		write(t, home+"/registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n",
			primary.host(), mirror.host(), other.host()), 0o600)
		t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/registries.conf")
		r, _ := primary.open()
		if r.Distrust(digestOf(someBlob), ErrCorrupt) {
			t.Error("there is another than one who was not asked")
		}
		b, err := read(r, 0)
		warned.lines = nil
		for n := 0; err == nil && !bytes.Equal(b, someBlob); n++ {
			if !r.Distrust(digestOf(someBlob), errors.New("a wrong digest")) {
				t.Fatalf("%s: nobody is left after %d wrong answers", name, n+1)
			}
			b, err = read(r, 0)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		lied := map[string]int{"all": 2, "the beginning": 2}[name]
		if len(warned.lines) != lied || lied > 0 && !(strings.Contains(warned.lines[0], "what "+mirror.host()+" serves is not right: a wrong digest") &&
			strings.Contains(warned.lines[1], "trying "+primary.host()+": what "+other.host())) {
			t.Errorf("%s: it was warned %q", name, warned)
		}
		asked := len(mirror.requests())
		if _, err := read(r, 0); err != nil {
			t.Error(err)
		}
		if again := len(mirror.requests()); lied > 0 && again > 0 || asked == 0 {
			t.Errorf("%s: the mirror was asked %d times, and %d times after that", name, asked, again)
		}
		if lied > 0 && r.Distrust(digestOf(someBlob), ErrCorrupt) {
			t.Errorf("%s: there is another than the registry itself", name)
		}
	}
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add([]byte("[[registry]]\nprefix = '*.h.z'\ninsecure = true\n[[registry.mirror]]\nlocation = 'm.one'"), "a.h.z/x:1")
	f.Add([]byte("[[registry]]\nprefix = 'h.z/a:1'\nlocation = 'x.y/b'"), "h.z/a:1")
	f.Add([]byte("[[registry]]\nlocation = 'docker.io'\nblocked = true"), "debian")
	f.Add([]byte("[registries.search]\nregistries = ['a']"), "debian")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		conf, err := parseConf(b)
		ref, err2 := reference.Parse(name)
		if err != nil || err2 != nil {
			return
		}
		places, err := placesOf(ref, conf.Registries)
		if err != nil {
			if !errors.Is(err, ErrBlocked) && !errors.Is(err, ErrConfig) {
				t.Errorf("%v", err)
			}
			return
		}
		if len(places) == 0 || places[len(places)-1].mirror {
			t.Errorf("the registry itself is missing: %+v", places)
		}
		for _, p := range places {
			// What comes out is a repository again, whatever was put together.
			if host, repo, found := strings.Cut(p.location, "/"); !found || host == "" || repo == "" {
				t.Errorf("%q is no repository", p.location)
			}
		}
	})
}
