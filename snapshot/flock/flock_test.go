package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	told := make(chan string, 9)
	Tell = func(line string) { told <- line }
	t.Cleanup(func() { Tell = nil })
	first := open(t, path)
	if err := Lock(context.Background(), first, unix.LOCK_EX, "nobody"); err != nil {
		t.Fatal(err)
	}
	if err := Try(open(t, path), unix.LOCK_SH); err != unix.EWOULDBLOCK {
		t.Fatalf("a lock that another has: %v", err)
	}

	// Whoever waits tells so once, and has it as soon as the other lets go.
	second, got := open(t, path), make(chan error, 1)
	go func() { got <- Lock(context.Background(), second, unix.LOCK_EX, "waiting for the first") }()
	select {
	case line := <-told:
		if line != "waiting for the first" {
			t.Errorf("told %q", line)
		}
	case err := <-got:
		t.Fatalf("two have the lock: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was told")
	}
	first.Close()
	if err := <-got; err != nil {
		t.Fatal(err)
	}

	// Whoever gives up does not get it later, and leaves nobody locked out.
	for _, ctx := range []func() (context.Context, context.CancelFunc){
		func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 20*time.Millisecond)
		},
		func() (context.Context, context.CancelFunc) {
			c, cancel := context.WithCancel(context.Background())
			cancel()
			return c, cancel
		},
	} {
		c, cancel := ctx()
		third, err := os.Open(path) // which is Lock's to close
		if err != nil {
			t.Fatal(err)
		}
		if err := Lock(c, third, unix.LOCK_SH, ""); !errors.Is(err, c.Err()) || err == nil {
			t.Errorf("a wait that was called off: %v", err)
		}
		cancel()
	}
	second.Close()
	fourth := open(t, path)
	if err := Lock(context.Background(), fourth, unix.LOCK_EX, ""); err != nil {
		t.Error(err)
	}
	if len(told) > 0 {
		t.Errorf("told besides: %q", <-told)
	}
	// An error of the lock itself is one.
	fifth := open(t, path)
	if err := Lock(context.Background(), fifth, 64, ""); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a lock of no kind: %v", err)
	}
	if _, err := fifth.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}
