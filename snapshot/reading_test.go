package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Readers of a stopped container see what it wrote, in any number at a time, and keep those who write away; and the other way round.
func TestAttachReading(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "a", "", map[string]string{"one": "1", "two": "2", "etc/x": "x"})
	if err := s.Create(ctx, "c", "a"); err != nil {
		t.Fatal(err)
	}
	w, err := s.Attach(ctx, "c", AttachOptions{Init: true})
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, "three", "3")
	if err := unix.Unlinkat(int(w.FD.Fd()), "one", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AttachReading(ctx, "c", AttachOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("read while it is written: %v", err)
	}
	w.Close()
	for _, o := range []AttachOptions{{Init: true}, {Legacy: true}} {
		r, err := s.AttachReading(ctx, "c", o)
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.AttachReading(ctx, "c", o)
		if err != nil {
			t.Fatalf("read twice at a time: %v", err)
		}
		if _, err := read(t, r, "one"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a deleted file: %v", err)
		}
		for name, want := range map[string]string{"two": "2", "three": "3", "etc/x": "x"} {
			if got, err := read(t, again, name); got != want || err != nil {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if fd, err := unix.Openat(int(r.FD.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600); err != unix.EROFS {
			unix.Close(fd)
			t.Errorf("make a file where only reading was asked for: %v", err)
		}
		if _, err := s.Attach(ctx, "c", AttachOptions{}); !errors.Is(err, ErrInUse) {
			t.Errorf("mount what is read: %v", err)
		}
		if err := s.Remove(ctx, "c"); !errors.Is(err, ErrInUse) {
			t.Errorf("remove what is read: %v", err)
		}
		r.Close()
		again.Close()
	}
	stubs, err := s.Stubs(ctx, "c")
	if want := []string{"proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf"}; err != nil || !slices.Equal(stubs, want) {
		t.Errorf("stubs %q, %v, want %q", stubs, err, want)
	}
	if err := s.Remove(ctx, "c"); err != nil {
		t.Error(err)
	}
}

// What is read of a committed snapshot stays as long as it is read, whoever removes the snapshot.
func TestAttachChain(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "a", "", map[string]string{"one": "1", "two": "2"})
	addLayer(t, s, "b", "a", map[string]string{"one": "whiteout"})
	one, err := s.AttachChain(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := s.AttachChain(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemoveChain(ctx, "b", never); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, one, "one"); got != "1" || err != nil {
		t.Errorf("one layer: %q, %v", got, err)
	}
	if _, err := read(t, two, "one"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a deleted file: %v", err)
	}
	if got, err := read(t, two, "two"); got != "2" || err != nil {
		t.Errorf("two layers: %q, %v", got, err)
	}
	for name, r := range map[string]*Root{"one": one, "two": two} {
		if fd, err := unix.Openat(int(r.FD.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600); err != unix.EROFS {
			unix.Close(fd)
			t.Errorf("make a file in a snapshot of %s: %v", name, err)
		}
	}
	one.Close()
	two.Close()
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(s.path("trees/[0-9]*")); len(left) > 0 {
		t.Errorf("what nobody reads any more is left: %q", left)
	}
	if _, err := s.AttachChain(ctx, "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}
