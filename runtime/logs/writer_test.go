package logs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 123456789, time.UTC)

func openLog(t testing.TB, dir string, o Options) *Writer {
	t.Helper()
	w, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func content(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// replayed is what a stream's laggard gets from a position on.
func replayed(t testing.TB, w *Writer, from int64) (streams [2][]byte) {
	t.Helper()
	for {
		next, err := w.Next(from, 1000, func(stream byte, b []byte) {
			streams[index(stream)] = append(streams[index(stream)], b...)
		})
		if err != nil {
			t.Fatal(err)
		}
		if next == from {
			return streams
		}
		from = next
	}
}

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	w := openLog(t, dir, Options{})
	w.Append(Stdout, []byte("one\n\ntwo\r\nthr"), noon)
	w.Append(Stderr, []byte("oops\n"), noon.Add(-time.Millisecond)) // not before the last one
	w.Append(Stdout, []byte("ee\n"), noon.Add(time.Second))
	w.Append(Stdout, []byte("\x00\xff last"), noon.Add(-time.Hour)) // the clock was set
	w.Append(Stdout, nil, noon)
	const at = "2026-11-25T12:00:00.123456789Z "
	want := at + "stdout F one\n" + at + "stdout F \n" + at + "stdout F two\r\n" + at + "stdout P thr\n" + at + "stderr F oops\n" +
		"2026-11-25T12:00:01.123456789Z stdout F ee\n2026-11-25T11:00:00.123456789Z stdout P \x00\xff last\n"
	if got := content(t, dir, "log"); got != want {
		t.Errorf("the log is\n%q\nwant\n%q", got, want)
	}
	if s := replayed(t, w, 0); string(s[0]) != "one\n\ntwo\r\nthree\n\x00\xff last" || string(s[1]) != "oops\n" {
		t.Errorf("replayed: %q", s)
	}
}

// Lines of any length, and bytes of any kind, come back as they were, through rotations and from any position.
func TestBinary(t *testing.T) {
	for _, o := range []Options{{}, {MaxSize: 100_000, MaxFile: 1000}} {
		dir := t.TempDir()
		w := openLog(t, dir, o)
		r := rand.New(rand.NewPCG(1, 2))
		var want [2][]byte
		type mark struct {
			at   int64
			have [2]int
		}
		var marks []mark
		for range 300 {
			b := make([]byte, r.IntN(40_000))
			for i := range b {
				b[i] = byte(r.IntN(256))
			}
			if r.IntN(2) == 0 {
				b = bytes.ReplaceAll(b, []byte("\n"), []byte("_"))
			}
			stream := byte(Stdout)
			if r.IntN(3) == 0 {
				stream = Stderr
			}
			marks = append(marks, mark{w.Mark(), [2]int{len(want[0]), len(want[1])}})
			want[index(stream)] = append(want[index(stream)], b...)
			w.Append(stream, b, time.Now())
		}
		for _, m := range append(marks[:20:20], marks[290:]...) {
			got := replayed(t, w, m.at)
			for i := range got {
				if !bytes.Equal(got[i], want[i][m.have[i]:]) {
					t.Fatalf("%+v: from %d, stream %d: %d bytes came, want %d", o, m.at, i, len(got[i]), len(want[i])-m.have[i])
				}
			}
		}
		files, _ := filepath.Glob(filepath.Join(dir, "log*"))
		for _, f := range files {
			b := content(t, f)
			if o.MaxSize > 0 && len(b) > 100_000 {
				t.Errorf("%s has %d bytes", f, len(b))
			}
			for line := range strings.Lines(b) {
				if e := parse([]byte(strings.TrimSuffix(line, "\n"))); e.at == nil || len(line) > maxRecord {
					t.Fatalf("%s has a line of %d bytes: %.60q", f, len(line), line)
				}
			}
		}
		if o.MaxSize > 0 && len(files) < 20 {
			t.Errorf("%d files", len(files))
		}
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	w := openLog(t, dir, Options{MaxSize: 1000, MaxFile: 3})
	line := strings.Repeat("x", 60-1) + "\n" // a record of 100 bytes
	for i := range 95 {
		w.Append(Stdout, []byte(line), noon.Add(time.Duration(i)*time.Second))
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 3 {
		t.Errorf("the files are %q", files)
	}
	for name, records := range map[string]int{"log": 5, "log.1": 10, "log.2": 10} {
		if b := content(t, dir, name); strings.Count(b, "\n") != records {
			t.Errorf("%s has %d records, want %d", name, strings.Count(b, "\n"), records)
		}
	}
	// What is gone is said to be gone, once.
	next, err := w.Next(0, 1<<20, nil)
	if err != errDropped || next != 7000 {
		t.Errorf("from 0: %d, %v; want 7000, %v", next, err, errDropped)
	}
	if s := replayed(t, w, next); len(s[0]) != 25*60 {
		t.Errorf("%d bytes are left", len(s[0]))
	}
	// A log that is opened again goes on where it was.
	w.Close()
	w.Append(Stdout, []byte("late\n"), noon)
	again := openLog(t, dir, Options{MaxSize: 1000, MaxFile: 3})
	mark := again.Mark()
	for range 6 {
		again.Append(Stdout, []byte(line), noon)
	}
	if s := replayed(t, again, mark); len(s[0]) != 6*60 {
		t.Errorf("%d bytes came after it was opened again", len(s[0]))
	}
	if b := content(t, dir, "log.1"); strings.Count(b, "\n") != 10 || strings.Contains(b, "late") {
		t.Errorf("log.1 has %d records", strings.Count(b, "\n"))
	}
	// One file: a full one makes way for an empty one.
	dir = t.TempDir()
	w = openLog(t, dir, Options{MaxSize: 1000})
	for range 25 {
		w.Append(Stdout, []byte(line), noon)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 || len(content(t, files[0])) != 500 {
		t.Errorf("one file: %q", files)
	}
	// A record that is larger than a file may be has one of its own.
	w.Append(Stdout, []byte(strings.Repeat("y", 5000)+"\n"), noon)
	if b := content(t, dir, "log"); len(b) != 5041 {
		t.Errorf("a large record: %d bytes", len(b))
	}
}

// What a crash left half written does not become part of the next record.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log"), []byte("2026-11-25T12:00:00.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := openLog(t, dir, Options{})
	w.Append(Stdout, []byte("next\n"), noon)
	if got := content(t, dir, "log"); got != "2026-11-25T12:00:00.1\n2026-11-25T12:00:00.123456789Z stdout F next\n" {
		t.Errorf("the log is %q", got)
	}
	if s := replayed(t, w, 0); string(s[0]) != "next\n" {
		t.Errorf("replayed: %q", s)
	}
}

func BenchmarkAppend(b *testing.B) {
	for name, chunk := range map[string][]byte{
		"lines":  bytes.Repeat([]byte(strings.Repeat("x", 79)+"\n"), 32<<10/80),
		"binary": make([]byte, 32<<10),
		"line":   []byte("a line of a usual length, that comes by itself\n"),
	} {
		b.Run(name, func(b *testing.B) {
			w, err := Open(b.TempDir(), Options{MaxSize: 64 << 20, MaxFile: 2})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			now := time.Now()
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				w.Append(Stdout, chunk, now)
			}
		})
	}
}
