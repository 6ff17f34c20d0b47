package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A full disk stops nobody: what could not be written is counted, said, and missing nowhere else.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("it mounts a file system: run it as root")
	}
	dir := t.TempDir()
	disk, at := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	for _, args := range [][]string{{"truncate", "-s", "4M", disk}, {"mkfs.ext4", "-q", disk}, {"mkdir", at}, {"mount", "-o", "loop", disk, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	fill := func() {
		f, err := os.OpenFile(filepath.Join(at, "fill"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, n := range []int{1 << 20, 4 << 10, 1} {
			for err = nil; err == nil; _, err = f.Write(make([]byte, n)) {
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
		}
	}
	w := openLog(t, at, Options{MaxSize: 1 << 20, MaxFile: 2})
	retry := func() { // without the wait
		w.mu.Lock()
		w.retryAt = time.Time{}
		w.mu.Unlock()
	}
	w.Append(Stdout, []byte("before\nhal"), noon)
	w.Append(Stderr, []byte("half an error"), noon)
	fill()
	size := len(content(t, at, "log"))
	lost, begun := 0, time.Now()
	chunk := bytes.Repeat([]byte(strings.Repeat("z", 99)+"\n"), 300)
	for i := range 2000 {
		w.Append(Stdout, chunk, noon)
		lost += len(chunk)
		if i == 1000 {
			retry()
		}
	}
	t.Logf("%d bytes in %v on a full disk", lost, time.Since(begun))
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("the container waited %v for a full disk", d)
	}
	written := len(content(t, at, "log"))
	if written < size || written > size+4096 {
		t.Fatalf("the log has %d bytes, of %d", written, size)
	}
	// The last block had some room: the records that fit are whole.
	for line := range strings.Lines(content(t, at, "log")) {
		if parse([]byte(strings.TrimSuffix(line, "\n"))).at == nil {
			t.Errorf("half a record: %q", line)
		}
	}
	if err := os.Remove(filepath.Join(at, "fill")); err != nil {
		t.Fatal(err)
	}
	w.Append(Stdout, []byte("soon after\n"), noon) // not tried yet: the second is not over
	lost += len("soon after\n")
	retry()
	w.Append(Stdout, []byte("after\n"), noon)
	// The lines that say so add up: one may have found room in the file's last block.
	log, said := content(t, at, "log"), 0
	const stamp = "2026-11-25T12:00:00.123456789Z "
	for line := range strings.Lines(log) {
		var n int
		if _, err := fmt.Sscanf(strings.TrimPrefix(line, stamp), "stderr F layerctl: %d bytes of output are missing here: no space left on device\n", &n); err == nil {
			said += n
		}
	}
	if said != lost {
		t.Errorf("%d bytes are said to be missing, want %d", said, lost)
	}
	if begin, end := stamp+"stdout F before\n"+stamp+"stdout P hal\n"+stamp+"stderr P half an error\n"+stamp+"stderr F \n"+stamp+"stderr F layerctl: ",
		stamp+"stdout F after\n"; !strings.HasPrefix(log, begin) || !strings.HasSuffix(log, end) || strings.Count(log, "\n") > 8 {
		t.Errorf("the log is\n%s", log)
	}
	// Who reads on from a position is told once.
	var got []string
	missing := 0
	for next := int64(0); next < w.Mark(); {
		from, err := next, error(nil)
		next, err = w.Next(from, 1<<20, func(_ byte, b []byte) { got = append(got, string(b)) })
		if err == nil {
			continue
		}
		var n int
		if _, serr := fmt.Sscanf(err.Error(), "%d bytes of the output could not be kept", &n); serr != nil || !errors.Is(err, unix.ENOSPC) || next <= from {
			t.Fatalf("a hole at %d: %d, %v", from, next, err)
		}
		missing += n
		if inside, err := w.Next(next-1, 1<<20, nil); err == nil || inside != next {
			t.Errorf("inside the hole: %d, %v; want %d", inside, err, next)
		}
	}
	if s := strings.Join(got, "|"); s != "before\nhal|half an error|after\n" || missing != lost {
		t.Errorf("%q and %d bytes missing, want %d", s, missing, lost)
	}
	// A rotation that finds no room for another file leaves the log as it is; and the end of the log says what is missing there.
	fill()
	retry()
	for range 50 {
		w.Append(Stdout, chunk, noon)
	}
	os.Remove(filepath.Join(at, "fill"))
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if got := content(t, at, "log"); !strings.HasPrefix(got, log) || !strings.HasSuffix(got, "are missing here: no space left on device\n") {
		t.Errorf("at the end, the log is %q", got)
	}
}
