package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layerctl/layerctl/image/reference"
)

// Options say how a registry is spoken to.
type Options struct {
	PlainHTTP bool              // speak HTTP without TLS, also with a host that is not on loopback
	Push      bool              // something will be put there: only the registry itself is spoken to, and not its mirrors
	Mounts    []string          // other repositories of the registry, from which blobs will be mounted; for the tokens' sake
	Notice    func(line string) // is told what is waited for and what is tried instead, from several goroutines; may be nil
}

// Repository is one repository, at its registry and at the mirrors of it that registries.conf names. Its connections and its tokens are
// shared by all calls, which may come from several goroutines.
type Repository struct {
	sources []*source // in the order in which they are asked; the last is the registry itself
	current atomic.Int32
	notice  func(string)
	mounts  []string // repositories that a blob may be mounted from
	part    int64    // how much of an upload is sent at once

	mu     sync.Mutex
	served map[string]*source // who sent the first byte of a manifest or blob, by the name that it was asked for with
}

// Manifest is a manifest as it came, verified against its digest.
type Manifest struct {
	Digest, MediaType string
	Raw               []byte
}

// Open names the repository of ref; nothing is sent yet. Plain HTTP is spoken with a host on loopback that does not speak TLS, with
// others only if o or registries.conf says so. A repository that registries.conf blocks is ErrBlocked.
func Open(ref reference.Ref, o Options) (*Repository, error) {
	set, err := settingsOf()
	if err != nil {
		return nil, err
	}
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	places, err := placesOf(ref, set.conf.Registries)
	if err != nil {
		return nil, err
	}
	if o.Push {
		places = places[len(places)-1:]
	}
	r := &Repository{notice: o.Notice, part: partSize, served: map[string]*source{}}
	for _, p := range places {
		s, err := newSource(p, o, set)
		if err != nil {
			return nil, err
		}
		r.sources = append(r.sources, s)
	}
	if s := r.sources[0]; o.Push {
		s.auth.scopes = []string{"repository:" + s.repo + ":pull,push"}
		if places[0].location == ref.Name() { // else the others may be elsewhere, too
			for _, repo := range o.Mounts {
				s.auth.mounts = append(s.auth.mounts, "repository:"+repo+":pull")
			}
			r.mounts = o.Mounts
		}
	}
	return r, nil
}

// each asks one source after the other, from the one that has served last, until one serves; who it was is remembered under the name of
// what was asked for, where that is not "". Whoever comes first has no second chance, so that a mirror that is down costs a moment; the
// registry itself is asked with patience.
func (r *Repository) each(ctx context.Context, what string, ask func(s *source) error) error {
	var before []string
	for i := int(r.current.Load()); ; i++ {
		s := r.sources[i]
		err := ask(s)
		if err == nil {
			r.goOnFrom(i)
			if what != "" {
				r.mu.Lock()
				r.served[what] = s
				r.mu.Unlock()
			}
			return nil
		}
		if i == len(r.sources)-1 || ctx.Err() != nil {
			if len(before) > 0 {
				err = fmt.Errorf("%w (before that, %s)", err, strings.Join(before, "; "))
			}
			return err
		}
		before = append(before, oneLine(err))
		r.passOver(i, err)
	}
}

// goOnFrom says that nobody before source number i is asked any more.
func (r *Repository) goOnFrom(i int) {
	for {
		now := r.current.Load()
		if int(now) >= i || r.current.CompareAndSwap(now, int32(i)) {
			return
		}
	}
}

// passOver tells why source number i is not the one. Who is away is a matter of course; who lies is not.
func (r *Repository) passOver(i int, err error) {
	line := "trying " + r.sources[i+1].host + ": " + oneLine(err)
	if errors.Is(err, ErrCorrupt) {
		slog.Warn(line)
		return
	}
	r.notice(line)
}

// Distrust says of a manifest or blob, by the name that it was asked for with, that what came is not what it should be, and why. Whoever
// sent it, or the first byte of it, is not asked for anything any more, and a warning tells that. It returns false where there is nobody
// else to ask: then why is the error to go on with.
func (r *Repository) Distrust(what string, why error) bool {
	r.mu.Lock()
	i := slices.Index(r.sources, r.served[what])
	r.mu.Unlock()
	if i < 0 || i == len(r.sources)-1 {
		return false
	}
	slog.Warn("trying " + r.sources[i+1].host + ": what " + r.sources[i].host + " serves is not right: " + oneLine(why))
	r.goOnFrom(i + 1)
	return true
}

// accepted are the types of manifests that are asked for: a registry may translate between them.
var accepted = strings.Join([]string{
	mediaIndex, mediaManifest, mediaDockerList, mediaDockerManifest, "application/vnd.docker.distribution.manifest.v1+prettyjws",
}, ", ")

const (
	mediaIndex          = "application/vnd.oci.image.index.v1+json"
	mediaManifest       = "application/vnd.oci.image.manifest.v1+json"
	mediaDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

	maxManifest = 4 << 20 // image-spec, distribution-spec: registries need not take more
)

// Head asks for the digest of what a tag means now, in one request and without its content. A registry that does not say it, or that
// knows no such request, gives "".
func (r *Repository) Head(ctx context.Context, tagOrDigest string) (string, error) {
	var digest string
	err := r.each(ctx, "", func(s *source) error {
		err := s.get(ctx, http.MethodHead, "manifests/"+tagOrDigest, http.Header{"Accept": {accepted}}, func(resp *http.Response) error {
			defer resp.Body.Close()
			if digest = resp.Header.Get("Docker-Content-Digest"); !reference.ValidDigest(digest) {
				digest = ""
			}
			return nil
		})
		var a *answer
		if errors.As(err, &a) && a.host == s.host && (a.code == http.StatusMethodNotAllowed || a.code == http.StatusNotImplemented) {
			return nil
		}
		return err
	})
	return digest, err
}

// Manifest fetches a manifest or index by tag or digest.
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (Manifest, error) {
	var m Manifest
	err := r.each(ctx, tagOrDigest, func(s *source) error {
		return s.get(ctx, http.MethodGet, "manifests/"+tagOrDigest, http.Header{"Accept": {accepted}}, func(resp *http.Response) error {
			defer resp.Body.Close()
			raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
			if err != nil {
				return err
			}
			m, err = verifyManifest(tagOrDigest, resp.Header, raw)
			if err != nil {
				return fmt.Errorf("%s: manifest %s: %w", s.host, tagOrDigest, err)
			}
			return nil
		})
	})
	return m, err
}

// verifyManifest holds an answer against what was asked for and against what it says of itself.
func verifyManifest(want string, header http.Header, raw []byte) (Manifest, error) {
	if len(raw) > maxManifest {
		return Manifest{}, fmt.Errorf("it has more than %d bytes: %w", maxManifest, ErrCorrupt)
	}
	sum := sha256.Sum256(raw)
	m := Manifest{Digest: "sha256:" + hex.EncodeToString(sum[:]), Raw: raw}
	if strings.HasPrefix(want, "sha256:") && want != m.Digest {
		return Manifest{}, fmt.Errorf("what came has the digest %s: %w", m.Digest, ErrCorrupt)
	}
	// A registry may name another algorithm; what it says of ours must be true.
	if said := header.Get("Docker-Content-Digest"); strings.HasPrefix(said, "sha256:") && said != m.Digest {
		return Manifest{}, fmt.Errorf("the registry says %.100q, what came has the digest %s: %w", said, m.Digest, ErrCorrupt)
	}
	var err error
	m.MediaType, err = manifestType(header.Get("Content-Type"), raw)
	return m, err
}

// manifestType decides what a document is. The header and the document may each say it, and must not contradict each other: what is
// an index to one reader and an image to another can hide one behind the other (image-spec, manifest.md, "mediaType").
func manifestType(header string, raw []byte) (string, error) {
	said, _, err := mime.ParseMediaType(header)
	if err != nil {
		said = ""
	}
	var doc struct {
		MediaType string          `json:"mediaType"`
		Version   int             `json:"schemaVersion"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
		Config    json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", fmt.Errorf("the answer, of the type %.100q, is no manifest: %s: %w", header, oneLine(err), ErrCorrupt)
	}
	if doc.Manifests != nil && (doc.Layers != nil || doc.Config != nil) {
		return "", fmt.Errorf("it is an index and an image at once: %w", ErrCorrupt)
	}
	switch said {
	case "", "application/json", "text/plain", "application/octet-stream", "binary/octet-stream":
		said = "" // a registry on plain storage, which does not know what it keeps
	}
	is := doc.MediaType
	switch {
	case is == "" && said != "":
		is = said
	case is == "" && doc.Manifests != nil:
		is = mediaIndex
	case is == "" && doc.Layers != nil:
		is = mediaManifest
	case is == "":
		return "", fmt.Errorf("the answer, of the type %.100q, is no manifest: %w", header, ErrCorrupt)
	case said != "" && isIndex(said) != isIndex(is):
		return "", fmt.Errorf("it came as %.100q and says that it is %.100q: %w", said, is, ErrCorrupt)
	}
	if isIndex(is) && doc.Layers != nil || !isIndex(is) && doc.Manifests != nil {
		return "", fmt.Errorf("it says that it is %.100q and is not: %w", is, ErrCorrupt)
	}
	return is, nil
}

func isIndex(media string) bool { return media == mediaIndex || media == mediaDockerList }

// settings is what the environment and the files say, which is the same for every source.
type settings struct {
	stall time.Duration
	conf  registriesConf
}

func settingsOf() (settings, error) {
	conf, err := readConf()
	if err != nil {
		return settings{}, err
	}
	stall, err := stallTimeout()
	return settings{stall, conf}, err
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
