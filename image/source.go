package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/reference"
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

// repositories is several repositories as the source of an image: each is asked, one after the other.
type repositories struct {
	list   []*registry.Repository
	broken error // why one of them cannot be asked

	mu     sync.Mutex
	served map[string]int // who has served a manifest or blob, by its digest
	past   map[string]int // who is the first to be asked for it, where those before him had it wrong
}

// repositoriesOf opens the repositories of origins; nothing is sent yet. notice may be nil.
func repositoriesOf(list []origin, notice func(string)) *repositories {
	r := &repositories{served: map[string]int{}, past: map[string]int{}}
	for _, o := range list {
		ref, err := reference.Parse(o.Repository)
		if err != nil {
			continue
		}
		repo, err := registry.Open(ref, registry.Options{PlainHTTP: o.PlainHTTP, Notice: notice})
		if err != nil {
			r.broken = err
			continue
		}
		r.list = append(r.list, repo)
	}
	return r
}

var errNoOrigin = fmt.Errorf("nothing says where it came from: %w", registry.ErrNotFound)

// each is ErrNotFound only where every repository said so.
func (r *repositories) each(digest string, ask func(*registry.Repository) error) error {
	last := errNoOrigin
	if r.broken != nil {
		last = r.broken
	}
	r.mu.Lock()
	first := r.past[digest]
	r.mu.Unlock()
	for i := first; i < len(r.list); i++ {
		err := ask(r.list[i])
		if err == nil {
			r.mu.Lock()
			r.served[digest] = i
			r.mu.Unlock()
			return nil
		}
		if last == errNoOrigin || !errors.Is(err, registry.ErrNotFound) {
			last = err
		}
	}
	return last
}

// Manifest fetches a manifest from the first that has it.
func (r *repositories) Manifest(ctx context.Context, digest string) (m registry.Manifest, err error) {
	err = r.each(digest, func(repo *registry.Repository) error { m, err = repo.Manifest(ctx, digest); return err })
	return m, err
}

// Blob opens a blob at the first that has it.
func (r *repositories) Blob(ctx context.Context, digest string, size int64) (b io.ReadCloser, err error) {
	err = r.each(digest, func(repo *registry.Repository) error { b, err = repo.Blob(ctx, digest, size); return err })
	return b, err
}

// Distrust implements doubter.
func (r *repositories) Distrust(digest string, why error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.served[digest]
	if !ok {
		return false
	}
	if !r.list[i].Distrust(digest, why) {
		r.past[digest] = i + 1
	}
	return r.past[digest] < len(r.list)
}

// BlobFrom is Blob without the first bytes.
func (r *repositories) BlobFrom(ctx context.Context, digest string, size, from int64) (b io.ReadCloser, err error) {
	err = r.each(digest, func(repo *registry.Repository) error { b, err = repo.BlobFrom(ctx, digest, size, from); return err })
	return b, err
}

// originsOf is what a name says of where its image is.
func originsOf(name string) []origin {
	ref, err := reference.Parse(name)
	if err != nil || ref.Registry == "localhost" { // a name that was given here
		return nil
	}
	return []origin{{Repository: ref.Name()}}
}

// distinct is a list of origins with each repository once.
func distinct(list []origin) (d []origin) {
	for _, o := range list {
		if !slices.ContainsFunc(d, func(have origin) bool { return have.Repository == o.Repository }) {
			d = append(d, o)
		}
	}
	return d
}

// originsOf are the repositories that may have the blobs of an image: where it was pulled from or pushed to, and what its names say.
func (s *Store) originsOf(tx *bbolt.Tx, id string) ([]origin, error) {
	var row imageRow
	if _, err := getJSON(tx, bucketImages, id, &row); err != nil {
		return nil, err
	}
	list := row.Sources
	names, err := namesOf(tx, id)
	for _, name := range names {
		var n nameRow
		if _, err := getJSON(tx, bucketNames, name, &n); err != nil {
			return nil, err
		}
		if n.Digest != "" {
			list = append(list, originsOf(name)...)
		}
	}
	return distinct(list), err
}
