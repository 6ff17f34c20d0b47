package monitor

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseDetachKeys(t *testing.T) {
	for s, want := range map[string]string{"": "", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,x": "\x00\x1b\x1c\x1d\x1e\x1fx", "ctrl-Z": "\x1a", "ä": "?", "ctrl-": "?", "ctrl-1": "?", "ab": "?", "a,": "?", ",": "?", "ctrl-p,ctrl-qq": "?"} {
		keys, err := ParseDetachKeys(s)
		if want == "?" {
			if err == nil || !strings.Contains(err.Error(), "detach keys") {
				t.Errorf("%q: %q, %v", s, keys, err)
			}
		} else if err != nil || string(keys) != want {
			t.Errorf("%q: %q, %v; want %q", s, keys, err, want)
		}
	}
}

func TestDetachKeysInInput(t *testing.T) {
	for _, test := range []struct{ keys, typed, out string }{
		{"pq", "hello", "hello"},
		{"pq", "hpq", "h|"},
		{"pq", "ppq", "p|"},
		{"pq", "pxpq", "px|"},
		{"pq", "pp", "p"}, // the last is held back
		{"aab", "aaab", "a|"},
		{"abac", "ababac", "ab|"},
		{"abac", "abax", "abax"},
		{"a", "xa", "x|"},
	} {
		for _, step := range []int{1, 2, 100} {
			s := scanner{keys: []byte(test.keys)}
			var out []byte
			for b := []byte(test.typed); len(b) > 0; {
				k := min(step, len(b))
				var left bool
				if out, left = s.scan(out, b[:k]); left {
					out = append(out, '|')
					break
				}
				b = b[k:]
			}
			if string(out) != test.out {
				t.Errorf("%q in %q, %d at once: %q, want %q", test.keys, test.typed, step, out, test.out)
			}
		}
	}
}

// FuzzDetachKeys compares what is let through with what a search in the whole finds.
func FuzzDetachKeys(f *testing.F) {
	f.Add([]byte("aab"), []byte("aaaab"))
	f.Fuzz(func(t *testing.T, keys, typed []byte) {
		if len(keys) == 0 || len(keys) > 8 {
			return
		}
		s := scanner{keys: keys}
		out, left := s.scan(nil, typed)
		i := bytes.Index(typed, keys)
		switch {
		case left != (i >= 0):
			t.Fatalf("%q in %q: %v", keys, typed, left)
		case left && !bytes.Equal(out, typed[:i]):
			t.Fatalf("%q in %q: %q", keys, typed, out)
		case !left && !bytes.Equal(append(out, keys[:s.seen]...), typed):
			t.Fatalf("%q in %q: %q, and %d held back", keys, typed, out, s.seen)
		}
	})
}
