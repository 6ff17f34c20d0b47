package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/registry"
)

// source is what an image is brought from: a repository of a registry, or an archive. A manifest comes verified; a blob does not, it is
// verified while it is kept and unpacked. size is what the manifest says of the blob.
type source interface {
	Manifest(ctx context.Context, tagOrDigest string) (registry.Manifest, error)
	Blob(ctx context.Context, digest string, size int64) (io.ReadCloser, error)
}

// doubter is a source of several places, which can be told that what came from one of them is not what it should be; false where no
// other is left (registry.Repository).
type doubter interface {
	Distrust(what string, why error) bool
}

// itself is an error of what a blob says, whose bytes are right: it is the same from wherever it comes.
type itself struct{ error }

func (e itself) Unwrap() error { return e.error }

// untilRight does what brings a blob from src and verifies it, again as long as wrong bytes came and there is somebody else who may have
// the right ones.
func untilRight(src any, digest string, bring func() error) error {
	for {
		err := bring()
		if !isCorrupt(err) || errors.As(err, new(itself)) {
			return err
		}
		if d, ok := src.(doubter); !ok || !d.Distrust(digest, err) {
			return err
		}
	}
}

// maxSmall is the most that a config or another blob that is read into memory may have, in bytes.
const maxSmall = 4 << 20

// readSmall brings a small blob, verified.
func readSmall(ctx context.Context, src source, digest string, size int64) (b []byte, err error) {
	if size < 0 || size > maxSmall {
		return nil, fmt.Errorf("blob %s has %d bytes, which is no config: %w", digest, size, content.ErrCorrupt)
	}
	err = untilRight(src, digest, func() error {
		r, err := src.Blob(ctx, digest, size)
		if err != nil {
			return err
		}
		defer r.Close()
		b, err = io.ReadAll(io.LimitReader(r, size+1))
		if err == nil && (int64(len(b)) != size || content.Digest(b) != digest) {
			err = fmt.Errorf("what came is not %s of %d bytes: %w", digest, size, content.ErrCorrupt)
		}
		return err
	})
	return b, err
}

// resumer is a source that need not send what is here already.
type resumer interface {
	BlobFrom(ctx context.Context, digest string, size, from int64) (io.ReadCloser, error)
}

// openBlob opens the stream of a layer: what an earlier pull kept of it, and the rest from the source.
func (p *puller) openBlob(ctx context.Context, l *pulledLayer) (body io.ReadCloser, kept bool, err error) {
	digest := l.desc.Digest.String()
	src, ok := p.src.(resumer)
	if !ok {
		body, err = p.src.Blob(ctx, digest, l.desc.Size)
		return body, false, err
	}
	before, n, err := l.ingest.Kept()
	if err != nil {
		return nil, false, err
	}
	rest, err := src.BlobFrom(ctx, digest, l.desc.Size, n)
	if n == 0 {
		return rest, false, err
	}
	if err != nil {
		before.Close()
		return nil, true, err
	}
	p.progress.Status(fmt.Sprintf("%s: going on after %d of %d bytes that an earlier pull has left", digest[len("sha256:"):][:12], n, l.desc.Size))
	both := closer(func() error { return errors.Join(before.Close(), rest.Close()) })
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(before, rest), both}, true, nil
}
