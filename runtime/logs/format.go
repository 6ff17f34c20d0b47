package logs

import (
	"bytes"
	"time"
)

// The streams of a container.
const (
	Stdout = 'o'
	Stderr = 'e'
)

const (
	timeLayout = "2006-01-02T15:04:05.000000000Z"
	headerLen  = len(timeLayout) + len(" stdout F ")
	maxContent = 16 << 10 // of one record: what the CRI runtimes cut lines at
	maxRecord  = headerLen + maxContent + 1
	bufferSize = 4 * maxRecord
)

// stamp is a time as records have it.
func stamp(t time.Time) string { return t.UTC().Format(timeLayout) }

// appendRecord appends a record: a line, or a part of one.
func appendRecord[T string | []byte](b []byte, at T, stream byte, full bool, content []byte) []byte {
	b = append(b, at...)
	if stream == Stderr {
		b = append(b, " stderr "...)
	} else {
		b = append(b, " stdout "...)
	}
	if full {
		b = append(b, "F "...)
	} else {
		b = append(b, "P "...)
	}
	return append(append(b, content...), '\n')
}

// cut takes the content of the next record from b: a line without its newline, or where b has none, or a long one, a part of a line.
func cut(b []byte) (content, rest []byte, full bool) {
	n := bytes.IndexByte(b[:min(len(b), maxContent+1)], '\n')
	if n >= 0 {
		return b[:n], b[n+1:], true
	}
	n = min(len(b), maxContent)
	return b[:n], b[n:], false
}

// entry is a record, read.
type entry struct {
	at      []byte // its time; nil for a line that is no record
	stream  byte
	full    bool
	content []byte
}

// parse reads a line without its newline. What is no record is an entry of stdout with the whole line for content.
func parse(line []byte) entry {
	garbled := entry{stream: Stdout, full: true, content: line}
	if len(line) < headerLen {
		return garbled
	}
	at, rest := line[:len(timeLayout)], line[len(timeLayout):]
	for i := range at {
		if c := timeLayout[i]; c >= '0' && c <= '9' {
			if at[i] < '0' || at[i] > '9' {
				return garbled
			}
		} else if at[i] != c {
			return garbled
		}
	}
	e := entry{content: rest[len(" stdout F "):]}
	switch string(rest[:len(" stdout ")]) {
	case " stdout ":
		e.stream = Stdout
	case " stderr ":
		e.stream = Stderr
	default:
		return garbled
	}
	switch string(rest[len(" stdout "):len(" stdout F ")]) {
	case "F ":
		e.full = true
	case "P ":
	default:
		return garbled
	}
	e.at = at
	return e
}
