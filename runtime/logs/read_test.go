package logs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/monitor"
)

var _ monitor.Log = (*Writer)(nil)

// shown is what Read shows: what came on stdout, "\n--\n", and what came on stderr.
func shown(t testing.TB, dir string, o ReadOptions) string {
	t.Helper()
	var out, errs bytes.Buffer
	if err := Read(context.Background(), dir, o, &out, &errs); err != nil {
		t.Fatal(err)
	}
	return out.String() + "\n--\n" + errs.String()
}

// plainly is what Read is to show, found without any art: of the text of a whole log.
func plainly(log string, o ReadOptions) string {
	var since, until string
	if !o.Since.IsZero() {
		since = stamp(o.Since)
	}
	if !o.Until.IsZero() {
		until = stamp(o.Until)
	}
	var lines []string // each with the place it goes to before it
	var open [2]int    // in lines, and 1 more
	for l := range strings.Lines(log) {
		text := strings.TrimSuffix(l, "\n")
		e := parse([]byte(text))
		if e.at == nil {
			lines = append(lines, "0"+l)
			continue
		}
		p := e.place()
		if until != "" && string(e.at) > until {
			break
		}
		if string(e.at) < since {
			continue
		}
		if open[p] == 0 {
			start := fmt.Sprint(p)
			if o.Timestamps {
				start += string(e.at) + " "
			}
			lines = append(lines, start)
			open[p] = len(lines)
		}
		lines[open[p]-1] += string(e.content)
		if e.full && strings.HasSuffix(l, "\n") {
			lines[open[p]-1] += "\n"
		}
		if e.full {
			open[p] = 0
		}
	}
	// The last lines are those that end last. Lines that have not ended do at the end of the log, in no order that matters here.
	if o.Tail >= 0 {
		lines = lines[max(0, len(lines)-o.Tail):]
	}
	var out [2]string
	for _, l := range lines {
		out[l[0]-'0'] += l[1:]
	}
	return out[0] + "\n--\n" + out[1]
}

// someLog makes a log of several files, of a second a record, and returns all of it.
func someLog(t testing.TB, dir string, r *rand.Rand, records int, garbled bool) string {
	t.Helper()
	var all, one []byte
	var names []string
	part, stream := false, byte(Stdout) // a line is not within another
	for i := range records {
		if garbled && !part && r.IntN(10) == 0 {
			one = append(one, strings.Repeat("\x00garbled", 1+r.IntN(3))+"\n"...)
			if r.IntN(5) == 0 {
				one = append(one, bytes.Repeat([]byte("z"), 5*bufferSize/2)...)
				one = append(one, '\n')
			}
		}
		if !part {
			stream = []byte{Stdout, Stderr}[r.IntN(2)]
		}
		part = r.IntN(4) == 0
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", []int{3, 3, 30, 30, 300, 300, 300, 16000}[r.IntN(8)]))
		one = appendRecord(one, stamp(noon.Add(time.Duration(i)*time.Second)), stream, !part, []byte(text))
		if r.IntN(30) == 0 || i == records-1 {
			name := filepath.Join(dir, fmt.Sprint("part", len(names)))
			if garbled && r.IntN(3) == 0 && i < records-1 && !part {
				one = one[:len(one)-1] // the newline is lost: it counts as if it were there
				if err := os.WriteFile(name, one, 0o600); err != nil {
					t.Fatal(err)
				}
				one = append(one, '\n')
			} else if err := os.WriteFile(name, one, 0o600); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
			all, one = append(all, one...), nil
		}
	}
	for i, name := range names {
		if err := os.Rename(name, logName(dir, len(names)-1-i)); err != nil {
			t.Fatal(err)
		}
	}
	return string(all)
}

func TestRead(t *testing.T) {
	for seed := range uint64(6) {
		dir := t.TempDir()
		r := rand.New(rand.NewPCG(seed, 7))
		log := someLog(t, dir, r, 150, seed%2 == 1)
		for _, o := range []ReadOptions{{Tail: -1}, {Tail: -1, Timestamps: true}} {
			if got, want := shown(t, dir, o), plainly(log, o); got != want {
				t.Fatalf("seed %d, %+v: %d bytes, want %d", seed, o, len(got), len(want))
			}
		}
		for range 40 {
			o := ReadOptions{Tail: r.IntN(200) - 25, Timestamps: r.IntN(2) == 0}
			if r.IntN(2) == 0 {
				o.Since = noon.Add(time.Duration(r.IntN(200)-25) * time.Second)
			}
			if r.IntN(2) == 0 {
				o.Until = noon.Add(time.Duration(r.IntN(200)-25) * time.Second)
			}
			if seed%2 == 1 && !o.Since.IsZero() {
				o.Since = time.Time{} // what is no record has no time: how much of it is shown is not said
			}
			if got, want := shown(t, dir, o), plainly(log, o); got != want {
				t.Errorf("seed %d, %+v: %d bytes, want %d\n%.300q\n%.300q", seed, o, len(got), len(want), got, want)
			}
		}
	}
}

func TestTail(t *testing.T) {
	dir := t.TempDir()
	w := openLog(t, dir, Options{})
	for i, s := range []string{"o1\n", "o2 ", "e1\n", "o2\n", "e2 ", "o3\n", "o4", "e2\n", " o4\n", "o5"} {
		stream := byte(Stdout)
		if strings.HasPrefix(s, "e") {
			stream = Stderr
		}
		w.Append(stream, []byte(s), noon.Add(time.Duration(i)*time.Second))
	}
	for n, want := range map[int]string{
		0: "\n--\n", 1: "o5\n--\n", 2: "o4 o4\no5\n--\n", 3: "o4 o4\no5\n--\ne2 e2\n", 4: "o3\no4 o4\no5\n--\ne2 e2\n",
		5: "o2 o2\no3\no4 o4\no5\n--\ne2 e2\n", 6: "o2 o2\no3\no4 o4\no5\n--\ne1\ne2 e2\n", 7: "o1\no2 o2\no3\no4 o4\no5\n--\ne1\ne2 e2\n",
		-1: "o1\no2 o2\no3\no4 o4\no5\n--\ne1\ne2 e2\n",
	} {
		if got := shown(t, dir, ReadOptions{Tail: n}); got != want {
			t.Errorf("the last %d are %q, want %q", n, got, want)
		}
	}
	if got := shown(t, dir, ReadOptions{Tail: 2, Timestamps: true}); got != "2026-11-25T12:00:06.123456789Z o4 o4\n2026-11-25T12:00:09.123456789Z o5\n--\n" {
		t.Errorf("with times: %q", got)
	}
	if got := shown(t, t.TempDir(), ReadOptions{Tail: 3}); got != "\n--\n" {
		t.Errorf("no log: %q", got)
	}
}

func TestGarbled(t *testing.T) {
	const at = "2026-11-25T12:00:00.123456789Z "
	for log, want := range map[string]string{
		at + "stdout F one\n" + at + "stderr F tw":               "one\n\n--\ntw",
		at + "stdout F one\n" + at + "stder":                     "one\n" + at + "stder\n--\n",
		"\x00\x00\x00\n" + at + "stdout F one\n":                 "\x00\x00\x00\none\n\n--\n",
		at + "stdout F on" + at + "stdout F two\n":               "on" + at + "stdout F two\n\n--\n",
		at + "stderr P one\n\xff\xfe\n" + at + "stderr F \n\n":   "\xff\xfe\n\n\n--\none\n",
		at + "stderr F " + strings.Repeat("x", 3*bufferSize):     "\n--\n" + strings.Repeat("x", 3*bufferSize),
		strings.Repeat("y", 3*bufferSize) + "\n":                 strings.Repeat("y", 3*bufferSize) + "\n\n--\n",
		at + "stdout F " + strings.Repeat("x", 99_000) + "\nz\n": strings.Repeat("x", 99_000) + "\nz\n\n--\n",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "log"), []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, o := range []ReadOptions{{Tail: -1}, {Tail: 9}} {
			if got := shown(t, dir, o); got != want {
				t.Errorf("%+v: %.200q is shown as %.200q, want %.200q", o, log, got, want)
			}
		}
	}
	for what, put := range map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a link":      func(path string) error { return os.Symlink("/etc/passwd", path) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "log")
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		want := path + " is not a file"
		if err := Read(context.Background(), dir, ReadOptions{Tail: -1}, nil, nil); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s is read as a log: %v", what, err)
		}
		if w, err := Open(dir, Options{}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s is opened as a log: %v, %v", what, w, err)
		}
	}
}

// following runs Read in the background, and returns what it has shown so far, and waits for its end.
type following struct {
	out, errs buffer
	done      chan error
}

func follow(ctx context.Context, dir string, o ReadOptions) *following {
	f := &following{done: make(chan error, 1)}
	o.Follow = true
	go func() { f.done <- Read(ctx, dir, o, &f.out, &f.errs) }()
	return f
}

func (f *following) end(t testing.TB) {
	t.Helper()
	select {
	case err := <-f.done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it follows for ever")
	}
}

func (f *following) has(t testing.TB, want string) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); f.out.String() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%q was shown, want %q", f.out.String(), want)
		}
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	ended := make(chan struct{})
	f := follow(context.Background(), dir, ReadOptions{Tail: -1, Ended: ended}) // before there is a log
	w := openLog(t, dir, Options{})
	w.Append(Stdout, []byte("name: "), noon)
	f.has(t, "name: ") // a prompt is seen at once
	w.Append(Stdout, []byte("ann\n"), noon)
	f.has(t, "name: ann\n")
	late := follow(context.Background(), dir, ReadOptions{Tail: 0, Ended: ended, Timestamps: true})
	called := follow(context.Background(), dir, ReadOptions{Tail: -1, Until: time.Now().Add(300 * time.Millisecond)})
	called.has(t, "name: ann\n")
	called.end(t)
	ctx, cancel := context.WithCancel(context.Background())
	left := follow(ctx, dir, ReadOptions{Tail: 1})
	left.has(t, "name: ann\n")
	cancel()
	left.end(t)
	time.Sleep(20 * time.Millisecond) // late has begun
	// Half a record is waited for; somebody who empties the log is understood.
	g, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.WriteString("2026-11-25T12:00:00.123456789Z stdo")
	time.Sleep(20 * time.Millisecond)
	g.WriteString("ut F two\n")
	f.has(t, "name: ann\ntwo\n")
	if err := g.Truncate(0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	g.WriteString("2026-11-25T12:00:00.123456789Z stdout F three\n")
	f.has(t, "name: ann\ntwo\nthree\n")
	g.WriteString("2026-11-25T12:00:00.123456789Z stdout F the last words")
	g.Close()
	close(ended)
	f.end(t)
	f.has(t, "name: ann\ntwo\nthree\nthe last words")
	late.end(t)
	const at = "2026-11-25T12:00:00.123456789Z "
	late.has(t, at+"two\n"+at+"three\n"+at+"the last words")
	again := follow(context.Background(), dir, ReadOptions{Tail: -1, Ended: ended}) // of a container that has ended
	again.end(t)
	again.has(t, "three\nthe last words")
}

// Nothing is lost to a rotation, however often it comes, as long as the files are kept.
func TestFollowRotation(t *testing.T) {
	dir := t.TempDir()
	w := openLog(t, dir, Options{MaxSize: 3000, MaxFile: 500})
	ended := make(chan struct{})
	var readers []*following
	var want strings.Builder
	for i := range 6000 {
		if i%1500 == 0 {
			readers = append(readers, follow(context.Background(), dir, ReadOptions{Tail: -1, Ended: ended}))
		}
		text := fmt.Sprintf("line %d\n", i)
		want.WriteString(text)
		w.Append(Stdout, []byte(text), noon)
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "log.*")); len(files) < 50 {
		t.Fatalf("there are %d files", len(files))
	}
	close(ended)
	for i, f := range readers {
		f.end(t)
		if got := f.out.String(); got != want.String() {
			t.Errorf("reader %d was shown %d bytes, want %d", i, len(got), want.Len())
		}
	}
}

// Who is slower than rotation learns where something is missing, and nowhere else.
func TestFollowGap(t *testing.T) {
	dir := t.TempDir()
	w := openLog(t, dir, Options{MaxSize: 100, MaxFile: 2})
	line := func(n int) string { return fmt.Sprintf("%40d\n", n) } // a file has one of them
	for n := range 3 {
		w.Append(Stdout, []byte(line(n)), noon)
	}
	w.Append(Stdout, []byte("half"), noon)
	started, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var out, errs bytes.Buffer
	slow := writerFunc(func(b []byte) (int, error) {
		if out.Len() == 0 {
			close(started)
			<-goOn
		}
		return out.Write(b)
	})
	done := make(chan error)
	go func() {
		done <- Read(context.Background(), dir, ReadOptions{Tail: -1, Follow: true, Ended: ended}, slow, &errs)
	}()
	<-started
	w.Append(Stdout, []byte("\n"), noon)
	for n := 3; n < 8; n++ {
		w.Append(Stdout, []byte(line(n)), noon)
	}
	close(goOn)
	close(ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := line(2) + "half\n" + line(6) + line(7); out.String() != want {
		t.Errorf("a slow reader was shown %q, want %q", out.String(), want)
	}
	const note = "layerctl: some of the output is missing here: its log was rotated away before it could be shown\n"
	if errs.String() != note {
		t.Errorf("it was told %q, want %q", errs.String(), note)
	}
	if got := shown(t, dir, ReadOptions{Tail: -1}); got != line(6)+line(7)+"\n--\n" {
		t.Errorf("who comes later is shown %q", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Whatever is in the files: it is shown, without an error, the same as a plain reading of it, and the tail is the end of it.
func FuzzRead(f *testing.F) {
	const at = "2026-11-25T12:00:00.123456789Z "
	f.Add([]byte(at+"stdout F one\n"+at+"stderr P two\n"), []byte(at+"stderr F two\nx\n"), 1)
	f.Add([]byte(at+"stdout P one\n"), []byte("\n\n\n"+at), 2)
	f.Add([]byte{}, []byte("\x00"), 0)
	defer func(before time.Duration) { halfWait = before }(halfWait)
	halfWait = 0
	f.Fuzz(func(t *testing.T, older, newer []byte, n int) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"log.1": older, "log": newer} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if len(older) > 0 && older[len(older)-1] != '\n' {
			older = append(bytes.Clone(older), '\n') // its array may be newer's, too
		}
		o := ReadOptions{Tail: -1}
		if got, want := shown(t, dir, o), plainly(string(older)+string(newer), o); got != want {
			t.Errorf("%q is shown, want %q", got, want)
		}
		for _, o := range []ReadOptions{{Tail: n, Since: noon}, {Tail: n, Until: noon, Timestamps: true}, {Tail: n, Since: noon.Add(-1), Until: noon.Add(1)}} {
			shown(t, dir, o)
		}
		o.Tail = max(n, 0)
		got := shown(t, dir, o)
		out, errs, _ := strings.Cut(got, "\n--\n")
		whole := shown(t, dir, ReadOptions{Tail: -1})
		if o.Tail == 0 && got != "\n--\n" || len(got) > len(whole) || strings.HasSuffix(errs, "\n") && !strings.HasSuffix(whole, errs) && !strings.Contains(out+errs, "\n--\n") {
			t.Errorf("the last %d of %q are %q", n, whole, got)
		}
	})
}

// The end of a log of 1 GB.
func BenchmarkTail(b *testing.B) {
	dir := b.TempDir()
	w, err := Open(dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	chunk := bytes.Repeat([]byte(strings.Repeat("x", 59)+"\n"), 500)
	for w.Mark() < 1<<30 {
		w.Append(Stdout, chunk, noon.Add(time.Duration(w.Mark())))
	}
	w.Close()
	for name, o := range map[string]ReadOptions{
		"tail100": {Tail: 100}, "tail10000": {Tail: 10_000}, "since": {Tail: -1, Since: noon.Add(1<<30 - 1<<20)},
		"window": {Tail: -1, Since: noon.Add(1 << 29), Until: noon.Add(1<<29 + 1<<20)}, "before": {Tail: 100, Until: noon.Add(1 << 29)},
	} {
		b.Run(name, func(b *testing.B) {
			var n counter
			for b.Loop() {
				n = 0
				if err := Read(context.Background(), dir, o, &n, &n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n), "bytes")
		})
	}
	b.Run("all", func(b *testing.B) {
		b.SetBytes(1 << 30)
		for b.Loop() {
			var n counter
			if err := Read(context.Background(), dir, ReadOptions{Tail: -1}, &n, &n); err != nil {
				b.Fatal(err)
			}
		}
	})
}
