package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Blob opens the stream of a blob of that size. A connection that is cut or stalls is taken up again where it ended, as long as it goes
// on; one to a mirror a few times, and then with the next source. The bytes are not verified: the caller does that, with the size, while
// it keeps them, and where they are wrong, Distrust says whether to open the blob again.
func (r *Repository) Blob(ctx context.Context, digest string, size int64) (io.ReadCloser, error) {
	return r.BlobFrom(ctx, digest, size, 0)
}

// BlobFrom is Blob without the first bytes, which the caller has already.
func (r *Repository) BlobFrom(ctx context.Context, digest string, size, from int64) (io.ReadCloser, error) {
	b := &blob{ctx: ctx, r: r, digest: digest, size: size, begun: from, at: from}
	return b, b.open()
}

// blob is a blob's stream over as many connections as it takes.
type blob struct {
	ctx    context.Context
	r      *Repository
	digest string
	size   int64
	begun  int64 // the first byte
	at     int64 // the next byte
	body   io.ReadCloser
	from   *source
	fails  int // connections in a row that brought nothing
	cuts   int // connections to this source that ended early
}

// mirrorCuts is how often a mirror may break off in the middle of one blob.
const mirrorCuts = 3

func (b *blob) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
		}
		n, err := b.body.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.fails = 0
			return n, nil
		}
		switch {
		case err == nil:
			continue
		case b.at >= b.size: // how it ended does not matter; more than its size is for the caller to refuse
			return 0, io.EOF
		case b.ctx.Err() != nil:
			return 0, b.ctx.Err()
		}
		if err := b.again(err); err != nil {
			return 0, err
		}
	}
}

// again gets ready for the next connection, or says why there is none.
func (b *blob) again(err error) error {
	b.Close()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // a server that does not say how much it sends
	}
	b.fails++
	b.cuts++
	if i := slices.Index(b.r.sources, b.from); i < len(b.r.sources)-1 && b.cuts >= mirrorCuts {
		b.r.passOver(i, fmt.Errorf("%w, %d times, at last after %d of %d bytes", explain(b.from.host, err), b.cuts, b.at, b.size))
		b.r.goOnFrom(i + 1)
		b.fails = 0
		return nil
	}
	if b.fails >= tries {
		return fmt.Errorf("%w, %d times after %d of %d bytes", explain(b.from.host, err), b.fails, b.at, b.size)
	}
	wait := b.from.wait / 5 << (2 * (b.fails - 1)) // a first cut is usual; more of them at the same place are not
	b.r.notice(fmt.Sprintf("waiting %s to go on after %d of %d bytes of %s: %s", wait, b.at, b.size, b.digest, oneLine(explain(b.from.host, err))))
	if !sleep(b.ctx, wait) {
		return b.ctx.Err()
	}
	return nil
}

func (b *blob) open() error {
	if b.at == b.size && b.at > 0 {
		b.body = http.NoBody
		return nil
	}
	what := ""
	if b.at == b.begun {
		what = b.digest
	}
	return b.r.each(b.ctx, what, func(s *source) error {
		header := http.Header{}
		if b.at > 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
		}
		return s.get(b.ctx, http.MethodGet, "blobs/"+b.digest, header, func(resp *http.Response) error {
			if err := b.accept(s, resp); err != nil {
				resp.Body.Close()
				return err
			}
			if b.from != s {
				b.cuts = 0
			}
			b.body, b.from = resp.Body, s
			return nil
		})
	})
}

// accept looks whether an answer is the blob from where we are, and skips what of it came before: a server need not know ranges.
func (b *blob) accept(s *source, resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		first, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || first != b.at || total >= 0 && total != b.size {
			return fmt.Errorf("%s was asked for a blob of %d bytes from byte %d, and sends %.100q: %w", s.host, b.size, b.at,
				resp.Header.Get("Content-Range"), ErrCorrupt)
		}
		return nil
	}
	if resp.StatusCode != http.StatusOK {
		return answerOf(s.host, resp)
	}
	if n := resp.ContentLength; n >= 0 && n != b.size {
		return fmt.Errorf("%s has %d bytes under the name of a blob of %d bytes: %w", s.host, n, b.size, ErrCorrupt)
	}
	_, err := io.CopyN(io.Discard, resp.Body, b.at)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// contentRange reads "bytes FIRST-LAST/TOTAL" (RFC 9110, 14.4); a total of * is -1.
func contentRange(s string) (first, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, all, found := strings.Cut(s, "/")
	from, to, dash := strings.Cut(span, "-")
	if !ok || !found || !dash {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	total = -1
	var err3 error
	if all != "*" {
		total, err3 = strconv.ParseInt(all, 10, 64)
	}
	ok = err == nil && err2 == nil && err3 == nil && first >= 0 && last >= first && (all == "*" || total > last)
	return first, total, ok
}

// Close lets the connection go.
func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}
