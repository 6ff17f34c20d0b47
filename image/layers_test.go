package image

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/registry"
)

// lateSource has one blob: no layer, and what follows comes late.
type lateSource struct {
	reading chan struct{} // something waits for what follows
	release chan struct{}
	over    chan struct{} // it was handed out, so was written
	sent    bool
}

func (s *lateSource) Manifest(context.Context, string) (registry.Manifest, error) {
	return registry.Manifest{}, registry.ErrNotFound
}

func (s *lateSource) Blob(context.Context, string, int64) (io.ReadCloser, error) {
	return io.NopCloser(s), nil
}

func (s *lateSource) Read(p []byte) (int, error) {
	if !s.sent {
		s.sent = true
		for i := range p {
			p[i] = 'x' // no tar header, and more than is looked at before one is wanted
		}
		return len(p), nil
	}
	select {
	case <-s.over:
		return 0, io.EOF
	default:
	}
	close(s.reading)
	<-s.release
	close(s.over)
	return len(p), nil
}

// What is read ahead of a layer that turns out to be none comes when its blob is closed already, and goes nowhere. This test is one of
// the race detector.
func TestLateRead(t *testing.T) {
	s := testStore(t)
	digest := "sha256:" + strings.Repeat("ab", 32)
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ {
		if tries == 10 {
			t.Fatal("nothing is read ahead")
		}
		src := &lateSource{reading: make(chan struct{}), release: make(chan struct{}), over: make(chan struct{})}
		p := &puller{s: s, src: src, progress: noProgress{}}
		l := &pulledLayer{desc: v1.Descriptor{Digest: hash, Size: 1 << 30}}
		if l.ingest, err = s.content.TryIngest(digest, 1<<30); err != nil {
			t.Fatal(err)
		}
		if _, err := p.fetchOnce(context.Background(), l); !errors.Is(err, layer.ErrMalformed) {
			t.Fatalf("a layer of x: %v", err)
		}
		kept := l.ingest
		l.release()
		p.close()
		select {
		case <-src.reading:
		case <-time.After(time.Second): // it was stopped before
			continue
		}
		close(src.release)
		<-src.over
		if err := kept.Restart(); err != nil {
			t.Fatal(err)
		}
		return
	}
}
