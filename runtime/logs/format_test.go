package logs

import (
	"bytes"
	"testing"
)

func TestParse(t *testing.T) {
	const at = "2026-11-25T12:00:00.123456789Z"
	for line, want := range map[string]entry{
		at + " stdout F text":                          {[]byte(at), Stdout, true, []byte("text")},
		at + " stderr P F x\x00":                       {[]byte(at), Stderr, false, []byte("F x\x00")},
		at + " stdout F ":                              {[]byte(at), Stdout, true, []byte{}},
		at + " stdout F":                               {nil, Stdout, true, []byte(at + " stdout F")},
		at + " stdlog F text":                          {nil, Stdout, true, []byte(at + " stdlog F text")},
		at + " stdout Q text":                          {nil, Stdout, true, []byte(at + " stdout Q text")},
		at[:29] + "+ stdout F text":                    {nil, Stdout, true, []byte(at[:29] + "+ stdout F text")},
		"2026-11-25T12:00:00.12345678xZ stdout F text": {nil, Stdout, true, []byte("2026-11-25T12:00:00.12345678xZ stdout F text")},
		"": {nil, Stdout, true, []byte{}},
	} {
		got := parse([]byte(line))
		if !bytes.Equal(got.at, want.at) || got.stream != want.stream || got.full != want.full || !bytes.Equal(got.content, want.content) {
			t.Errorf("%q is %+v, want %+v", line, got, want)
		}
	}
}

// Whatever a line is: it is a record, and that is written as it was, or it is shown as it is.
func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-25T12:00:00.123456789Z stdout F text"))
	f.Add([]byte("2026-11-25T12:00:00.123456789Z stderr P "))
	f.Add([]byte("2026-11-25T12:00:00.123456789Z stdout F"))
	f.Add([]byte("\x00\x00garbage"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e := parse(line)
		if e.at == nil {
			if !bytes.Equal(e.content, line) || e.stream != Stdout || !e.full {
				t.Errorf("%q is shown as %+v", line, e)
			}
			return
		}
		if again := appendRecord(nil, e.at, e.stream, e.full, e.content); !bytes.Equal(again, append(bytes.Clone(line), '\n')) {
			t.Errorf("%q was read as %+v, which is written as %q", line, e, again)
		}
	})
}

// Whatever is printed, in whatever pieces, comes back as it was.
func FuzzCut(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 3)
	f.Add(bytes.Repeat([]byte("x"), maxContent+1), maxContent)
	f.Add(append(bytes.Repeat([]byte("x"), maxContent), '\n'), 1<<20)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		var log []byte
		size = max(size, 1)
		for rest := b; len(rest) > 0; {
			piece := rest[:min(len(rest), size)]
			rest = rest[len(piece):]
			for len(piece) > 0 {
				var c []byte
				var full bool
				c, piece, full = cut(piece)
				if len(c) > maxContent {
					t.Fatalf("a record of %d bytes", len(c))
				}
				log = appendRecord(log, "2026-11-25T12:00:00.123456789Z", Stderr, full, c)
			}
		}
		var got []byte
		replay(log, func(stream byte, b []byte) {
			if stream != Stderr {
				t.Errorf("it came on %c", stream)
			}
			got = append(got, b...)
		})
		if !bytes.Equal(got, b) {
			t.Errorf("%q came back as %q", b, got)
		}
	})
}
