package logs

import (
	"bytes"
	"math"
)

// Floor is the lowest position from which on Next gives everything, and will when b was appended: what rotation will have left. It is
// behind the end where not even that can be kept.
func (w *Writer) Floor(b []byte) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed || w.lost > 0:
		return math.MaxInt64
	case w.o.MaxSize <= 0:
		return w.pieces[0].start
	}
	records := bytes.Count(b, []byte{'\n'}) + len(b)/maxContent + 1
	size := w.size + int64(len(b)+records*(headerLen+1))
	dropped := len(w.files) - w.o.MaxFile
	if size > w.o.MaxSize { // a file is full when another record of the largest size may not fit
		dropped += 1 + int(size/max(1, w.o.MaxSize-int64(maxRecord)))
	}
	switch {
	case dropped <= 0:
		return w.pieces[0].start
	case dropped >= len(w.files):
		return math.MaxInt64
	}
	for _, p := range w.pieces {
		if p.f == w.files[dropped] {
			return p.start
		}
	}
	return math.MaxInt64
}
