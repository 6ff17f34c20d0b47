package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layerctl/layerctl/image/reference"
)

// Bytes are those of a blob that is uploaded. They may still be made while the first ones are sent.
type Bytes interface {
	// Part is up to most bytes from an offset on. It waits until there are as many, or all that there will be.
	Part(ctx context.Context, from, most int64) (Part, error)
	// Whole waits for the end, and returns the blob's digest and size.
	Whole(ctx context.Context) (digest string, size int64, err error)
}

// Part is a part of a blob. Open gives exactly Size bytes, and may be called more than once, for a request may have to be repeated.
type Part struct {
	Size int64
	Last bool // the blob ends with it
	Open func() (io.ReadCloser, error)
}

// ownError is an error of this side, in reading what is sent.
type ownError struct{ error }

// Unwrap is the error.
func (e *ownError) Unwrap() error { return e.error }

const (
	partSize  = 32 << 20 // of an upload, unless the registry wants larger ones
	leastPart = 1 << 20  // for a registry, or a proxy before it, that finds them too large
)

// registry is who is pushed to.
func (r *Repository) registry() *source { return r.sources[len(r.sources)-1] }

// HasBlob asks whether the repository has a blob. One that knows no such request has not.
func (r *Repository) HasBlob(ctx context.Context, digest string) (bool, error) {
	s := r.registry()
	err := s.get(ctx, http.MethodHead, "blobs/"+digest, nil, func(resp *http.Response) error { return resp.Body.Close() })
	var a *answer
	if errors.As(err, &a) && a.host == s.host && slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented}, a.code) {
		return false, nil
	}
	return err == nil, err
}

// PutManifest gives a manifest a tag, or with its digest only puts it there. Whatever it names must be there before.
func (r *Repository) PutManifest(ctx context.Context, tagOrDigest string, m Manifest) error {
	s := r.registry()
	for try := 1; ; try++ {
		err := s.do(ctx, &request{method: http.MethodPut, path: "manifests/" + tagOrDigest, header: http.Header{"Content-Type": {m.MediaType}},
			size: int64(len(m.Raw)), body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.Raw)), nil }},
			func(resp *http.Response) error {
				defer resp.Body.Close()
				if said := resp.Header.Get("Docker-Content-Digest"); strings.HasPrefix(said, "sha256:") && said != m.Digest {
					return fmt.Errorf("%s took the manifest %s for %.100q: %w", s.host, m.Digest, said, ErrCorrupt)
				}
				return nil
			})
		// Docker's registry says so, too, where another push of the same layers is just writing the file that it reads a digest from.
		var a *answer
		if !errors.As(err, &a) || !slices.Contains(a.codes, "DIGEST_INVALID") || try == tries {
			return err
		}
		r.notice(fmt.Sprintf("sending the manifest again: %s", oneLine(err)))
		if !sleep(ctx, s.wait/5<<(try-1)) {
			return ctx.Err()
		}
	}
}

// Upload puts a blob into the repository: in parts, and where the registry refuses those as a whole. A connection that is cut or stalls
// is taken up again at the byte up to which the registry has it, as long as it goes on. digest is "" where only the end of the bytes will
// tell it. A blob that one of from, repositories of this registry, has may be mounted from there: that is then mounted. advanced is told
// up to which byte the registry has the blob. Of an upload that fails nothing is left there, as far as the registry lets us.
func (r *Repository) Upload(ctx context.Context, digest string, from []string, b Bytes, advanced func(at int64)) (mounted string, err error) {
	u := &upload{s: r.registry(), r: r, b: b, digest: digest, part: r.part, advanced: advanced}
	for _, repo := range from {
		if !slices.Contains(r.mounts, repo) || digest == "" {
			continue
		}
		u.drop(ctx) // what an earlier one has begun
		if mounted, err := u.begin(ctx, url.Values{"mount": {digest}, "from": {repo}}); ctx.Err() != nil {
			return "", ctx.Err()
		} else if err == nil && mounted {
			return repo, nil
		} // whoever cannot, or will not: it is uploaded
	}
	err = u.run(ctx)
	if err != nil {
		u.drop(ctx)
	}
	return "", err
}

// upload is a blob on its way into a repository.
type upload struct {
	s        *source
	r        *Repository
	b        Bytes
	digest   string
	at       *url.URL // where it goes on; nil where none is under way
	off      int64    // up to where the registry has it
	sent     int64    // up to where it can have it
	part     int64
	whole    bool // parts are refused
	lost     int  // how often the registry knew no more of it
	careful  bool // ask before bytes are sent: who refuses them at once and hangs up is not heard while we send
	advanced func(int64)
}

// begin begins an upload, or mounts the blob where query says from where.
func (u *upload) begin(ctx context.Context, query url.Values) (mounted bool, err error) {
	u.at, u.off, u.sent = nil, 0, 0
	err = u.s.do(ctx, &request{method: http.MethodPost, path: "blobs/uploads/", query: query.Encode()}, func(resp *http.Response) error {
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			if mounted = query.Has("mount"); mounted {
				return nil
			}
		case http.StatusAccepted:
			if least, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && least < math.MaxInt32 {
				u.part = max(u.part, least)
			}
			return u.follow(resp)
		}
		return fmt.Errorf("%s answers the beginning of an upload with %s: %w", u.s.host, resp.Status, ErrCorrupt)
	})
	return mounted, err
}

// follow takes the place where the upload goes on from an answer. Who says none means the same one.
func (u *upload) follow(resp *http.Response) error {
	l := resp.Header.Get("Location")
	if l == "" && u.at != nil {
		return nil
	}
	at, err := resp.Request.URL.Parse(l)
	if l == "" || err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" {
		return fmt.Errorf("%s wants an upload to go on at %.200q, which is no place: %w", u.s.host, l, ErrCorrupt)
	}
	u.at = at
	return nil
}

// drop tells the registry that nothing more will come.
func (u *upload) drop(ctx context.Context) {
	if u.at == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	u.s.once(ctx, &request{method: http.MethodDelete, at: u.at}, func(resp *http.Response) error { return resp.Body.Close() })
	u.at = nil
}

// run sends the blob to its end.
func (u *upload) run(ctx context.Context) error {
	furthest := int64(0)
	for fails := 0; ; {
		err := u.send(ctx)
		if err == nil {
			return nil
		}
		if u.off > furthest {
			fails, furthest = 0, u.off
		}
		fails++
		u.careful = true
		var own *ownError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &own):
			return own.error
		case u.otherwise(err):
			fails--
		case !passing(err, u.s.hasAnswered()) || fails >= tries:
			if err = explain(u.s.host, err); fails > 1 {
				err = fmt.Errorf("%w, %d times after %d bytes", err, fails, u.off)
			}
			return err
		default:
			wait := u.s.wait / 5 << (2 * (fails - 1)) // a first cut is usual; more of them at the same place are not
			var a *answer
			if errors.As(err, &a) && a.after >= 0 {
				wait = max(a.after, wait)
			}
			u.r.notice(fmt.Sprintf("waiting %s to go on after %d bytes: %s", wait, u.off, oneLine(explain(u.s.host, err))))
			if !sleep(ctx, wait) {
				return ctx.Err()
			}
		}
		if done, err := u.resume(ctx); err != nil || done {
			return err
		}
	}
}

// otherwise finds another way for what the registry refused, and says whether there is one.
func (u *upload) otherwise(err error) bool {
	var a *answer
	if !errors.As(err, &a) {
		return false
	}
	switch {
	case a.code == http.StatusRequestEntityTooLarge && u.part > leastPart && !u.whole:
		u.part = max(u.part/4, leastPart)
	case a.code == http.StatusNotFound && u.at != nil && u.lost < 2: // it has forgotten the upload, or knows no parts
		u.lost++
		u.drop(context.Background())
	case !errors.Is(err, errPart) || u.whole:
		return false
	case a.code == http.StatusRequestedRangeNotSatisfiable && u.lost < 1: // it may have more or less of it than we think
		u.lost++
	case a.code == http.StatusUnauthorized || a.code == http.StatusForbidden || passing(err, true):
		return false
	default:
		u.r.notice(fmt.Sprintf("trying without parts: %s", oneLine(err)))
		u.drop(context.Background())
		u.whole = true
	}
	return true
}

// errPart marks what a part came to.
var errPart = errors.New("a part of an upload")

// send sends what is left, and ends the upload.
func (u *upload) send(ctx context.Context) error {
	if u.at == nil {
		if _, err := u.begin(ctx, nil); err != nil {
			return err
		}
	}
	for {
		most := u.part
		if u.whole {
			most = math.MaxInt64
		}
		p, err := u.b.Part(ctx, u.off, most)
		if err != nil {
			return &ownError{err}
		}
		if p.Last && u.off == 0 {
			return u.end(ctx, p)
		}
		if p.Size > 0 {
			if err := u.patch(ctx, p); err != nil {
				return markedPart{err}
			}
		}
		if p.Last {
			return u.end(ctx, Part{})
		}
	}
}

// markedPart is an error that a part came to.
type markedPart struct{ error }

// Unwrap is the error, and the mark.
func (m markedPart) Unwrap() []error { return []error{m.error, errPart} }

func (p Part) open() (io.ReadCloser, error) {
	r, err := p.Open()
	if err != nil {
		return nil, &ownError{err}
	}
	return ownReader{r}, nil
}

// ownReader marks the errors of reading what is sent.
type ownReader struct{ io.ReadCloser }

func (o ownReader) Read(b []byte) (int, error) {
	n, err := o.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		err = &ownError{err}
	}
	return n, err
}

func (u *upload) header() http.Header {
	h := http.Header{"Content-Type": {"application/octet-stream"}}
	if u.careful {
		h.Set("Expect", "100-continue") // RFC 9110, 10.1.1
	}
	return h
}

// patch sends one part (distribution-spec, "Pushing a blob in chunks").
func (u *upload) patch(ctx context.Context, p Part) error {
	u.sent = max(u.sent, u.off+p.Size)
	header := u.header()
	header.Set("Content-Range", fmt.Sprintf("%d-%d", u.off, u.off+p.Size-1))
	return u.s.once(ctx, &request{method: http.MethodPatch, at: u.at, header: header, size: p.Size, body: p.open}, func(resp *http.Response) error {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent {
			return fmt.Errorf("%s answers a part of an upload with %s: %w", u.s.host, resp.Status, ErrCorrupt)
		}
		has := u.off + p.Size
		if n, ok := taken(resp.Header.Get("Range")); ok && n > 1 {
			has = n
		}
		if has <= u.off || has > u.off+p.Size {
			return fmt.Errorf("%s was sent the bytes %d to %d, and says that it has %.50q: %w", u.s.host, u.off, u.off+p.Size-1, resp.Header.Get("Range"), ErrCorrupt)
		}
		u.off = has
		u.advanced(u.off)
		return u.follow(resp)
	})
}

// taken reads "0-LAST": how many bytes there are. "0-0" is one byte, and what some registries say of none.
func taken(s string) (int64, bool) {
	last, ok := strings.CutPrefix(strings.TrimPrefix(s, "bytes="), "0-")
	n, err := strconv.ParseInt(last, 10, 64)
	return n + 1, ok && err == nil && n >= 0
}

// end names the blob, and sends its bytes with that where none were sent before.
func (u *upload) end(ctx context.Context, p Part) error {
	digest, size, err := u.b.Whole(ctx)
	if err != nil {
		return &ownError{err}
	}
	u.digest = digest
	at := *u.at
	if at.RawQuery != "" {
		at.RawQuery += "&"
	}
	at.RawQuery += "digest=" + url.QueryEscape(digest) // the rest stays as it is: it may be signed
	r := &request{method: http.MethodPut, at: &at, header: u.header()}
	if p.Size > 0 {
		r.size, r.body = p.Size, p.open
	}
	err = u.s.once(ctx, r, func(resp *http.Response) error {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent {
			return fmt.Errorf("%s answers the end of an upload with %s: %w", u.s.host, resp.Status, ErrCorrupt)
		}
		if said := resp.Header.Get("Docker-Content-Digest"); strings.HasPrefix(said, "sha256:") && said != digest {
			return fmt.Errorf("%s took the blob %s for %.100q: %w", u.s.host, digest, said, ErrCorrupt)
		}
		u.at = nil
		u.advanced(size)
		return nil
	})
	return err
}

// resume finds out where to go on, or that there is nothing left to do: only the answer may have been lost.
func (u *upload) resume(ctx context.Context) (done bool, err error) {
	if reference.ValidDigest(u.digest) {
		if has, err := u.r.HasBlob(ctx, u.digest); err != nil || has {
			return has, err
		}
	}
	if u.at == nil || u.whole {
		u.at, u.off = nil, 0
		return false, nil
	}
	err = u.s.do(ctx, &request{method: http.MethodGet, at: u.at}, func(resp *http.Response) error {
		defer resp.Body.Close()
		n, ok := taken(resp.Header.Get("Range"))
		if !ok || n < 2 {
			n = 0
		}
		if n > u.sent {
			return fmt.Errorf("%s says that it has %d bytes of an upload of which it was sent %d: %w", u.s.host, n, u.sent, ErrCorrupt)
		}
		u.off = n
		return u.follow(resp)
	})
	var a *answer
	if err != nil && !errors.As(err, &a) && !errors.Is(err, ErrCorrupt) {
		return false, err
	}
	if err != nil || u.off == 0 {
		u.drop(ctx) // it does not say, or has none of it: from the beginning
		u.off = 0
	}
	return false, nil
}
