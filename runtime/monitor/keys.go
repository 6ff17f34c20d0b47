package monitor

import (
	"fmt"
	"strings"
)

// DefaultDetachKeys are Docker's: Ctrl-P Ctrl-Q.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads the keys that detach from a container, as Docker writes them: single characters, and ctrl- with a letter or one
// of @ [ \ ] ^ _, separated by commas. "" are none.
func ParseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, key := range strings.Split(s, ",") {
		name, control := strings.CutPrefix(key, "ctrl-")
		switch {
		case len(name) != 1:
			return nil, fmt.Errorf("detach keys %q: unknown key %q: want single characters, or ctrl- with a letter or one of @[\\]^_, separated by commas", s, key)
		case !control:
			keys = append(keys, name[0])
		case name[0] >= 'a' && name[0] <= 'z':
			keys = append(keys, name[0]-'a'+1)
		case name[0] >= '@' && name[0] <= '_':
			keys = append(keys, name[0]-'@')
		default:
			return nil, fmt.Errorf("detach keys %q: no terminal sends %q", s, key)
		}
	}
	return keys, nil
}

// scanner looks for the detach keys in what is typed. What may be their beginning is held back until it is known.
type scanner struct {
	keys []byte
	seen int // of them
}

// scan appends to out what is not part of the keys, and says whether they were all there.
func (s *scanner) scan(out, typed []byte) ([]byte, bool) {
	for _, b := range typed {
		for s.seen > 0 && b != s.keys[s.seen] {
			// Not the keys: the first of what was held back goes on, and the rest may still be their beginning.
			held := s.keys[:s.seen]
			out = append(out, held[0])
			n := s.seen - 1
			for ; n > 0; n-- {
				if string(held[s.seen-n:]) == string(s.keys[:n]) {
					break
				}
				out = append(out, held[s.seen-n])
			}
			s.seen = n
		}
		if b != s.keys[s.seen] {
			out = append(out, b)
			continue
		}
		if s.seen++; s.seen == len(s.keys) {
			return out, true
		}
	}
	return out, false
}
