package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseChallenges(t *testing.T) {
	type m = map[string]string
	for s, want := range map[string][]challenge{
		`Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"`: {{"bearer", m{"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"}}},
		`Basic realm="a \"b\""`:                       {{"basic", m{"realm": `a "b"`}}},
		`bearer realm=https://a , service = s`:        {{"bearer", m{"realm": "https://a", "service": "s"}}},
		`Negotiate, Basic realm="x"`:                  {{"negotiate", m{}}, {"basic", m{"realm": "x"}}},
		`Negotiate abc==, Bearer realm="y"`:           nil, // only that nothing breaks
		`Basic realm="x", Bearer realm="y",error="z"`: {{"basic", m{"realm": "x"}}, {"bearer", m{"realm": "y", "error": "z"}}},
		`Bearer realm="open`:                          {{"bearer", m{"realm": "open"}}},
		`realm="x"`:                                   nil,
		``:                                            nil,
	} {
		if got := parseChallenges(s); want != nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", s, got, want)
		} else if want == nil && strings.HasPrefix(s, "realm") && got != nil {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"`)
	f.Add(`Negotiate abc==, Basic realm="x\`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(s) {
			if c.scheme == "" || c.params == nil {
				t.Errorf("%q: %v", s, c)
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": -1, "7": 7 * time.Second, "0": 0, "-3": -1, "soon": -1, "1.5": -1, "99999999999": -1,
		"Fri, 01 Mar 2024 12:00:30 GMT": 30 * time.Second, "Fri, 01 Mar 2024 11:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
}

func TestContentRange(t *testing.T) {
	for s, want := range map[string][2]int64{"bytes 5-9/10": {5, 10}, "bytes 0-0/*": {0, -1}, "bytes 3-4/9": {3, 9}} {
		if first, total, ok := contentRange(s); !ok || first != want[0] || total != want[1] {
			t.Errorf("%s: %d %d %v", s, first, total, ok)
		}
	}
	for _, s := range []string{"", "bytes", "bytes 5-4/10", "bytes 5-10/10", "bytes */10", "items 0-1/2", "bytes -1-2/3", "bytes 0-1", "bytes a-b/c"} {
		if _, _, ok := contentRange(s); ok {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestManifestType(t *testing.T) {
	const index, img = `{"manifests": []}`, `{"config": {}, "layers": []}`
	for _, c := range []struct{ header, doc, want string }{
		{mediaManifest, img, mediaManifest},
		{mediaManifest + "; charset=utf-8", img, mediaManifest},
		{mediaDockerList, index, mediaDockerList},
		{"application/json", index, mediaIndex},
		{"text/plain; charset=utf-8", img, mediaManifest},
		{"", `{"mediaType": "` + mediaDockerManifest + `", "layers": []}`, mediaDockerManifest},
		{mediaManifest, `{"mediaType": "` + mediaDockerManifest + `", "layers": []}`, mediaDockerManifest},
		{"application/vnd.example", `{"x": 1}`, "application/vnd.example"},
		{"text/html", `<html>`, ""},
		{"application/json", `{"x": 1}`, ""},
		{mediaIndex, `{"mediaType": "` + mediaManifest + `"}`, ""},
		{mediaManifest, `{"mediaType": "` + mediaIndex + `", "manifests": []}`, ""},
		{mediaManifest, `{"layers": [], "manifests": []}`, ""},
		{mediaIndex, `{"config": {}, "manifests": []}`, ""},
		{mediaIndex, img, ""},
		{mediaManifest, index, ""},
		{mediaManifest, `[]`, ""},
	} {
		got, err := manifestType(c.header, []byte(c.doc))
		if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s %s: %q, %v, want %q", c.header, c.doc, got, err, c.want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(mediaManifest, []byte(`{"schemaVersion": 2, "config": {}, "layers": []}`))
	f.Add("application/json", []byte(`{"mediaType": "`+mediaDockerList+`", "manifests": []}`))
	f.Add("text/html; charset", []byte(`<html>`))
	f.Add(mediaIndex, []byte(`{"Layers": [], "manifests": null}`))
	f.Fuzz(func(t *testing.T, header string, raw []byte) {
		m, err := verifyManifest("latest", http.Header{"Content-Type": {header}}, raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v", err)
			}
			return
		}
		// Whoever reads it as what it is said to be must not overlook what it is otherwise.
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatalf("%q is a %s: %v", raw, m.MediaType, err)
		}
		if m.MediaType == "" || isIndex(m.MediaType) && doc["layers"] != nil || !isIndex(m.MediaType) && doc["manifests"] != nil {
			t.Errorf("%q is a %q", raw, m.MediaType)
		}
	})
}
