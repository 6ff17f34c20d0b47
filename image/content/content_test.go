package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerctl/layerctl/snapshot"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPut(t *testing.T) {
	s := open(t)
	var lease snapshot.Lease
	digest, err := s.Put(&lease, []byte("hello"))
	if err != nil || digest != "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" {
		t.Fatalf("%s, %v", digest, err)
	}
	if b, err := s.Read(digest); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.WriteFile(s.Path(digest), []byte("hellO"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(digest); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged blob: %v, want ErrCorrupt", err)
	}
	if f := snapshot.LockIdle(s.Path(digest)); f != nil {
		t.Error("a blob that a lease holds can be locked for its deletion")
	}
	lease.Close()
	f := snapshot.LockIdle(s.Path(digest))
	if f == nil {
		t.Fatal("a blob that nobody holds cannot be locked for its deletion")
	}
	// Whoever wants it now waits for its end, and finds it gone.
	here := make(chan bool)
	go func() {
		found, err := s.Hold(&lease, digest)
		if err != nil {
			t.Error(err)
		}
		here <- found
	}()
	select {
	case <-here:
		t.Error("a blob that is being deleted was found")
	case <-time.After(20 * time.Millisecond):
	}
	if err := os.Remove(s.Path(digest)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if <-here {
		t.Error("a blob that was deleted was found")
	}
	if _, err := s.Open(digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("a blob that was deleted: %v, want ErrNotFound", err)
	}
}

func TestIngest(t *testing.T) {
	digest := Digest([]byte("hello"))
	for _, row := range []struct {
		name, content string
		size          int64
		writes, names error
	}{
		{"right", "hello", 5, nil, nil},
		{"of unknown size", "hello", -1, nil, nil},
		{"other bytes", "hellO", 5, nil, ErrCorrupt},
		{"too short", "hell", 5, nil, ErrCorrupt},
		{"too long", "hello!", 5, ErrCorrupt, ErrCorrupt},
		{"nothing", "", 5, nil, ErrCorrupt},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := open(t)
			var lease snapshot.Lease
			defer lease.Close()
			in, err := s.TryIngest(digest, row.size)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write([]byte(row.content)); !errors.Is(err, row.writes) {
				t.Errorf("Write: %v, want %v", err, row.writes)
			}
			if err := in.Commit(&lease); !errors.Is(err, row.names) {
				t.Errorf("Commit: %v, want %v", err, row.names)
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
			if s.Has(digest) != (row.names == nil) {
				t.Errorf("the blob is there: %v", s.Has(digest))
			}
			if left, err := os.ReadDir(s.dir + "/ingest"); err != nil || len(left) > 0 {
				t.Errorf("left in ingest: %v, %v", left, err)
			}
		})
	}
}

// Whoever comes second waits, and finds what the first one brought.
func TestIngestAtOnce(t *testing.T) {
	s := open(t)
	var lease snapshot.Lease
	defer lease.Close()
	digest := Digest([]byte("hello"))
	first, err := s.TryIngest(digest, 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.TryIngest(digest, 5); !errors.Is(err, ErrBusy) {
		t.Fatalf("a second ingest: %v, want ErrBusy", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := s.WaitIngest(ctx, digest, 5, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("a wait that was called off: %v", err)
	}
	waited := make(chan error)
	go func() {
		second, err := s.WaitIngest(context.Background(), digest, 5, false)
		if err == nil {
			if !s.Has(digest) {
				err = errors.New("the wait ended before the blob was there")
			}
			second.Close()
		}
		waited <- err
	}()
	if _, err := first.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(&lease); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waited:
		t.Fatalf("the wait ended while the layer was still in work: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
}

func TestPathsStayInside(t *testing.T) {
	s := open(t)
	if p := s.Path(Digest(nil)); !strings.HasPrefix(p, s.dir+"/blobs/sha256/") {
		t.Error(p)
	}
}

// What was kept of a blob is taken up again, and has to hold like the rest.
func TestIngestKept(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789abcdef"), keptAtLeast/8)
	digest, size, half := Digest(blob), int64(len(blob)), int64(len(blob)/2)
	s := open(t)
	begin := func() *Ingest {
		t.Helper()
		in, err := s.TryIngest(digest, size)
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	write := func(in *Ingest, r io.Reader) {
		t.Helper()
		if _, err := io.Copy(in, r); err != nil {
			t.Fatal(err)
		}
	}
	leave := func(n int64) {
		t.Helper()
		in := begin()
		write(in, bytes.NewReader(blob[:n]))
		in.Keep()
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(s.dir, "ingest", hexOf(digest), "data")
	var lease snapshot.Lease
	defer lease.Close()

	leave(keptAtLeast - 1)
	if _, err := os.Stat(data); err == nil {
		t.Error("very little was kept")
	}
	leave(half + 5) // it is written in whole pages
	in := begin()
	r, n, err := in.Kept()
	if err != nil || n != half {
		t.Fatalf("%d bytes are kept, %v", n, err)
	}
	// Interrupted again, while what was kept is read.
	write(in, io.LimitReader(r, 100))
	in.Keep()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	in = begin()
	if r, n, err = in.Kept(); err != nil || n != half {
		t.Fatalf("%d bytes are kept, %v", n, err)
	}
	write(in, io.MultiReader(r, bytes.NewReader(blob[n:])))
	if err := in.Commit(&lease); err != nil {
		t.Error(err)
	}
	in.Keep() // too late to mean anything
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.dir + "/ingest"); err != nil || len(left) > 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
	if b, err := s.Read(digest); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%d bytes, %v", len(b), err)
	}

	// What is damaged does not get a name; begun anew it does.
	leave(half)
	if err := os.WriteFile(data, make([]byte, half), 0o600); err != nil {
		t.Fatal(err)
	}
	in = begin()
	if r, n, err = in.Kept(); err != nil || n != half {
		t.Fatalf("%d bytes are kept, %v", n, err)
	}
	write(in, io.MultiReader(r, bytes.NewReader(blob[n:])))
	if err := in.Commit(&lease); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged bytes: %v", err)
	}
	if err := in.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, n, err := in.Kept(); n != 0 || err != nil {
		t.Errorf("after a restart %d bytes are kept, %v", n, err)
	}
	write(in, bytes.NewReader(blob))
	if err := in.Commit(&lease); err != nil {
		t.Error(err)
	}
	in.Close()

	// More than there can be, and what nobody comes back for.
	leave(size)
	if err := os.Truncate(data, size+1); err != nil {
		t.Fatal(err)
	}
	in = begin()
	if _, n, err := in.Kept(); n != 0 || err != nil {
		t.Errorf("of a file that is too long %d bytes are kept, %v", n, err)
	}
	in.Close()
	leave(half)
	if err := s.Sweep(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.dir + "/ingest"); err != nil || len(left) > 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
}
