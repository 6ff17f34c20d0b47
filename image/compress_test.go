package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/layer"
)

// What became of a layer is remembered for each way of compressing, until no image has the layer. A row that is damaged, or of a way that
// we do not have any more, is none.
func TestPackedRows(t *testing.T) {
	s := testStore(t)
	zstd := layer.Packing{Compression: layer.Zstd, Level: 3}
	digest := func(n int) string { return fmt.Sprintf("sha256:%064d", n) }
	const a, b = "sha256:aa", "sha256:bb"
	for i, key := range []string{packedKey(a, layer.DefaultPacking), packedKey(a, zstd), packedKey(b, zstd), a + " gzip:5:0", a + " lzma:1:1", "sha256:a gzip:5:1"} {
		for n := range 10 {
			if err := s.remember(key, packedRow{Digest: digest(i), Size: 1, Sources: []origin{{Repository: fmt.Sprintf("h/r%d", n)}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	look := func(diffID, digest string) string {
		out := "none"
		if err := s.db.View(func(tx *bbolt.Tx) error {
			if p, row, ok := packedAs(tx, diffID, digest); ok {
				out = fmt.Sprint(p, " ", len(row.Sources), " ", row.Sources[0].Repository)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct{ diffID, digest, want string }{
		{a, digest(0), "gzip:5 8 h/r9"}, {a, digest(1), "zstd:3 8 h/r9"}, {b, digest(2), "zstd:3 8 h/r9"}, {b, digest(1), "none"},
		{a, digest(3), "none"}, {a, digest(4), "none"}, {"sha256:cc", digest(0), "none"},
	} {
		if got := look(c.diffID, c.digest); got != c.want {
			t.Errorf("%s as %s: %s, want %s", c.diffID, c.digest[60:], got, c.want)
		}
	}
	// Other bytes than before, for whatever reason: what was known of the others is not true of them.
	if err := s.remember(packedKey(b, zstd), packedRow{Digest: digest(9), Sources: []origin{{Repository: "h/new"}}}); err != nil {
		t.Fatal(err)
	}
	if got := look(b, digest(9)); got != "zstd:3 1 h/new" {
		t.Error(got)
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		key := []byte(packedKey(a, zstd))
		row := []byte(strings.Replace(string(tx.Bucket(bucketPacked).Get(key)), `"Size":1`, `"Size":2`, 1))
		return errors.Join(tx.Bucket(bucketPacked).Put(key, row), putJSON(tx, bucketImages, "sha256:img", &imageRow{Layers: []Layer{{DiffID: a}}}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := look(a, digest(1)); got != "none" {
		t.Errorf("a damaged row is believed: %s", got)
	}
	st, err := s.readRows()
	if err != nil || len(st.packed) != 5 || !strings.Contains(st.broken["packed/"+packedKey(a, zstd)], "damaged") {
		t.Errorf("%d rows, broken %q, %v", len(st.packed), st.broken, err)
	}
	if err := s.sweepPacked(); err != nil {
		t.Fatal(err)
	}
	if got := look(a, digest(0)) + ", " + look(b, digest(9)); got != "gzip:5 8 h/r9, none" {
		t.Errorf("after a sweep: %s", got)
	}
}

// Who uploads a blob that is being made waits for what he wants, or for the end, or for the error.
func TestCompressingIsRead(t *testing.T) {
	ctx := context.Background()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &compressing{data: f}
	come := func(s string) { f.WriteString(s); m.set(func() { m.n += int64(len(s)); m.plain += 2 * int64(len(s)) }) }
	come("0123456789")
	read := func(from, most int64) string {
		p, err := m.Part(ctx, from, most)
		if err != nil {
			return err.Error()
		}
		r, _ := p.Open()
		b, _ := io.ReadAll(r)
		return fmt.Sprint(string(b), " ", p.Size, " ", p.Last)
	}
	if got := read(2, 5); got != "23456 5 false" {
		t.Error(got)
	}
	waited := make(chan string)
	go func() { waited <- read(10, 4) }()
	come("abc")
	select {
	case got := <-waited:
		t.Errorf("it did not wait: %s", got)
	case <-time.After(20 * time.Millisecond):
	}
	come("defgh")
	if got := <-waited; got != "abcd 4 false" {
		t.Error(got)
	}
	if got := m.progress(9); got != 18 {
		t.Errorf("9 of 18 bytes are %d of 36", got)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := m.Whole(cancelled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() { waited <- read(14, 1<<62) }()
	m.set(func() { m.ended, m.dig = true, "sha256:x" })
	if got := <-waited; got != "efgh 4 true" {
		t.Error(got)
	}
	if d, n, err := m.Whole(ctx); d != "sha256:x" || n != 18 || err != nil {
		t.Error(d, n, err)
	}
	m = &compressing{data: f}
	go func() { waited <- read(0, 10) }()
	m.set(func() { m.err = errors.New("the tree is damaged") })
	if got := <-waited; got != "the tree is damaged" {
		t.Error(got)
	}
}
