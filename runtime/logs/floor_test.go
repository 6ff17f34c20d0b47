package logs

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

// What Floor says stays is there, and it does not ask for more than that while there is room.
func TestFloor(t *testing.T) {
	for _, content := range []string{"x", "\n", strings.Repeat("0123456789abcde\n", 1000), strings.Repeat("y", 60_000)} {
		w, err := Open(t.TempDir(), Options{MaxSize: 100_000, MaxFile: 3})
		if err != nil {
			t.Fatal(err)
		}
		held, raised := 0, false
		for range 1500 {
			b := []byte(content)
			floor := w.Floor(b)
			before := w.Mark()
			w.Append(Stdout, b, time.Now())
			if floor <= before {
				held++
			}
			raised = raised || floor > 0
			if floor > before {
				continue
			}
			got := 0
			for at := floor; at < w.Mark(); {
				next, err := w.Next(at, 1<<20, func(_ byte, p []byte) { got += len(p) })
				if err != nil {
					t.Fatalf("%.10q: from %d, with the end at %d: %v", content, floor, w.Mark(), err)
				}
				at = next
			}
			if !bytes.Contains(b, []byte{'\n'}) && len(b) < 1000 && got == 0 {
				t.Fatalf("%.10q: nothing from %d", content, floor)
			}
			if w.Mark() > 500_000 {
				break
			}
		}
		if held == 0 || len(content) > 1 && !raised {
			t.Errorf("%.10q: %d times all was kept, rotated away: %v", content, held, raised)
		}
		w.Close()
		if w.Floor(nil) != math.MaxInt64 {
			t.Error("a log that is closed keeps what is appended")
		}
	}
	w, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Append(Stdout, bytes.Repeat([]byte("line\n"), 100_000), time.Now())
	if got := w.Floor([]byte("x")); got != 0 {
		t.Errorf("without a bound: %d", got)
	}
}
