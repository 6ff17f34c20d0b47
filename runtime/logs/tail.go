package logs

import (
	"bytes"
	"math"
)

// The places of what is shown: a record's stream, or what is no record.
const (
	ofStdout = iota
	ofStderr
	ofNone
)

func (e *entry) place() int {
	if e.at == nil {
		return ofNone
	}
	return index(e.stream)
}

// lookBack is how far the beginning of a stream's line is looked for behind the records of other lines.
const lookBack = 1 << 20

// tail looks from end backwards, for where the last lines begin: from there on the records of a stream, and what is no record, are to be
// shown. It goes no further back than to records before since (a stamp).
func (l *files) tail(end int64, lines int, since string) (from [3]int64, err error) {
	t := tailing{want: lines, since: since, from: [3]int64{end, end, end}}
	buf := make([]byte, bufferSize)
	for !t.done && end > 0 {
		n := min(int64(len(buf)), end)
		if _, err := l.fill(buf[:n], end-n); err != nil {
			return from, err
		}
		b := buf[:n]
		if n < end { // the block begins within a line
			skip := bytes.IndexByte(b[:n-1], '\n') + 1
			if skip == 0 && len(buf) < 1<<20 { // it is no record, or what has several lost its newlines
				buf = make([]byte, 2*len(buf))
				continue
			}
			b = b[skip:]
		}
		at := end
		for len(b) > 0 && !t.done {
			begin := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
			text := b[begin:]
			at -= int64(len(text))
			t.take(line{parse(bytes.TrimSuffix(text, []byte("\n"))), at, at + int64(len(text))})
			b = b[:begin]
		}
		end = at
	}
	return t.from, nil
}

// tailing is what tail knows on its way back.
type tailing struct {
	want, count int
	since       string
	from        [3]int64
	open        [2]bool // the beginning of a line that counts is to be found yet
	seen        [2]bool
	shut        [3]bool // from is known
	done        bool
}

func (t *tailing) take(r line) {
	p := r.place()
	switch {
	case r.at != nil && string(r.at) < t.since:
		t.done = true
		return
	case t.shut[p]:
	case p == ofNone:
		if t.count == t.want {
			t.shut[p] = true
		} else {
			t.count++
			t.from[p] = r.off
		}
	case r.full || !t.seen[p]: // the end of a line
		t.seen[p] = true
		if t.count == t.want {
			t.shut[p], t.open[p] = true, false
		} else {
			t.count++
			t.open[p], t.from[p] = true, r.off
		}
	case t.open[p]:
		t.from[p] = r.off
	}
	if t.count == t.want {
		nearest := int64(math.MaxInt64)
		for i, open := range t.open {
			if open {
				nearest = min(nearest, t.from[i])
			}
		}
		t.done = nearest == math.MaxInt64 || nearest-r.off > lookBack
	}
}
