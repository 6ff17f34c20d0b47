package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// entriesOf lists a tar: type, name, link and size.
func entriesOf(t testing.TB, b []byte) []string {
	t.Helper()
	var list []string
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != h.Size {
			t.Fatalf("%s: %d bytes, %v", h.Name, n, err)
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%c %s %s", h.Typeflag, h.Name, h.Linkname)))
	}
}

func TestPackName(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "mkdir -p d/sub; echo 1 > d/sub/.wh.x; ln d/sub/.wh.x d/z; ln -s d l; mknod d/c c 0 0")
	for name, want := range map[string][]string{
		"d": {"5 as/", "3 as/c", "5 as/sub/", "0 as/sub/.wh.x", "1 as/z as/sub/.wh.x"},
		"l": {"2 as d"},
	} {
		var b bytes.Buffer
		if err := PackName(context.Background(), openDir1(t, dir), name, &b, PackOptions{Files: true, Into: "as"}); err != nil {
			t.Fatal(err)
		}
		if got := entriesOf(t, b.Bytes()); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A tree that is written to while it is packed makes a whole tar with warnings, or, where that was not asked for, an error.
func TestPackLive(t *testing.T) {
	for _, live := range []bool{true, false} {
		dir := t.TempDir()
		sh(t, dir, "head -c 1000000 /dev/zero | tr '\\0' x > b; echo gone > c; mkdir d; echo 1 > d/1; ln c e")
		var b bytes.Buffer
		var warned []string
		w := &writerFunc{func(p []byte) (int, error) {
			if b.Len() == 0 { // in the middle of b
				if err := os.Truncate(filepath.Join(dir, "b"), 300_000); err != nil {
					t.Fatal(err)
				}
				sh(t, dir, "rm c; rm -r d; ln -s / d")
			}
			return b.Write(p)
		}}
		err := Pack(context.Background(), openDir1(t, dir), w, PackOptions{Live: live, Warn: func(s string) { warned = append(warned, s) }})
		if !live {
			if err == nil {
				t.Error("a file that became shorter was packed without an error")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"5 ./", "0 b", "2 d /", "0 e"}
		if got := entriesOf(t, b.Bytes()); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if len(warned) != 2 || !strings.Contains(warned[0], "b: it became shorter") || !strings.Contains(warned[1], "c: it vanished") {
			t.Errorf("warned %q", warned)
		}
	}
}

type writerFunc struct{ f func([]byte) (int, error) }

func (w *writerFunc) Write(p []byte) (int, error) { return w.f(p) }
