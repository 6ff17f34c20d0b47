package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/layerctl/layerctl/image/reference"
)

// What a registry's answer comes to; test with errors.Is.
var (
	ErrNotFound     = errors.New("not found in the registry")
	ErrUnauthorized = errors.New("the registry refused access")
	ErrUnavailable  = errors.New("registry unavailable")
	ErrCorrupt      = errors.New("the registry sent something else than was asked for")
)

// Repository is one repository of a registry. Its connections and its token are shared by all calls.
type Repository struct {
	repo   name.Repository
	host   string
	puller *remote.Puller
}

// Manifest is a manifest as it came, verified against its digest.
type Manifest struct {
	Digest, MediaType string
	Raw               []byte
}

// Open names the repository of ref; nothing is sent yet. Plain HTTP is spoken with a host on loopback that does not speak TLS, with
// others only if plainHTTP says so.
func Open(ref reference.Ref, plainHTTP bool) (*Repository, error) {
	host := ref.Registry
	var opts []name.Option
	if plainHTTP {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(host+"/"+ref.Repository, opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, reference.ErrInvalid)
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.ResponseHeaderTimeout = 60 * time.Second
	base.MaxIdleConnsPerHost = 16
	puller, err := remote.NewPuller(
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(onlyTLS{base, plainHTTP}),
		remote.WithUserAgent("layerctl"),
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", host, oneLine(err))
	}
	return &Repository{repo: repo, host: host, puller: puller}, nil
}

// onlyTLS refuses to send anything in the clear to a host that is neither on loopback nor meant to be spoken to so: the library tries
// HTTP by itself in private networks, too.
type onlyTLS struct {
	next  http.RoundTripper
	plain bool
}

func (t onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !t.plain && !loopback(r.URL.Hostname()) {
		return nil, fmt.Errorf("%s does not speak TLS", r.URL.Host)
	}
	begun := time.Now()
	resp, err := t.next.RoundTrip(r)
	if err == nil && slog.Default().Enabled(r.Context(), slog.LevelDebug) {
		// Without the query: a token's or a redirected blob's may hold a secret.
		slog.Debug("request", "method", r.Method, "url", r.URL.Scheme+"://"+r.URL.Host+r.URL.Path, "status", resp.StatusCode,
			"took", time.Since(begun).Round(time.Microsecond))
	}
	return resp, err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (r *Repository) ref(tagOrDigest string) name.Reference {
	if strings.HasPrefix(tagOrDigest, "sha256:") {
		return r.repo.Digest(tagOrDigest)
	}
	return r.repo.Tag(tagOrDigest)
}

// Head asks for the digest of what a tag means now, in one request and without its content. A registry that does not say it gives "".
func (r *Repository) Head(ctx context.Context, tagOrDigest string) (string, error) {
	d, err := r.puller.Head(ctx, r.ref(tagOrDigest))
	if err != nil {
		return "", r.explain(err)
	}
	return d.Digest.String(), nil
}

const maxManifest = 4 << 20

// Manifest fetches a manifest or index by tag or digest.
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (Manifest, error) {
	d, err := r.puller.Get(ctx, r.ref(tagOrDigest))
	if err != nil {
		return Manifest{}, r.explain(err)
	}
	if len(d.Manifest) > maxManifest {
		return Manifest{}, fmt.Errorf("%s: a manifest of %d bytes: %w", r.host, len(d.Manifest), ErrCorrupt)
	}
	return Manifest{Digest: d.Digest.String(), MediaType: string(d.MediaType), Raw: d.Manifest}, nil
}

// Blob opens the stream of a blob. Its bytes are not verified: the caller does that, with the size, while it keeps them.
func (r *Repository) Blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.repo.Digest(digest))
	if err != nil {
		return nil, r.explain(err)
	}
	body, err := l.Compressed()
	if err != nil {
		return nil, r.explain(err)
	}
	return &blob{body, r}, nil
}

type blob struct {
	io.ReadCloser
	r *Repository
}

func (b *blob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.r.explain(err)
	}
	return n, err
}

// explain turns what the library says, which may be many lines, into one line and a kind.
func (r *Repository) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var te *transport.Error
	if errors.As(err, &te) {
		what := http.StatusText(te.StatusCode)
		if len(te.Errors) > 0 && te.Errors[0].Message != "" {
			what = te.Errors[0].Message
		}
		kind := ErrUnavailable
		switch te.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			kind = ErrUnauthorized
		case http.StatusNotFound:
			kind = ErrNotFound
		}
		return fmt.Errorf("%s answered %d, %s: %w", r.host, te.StatusCode, what, kind)
	}
	msg := err.Error()
	switch {
	case strings.Contains(msg, "error verifying") || strings.Contains(msg, "does not match"):
		return fmt.Errorf("%s: %s: %w", r.host, oneLine(err), ErrCorrupt)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s closed the connection in the middle of a blob: %w", r.host, ErrUnavailable)
	}
	var ne net.Error
	var ue *url.Error
	if errors.As(err, &ne) || errors.As(err, &ue) {
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("%s: %s: %w", r.host, oneLine(err), ErrUnavailable)
	}
	return fmt.Errorf("%s: %s: %w", r.host, oneLine(err), ErrUnavailable)
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
