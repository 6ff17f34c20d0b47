package reference

import (
	"slices"
	"strings"
	"testing"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"ubuntu":                         "docker.io/library/ubuntu:latest",
		"ubuntu:22.04":                   "docker.io/library/ubuntu:22.04",
		"user/app":                       "docker.io/user/app:latest",
		"index.docker.io/library/ubuntu": "docker.io/library/ubuntu:latest",
		"localhost/debian":               "localhost/debian:latest",
		"localhost:5000/a/b/c:v1":        "localhost:5000/a/b/c:v1",
		"127.0.0.1:5000/x@" + digest:     "127.0.0.1:5000/x@" + digest,
		"registry.example/x:t@" + digest: "registry.example/x:t@" + digest,
		"[::1]:5000/x":                   "[::1]:5000/x:latest",
		"a__b-c---d.e":                   "docker.io/library/a__b-c---d.e:latest",
		"Registry/x":                     "Registry/x:latest",
		"":                               "", "UPPER": "", "a..b": "", "a___b": "", "-a": "", "a-": "", "a/": "", "/a": "", "a//b": "", ":tag": "", "a:": "", "a:-x": "",
		"a:" + strings.Repeat("t", 129): "", "a@sha256:12": "", "a@md5:12": "", "a b": "", "a:b:c": "", "a.b:x/c": "", "[::1/c": "", "a_": "",
		"sha256": "", "sha256:" + digest[7:]: "", "localhost/sha256:x": "", digest[7:]: "", "docker.io/library/" + digest[7:] + ":1": "",
		"sha256/x":   "docker.io/sha256/x:latest",
		"http://x/y": "", "x/" + strings.Repeat("y", 256): "", "a\n": "",
	} {
		got, err := Parse(in)
		if want == "" {
			if err == nil {
				t.Errorf("Parse(%q) = %v, want an error", in, got)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("Parse(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
}

func TestCandidates(t *testing.T) {
	for in, want := range map[string][]string{
		"debian":           {"localhost/debian:latest", "docker.io/library/debian:latest"},
		"me/app:1":         {"localhost/me/app:1", "docker.io/me/app:1"},
		"docker.io/debian": {"docker.io/debian:latest"},
		"quay.io/a":        {"quay.io/a:latest"},
		"localhost/debian": {"localhost/debian:latest"},
		"NO":               nil,
	} {
		if got := Candidates(in); !slices.Equal(got, want) {
			t.Errorf("Candidates(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ubuntu")
	f.Add("localhost:5000/a/b:c@" + digest)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q parsed to %v, which parses to %v, %v", s, r, again, err)
		}
	})
}
