package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Exact is a string of any bytes, as names of files and arguments of commands are, in a record that is JSON, whose strings are UTF-8. A
// byte that is none is written as \udcXX, which no UTF-8 string holds: what Python calls surrogateescape (PEP 383).
type Exact string

// MarshalJSON writes the string.
func (e Exact) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(e)) {
		return json.Marshal(string(e))
	}
	out := []byte{'"'}
	for s := string(e); s != ""; {
		valid := 0
		for valid < len(s) {
			r, n := utf8.DecodeRuneInString(s[valid:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			valid += n
		}
		b, err := json.Marshal(s[:valid])
		if err != nil {
			return nil, err
		}
		out = append(out, b[1:len(b)-1]...)
		if valid < len(s) {
			out = fmt.Appendf(out, `\udc%02x`, s[valid])
			valid++
		}
		s = s[valid:]
	}
	return append(out, '"'), nil
}

// UnmarshalJSON reads the string.
func (e *Exact) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' {
		return json.Unmarshal(b, (*string)(e)) // null, or an error
	}
	text := b[1 : len(b)-1]
	if bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) { // as nearly all are
		*e = Exact(text)
		return nil
	}
	var out []byte
	flush := func(piece []byte) error {
		var s string
		err := json.Unmarshal(append(append([]byte{'"'}, piece...), '"'), &s)
		out = append(out, s...)
		return err
	}
	start := 0
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		unit := escapedUnit(text[i:])
		switch {
		case unit >= 0xdc80 && unit <= 0xdcff:
			if err := flush(text[start:i]); err != nil {
				return err
			}
			out = append(out, byte(unit))
			i += 5
			start = i + 1
		case unit >= 0xd800 && unit < 0xdc00:
			i += 11 // with its other half
		default:
			i++
		}
	}
	if err := flush(text[start:]); err != nil {
		return err
	}
	*e = Exact(out)
	return nil
}

// escapedUnit is the UTF-16 unit of an escape that b begins with, or -1.
func escapedUnit(b []byte) int {
	if len(b) < 6 || b[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// ExactList is a list of strings, each written as an Exact.
type ExactList []string

// MarshalJSON writes the list.
func (l ExactList) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("null"), nil
	}
	list := make([]Exact, len(l))
	for i, s := range l {
		list[i] = Exact(s)
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads the list.
func (l *ExactList) UnmarshalJSON(b []byte) error {
	// As we write it, and without escapes, each string is what is between its quotes.
	if inner, ok := bytes.CutPrefix(b, []byte(`["`)); ok && bytes.IndexByte(b, '\\') < 0 && utf8.Valid(b) {
		if inner, ok = bytes.CutSuffix(inner, []byte(`"]`)); ok {
			if list := strings.Split(string(inner), `","`); !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, `"`) }) {
				*l = list
				return nil
			}
		}
	}
	var list []Exact
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*l = nil
	for _, s := range list {
		*l = append(*l, string(s))
	}
	return nil
}
