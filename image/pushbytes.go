package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/layerctl/layerctl/image/registry"
)

// announced says when the first bytes are wanted, for a blob may be mounted instead.
type announced struct {
	registry.Bytes
	begin func()
	once  sync.Once
}

// Part implements registry.Bytes.
func (a *announced) Part(ctx context.Context, from, most int64) (registry.Part, error) {
	a.once.Do(a.begin)
	return a.Bytes.Part(ctx, from, most)
}

// wholeBytes are a blob that is kept here.
type wholeBytes struct {
	f      *os.File
	digest string
	size   int64
}

// Part implements registry.Bytes.
func (b *wholeBytes) Part(_ context.Context, from, most int64) (registry.Part, error) {
	n := min(most, b.size-from)
	return registry.Part{Size: n, Last: from+n == b.size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(b.f, from, n)), nil
	}}, nil
}

// Whole implements registry.Bytes.
func (b *wholeBytes) Whole(context.Context) (string, int64, error) { return b.digest, b.size, nil }

// fetchedBytes are a blob that is fetched from where the image came from while it is sent, and kept nowhere. The registry that it is sent
// to verifies it.
type fetchedBytes struct {
	ctx    context.Context
	from   *repositories
	digest string
	size   int64
	body   io.ReadCloser // at the byte at
	at     int64
}

// Part implements registry.Bytes.
func (b *fetchedBytes) Part(_ context.Context, from, most int64) (registry.Part, error) {
	n := min(most, b.size-from)
	return registry.Part{Size: n, Last: from+n == b.size, Open: func() (io.ReadCloser, error) {
		if b.body == nil || b.at != from {
			b.Close()
			body, err := b.from.BlobFrom(b.ctx, b.digest, b.size, from)
			if err != nil {
				return nil, fmt.Errorf("it is not kept here, and cannot be fetched: %w", err)
			}
			b.body, b.at = body, from
		}
		return io.NopCloser(io.LimitReader(b, n)), nil
	}}, nil
}

// Read reads what comes.
func (b *fetchedBytes) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.at += int64(n)
	return n, err
}

// Close lets the connection go.
func (b *fetchedBytes) Close() error {
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}

// Whole implements registry.Bytes.
func (b *fetchedBytes) Whole(context.Context) (string, int64, error) { return b.digest, b.size, nil }
