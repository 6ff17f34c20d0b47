package runtime

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/flock"
)

func testStore(t testing.TB) *Store {
	t.Helper()
	root := t.TempDir()
	snaps, err := snapshot.Open(filepath.Join(root, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(root, filepath.Join(root, "run"), snaps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHold(t *testing.T) {
	s, ctx, id := testStore(t), context.Background(), newID()
	if _, err := s.hold(ctx, id, time.Minute); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a container that is not there: %v", err)
	}
	first, err := s.claim(ctx, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for _, patience := range []time.Duration{0, 30 * time.Millisecond} {
		if _, err := s.hold(ctx, id, patience); !errors.Is(err, unix.EWOULDBLOCK) || !strings.Contains(err.Error(), id) {
			t.Errorf("a container that another has, for %s: %v", patience, err)
		}
	}
	if took := time.Since(begun); took < 30*time.Millisecond {
		t.Errorf("it was given up after %s", took)
	}
	called, cancel := context.WithCancel(ctx)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := s.hold(called, id, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was called off: %v", err)
	}

	// The lock goes to who waits, with a word of what for; unless the directory was taken away, with the container.
	told := make(chan string, 1)
	flock.Tell = func(line string) { told <- line }
	defer func() { flock.Tell = nil }()
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 2)
	wait := func() {
		f, err := s.hold(ctx, id, time.Minute)
		got <- result{f, err}
	}
	go wait()
	if line := <-told; line != "waiting for another process that has container "+id[:12] {
		t.Errorf("it was told %q", line)
	}
	first.Close()
	second := <-got
	if second.err != nil {
		t.Fatal(second.err)
	}
	go wait()
	<-told
	if err := os.Remove(s.path(id)); err != nil {
		t.Fatal(err)
	}
	second.f.Close()
	if r := <-got; !errors.Is(r.err, fs.ErrNotExist) {
		t.Errorf("a container that was removed meanwhile: %+v", r)
	}
	// Whoever claims it gets a new directory.
	third, err := s.claim(ctx, id, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	third.Close()
}
