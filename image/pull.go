package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Policy says when Pull asks the registry.
type Policy string

// The policies: always ask, only for what is not here, never.
const (
	PullAlways  Policy = "always"
	PullMissing Policy = "missing"
	PullNever   Policy = "never"
)

// ParsePolicy reads a policy.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case PullAlways, PullMissing, PullNever:
		return p, nil
	}
	return "", invalid("policy %q: want always, missing or never", s)
}

// LayerDone says how a layer came to be here, or there.
type LayerDone string

// How a layer came to be here, or there.
const (
	LayerPulled LayerDone = "pull complete"
	LayerLoaded LayerDone = "loaded"
	LayerExists LayerDone = "already exists"
	LayerPushed LayerDone = "pushed"
)

// Progress is told how a pull or a push goes on, from several goroutines. Layers are named by their blobs' digests, or by diff IDs where
// those are not known yet.
type Progress interface {
	Status(line string)
	Started(digest string, size int64)
	Advanced(digest string, n int64)
	Done(digest string, how LayerDone)
}

type noProgress struct{}

func (noProgress) Status(string)          {}
func (noProgress) Started(string, int64)  {}
func (noProgress) Advanced(string, int64) {}
func (noProgress) Done(string, LayerDone) {}

// PullOptions say how an image is pulled.
type PullOptions struct {
	Platform  string // OS/ARCH[/VARIANT]; "" for this host's
	Policy    Policy // "" is PullAlways
	PlainHTTP bool
	Progress  Progress // may be nil
}

// Pull brings the image that ref names into the store, under its canonical name. What is here already is not fetched again: the second
// pull of the same thing is one request for its digest.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	img, err := s.pull(ctx, ref, o)
	if err != nil {
		s.makeRoom(ctx, err)
		if isCorrupt(err) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if errors.Is(err, registry.ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return Image{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, arg string, o PullOptions) (Image, error) {
	ref, err := reference.Parse(arg)
	if err != nil {
		return Image{}, err
	}
	platform, err := parsePlatform(o.Platform)
	if err != nil {
		return Image{}, err
	}
	if o.Progress == nil {
		o.Progress = noProgress{}
	}
	name := ref
	if name.Tag != "" {
		name.Digest = "" // NAME:TAG@DIGEST is kept as NAME:TAG
	}
	here, err := s.Resolve(ctx, ref.String())
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Image{}, err
	}
	found := err == nil && (o.Platform == "" || platform.matches(here.platform()))
	switch {
	case o.Policy == PullNever && !found:
		return Image{}, fmt.Errorf("it is not here, and the policy is never to pull: %w", ErrNotFound)
	case o.Policy == PullNever, o.Policy == PullMissing && found:
		return here, nil
	}
	repo, err := registry.Open(ref, registry.Options{PlainHTTP: o.PlainHTTP, Notice: o.Progress.Status})
	if err != nil {
		return Image{}, err
	}
	want := ref.Digest
	if want == "" {
		want = ref.Tag
	}
	if found {
		if done, err := s.unchanged(ctx, repo, here, want, platform); err != nil || done {
			if done {
				o.Progress.Status(ref.String() + ": image is up to date")
			}
			return here, err
		}
	}
	o.Progress.Status("pulling from " + ref.Name())
	p, row, err := s.bring(ctx, repo, want, platform, o.Progress)
	if err != nil {
		return Image{}, err
	}
	defer p.close()
	m := p.manifest
	row.Sources = []origin{{Repository: ref.Name(), PlainHTTP: o.PlainHTTP}}
	failpoint.Hit("pull/adopted")
	n := nameRow{ID: m.configDigest, Digest: m.digest, Resolved: m.resolved, Media: m.media, Size: int64(len(m.raw))}
	if err := s.name(name.String(), n, row); err != nil {
		return Image{}, err
	}
	// Not looked up again: somebody may have removed it already, and that is not this command's failure.
	img := row.image(n.ID, name.String())
	img.Digest, img.Names = n.Digest, []string{img.Name}
	img.Config, err = s.content.Read(n.ID)
	return img, err
}

// bring pulls what a tag or digest means. Whoever gets it closes the puller, when the image has its name.
func (s *Store) bring(ctx context.Context, repo *registry.Repository, want string, only platform, pr Progress) (*puller, *imageRow, error) {
	tried := map[string]error{}
	for {
		m, err := fetchManifest(ctx, repo, want, only)
		if err == nil && tried[m.digest] != nil {
			return nil, nil, tried[m.digest] // everybody was asked for what belongs to it
		}
		if err == nil {
			p := &puller{s: s, src: repo, progress: pr, manifest: m, came: LayerPulled}
			var row *imageRow
			if row, err = p.run(ctx); err == nil {
				return p, row, nil
			}
			p.close()
			tried[m.digest] = err
		}
		// A mirror may say of a tag whatever it likes. When that leads nowhere, the registry may say something else.
		astray := isCorrupt(err) || errors.Is(err, registry.ErrNotFound) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalid)
		if !astray || !repo.Distrust(want, err) {
			return nil, nil, err
		}
	}
}

// unchanged asks, in one request, whether the registry still means the image that is here.
func (s *Store) unchanged(ctx context.Context, repo *registry.Repository, here Image, want string, p platform) (bool, error) {
	now, err := repo.Head(ctx, want)
	if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrCorrupt) {
		return false, nil // some registries know no HEAD; the GET that follows tells the truth
	}
	if err != nil {
		return false, err
	}
	resolved, err := s.resolvedDigest(here.Name)
	return err == nil && now == resolved && p.matches(here.platform()), err
}

// manifest is one image's manifest with what led to it.
type manifest struct {
	resolved     string // what the registry answered first: this manifest's digest, or the index's
	digest       string
	media        string
	raw          []byte
	index        []byte // the index, where there was one
	configDigest string
	parsed       v1.Manifest
}

// fetchManifest gets what a tag or digest means, going through an index to the manifest of the platform.
func fetchManifest(ctx context.Context, src source, want string, p platform) (*manifest, error) {
	got, err := src.Manifest(ctx, want)
	if err != nil {
		return nil, err
	}
	m := &manifest{resolved: got.Digest}
	for depth := 0; types.MediaType(got.MediaType).IsIndex(); depth++ {
		if depth == 2 {
			return nil, fmt.Errorf("an index of indexes of indexes: %w", content.ErrCorrupt)
		}
		m.index = got.Raw
		d, err := choose(got.Raw, p)
		if err != nil {
			return nil, err
		}
		if !reference.ValidDigest(d.Digest.String()) {
			return nil, fmt.Errorf("its index names a manifest with the digest %.100q: %w", d.Digest, content.ErrCorrupt)
		}
		if got, err = src.Manifest(ctx, d.Digest.String()); err != nil {
			return nil, err
		}
		if int64(len(got.Raw)) != d.Size {
			return nil, fmt.Errorf("manifest %s has %d bytes, its index says %d: %w", d.Digest, len(got.Raw), d.Size, content.ErrCorrupt)
		}
	}
	switch t := types.MediaType(got.MediaType); {
	case t == types.DockerManifestSchema1 || t == types.DockerManifestSchema1Signed:
		return nil, invalid("a manifest of Docker's schema 1, which nothing can verify: push the image anew")
	case !t.IsImage():
		return nil, invalid("its manifest is of the type %.100q, not an image's", got.MediaType)
	}
	if err := json.Unmarshal(got.Raw, &m.parsed); err != nil {
		return nil, fmt.Errorf("its manifest does not parse: %w: %w", content.ErrCorrupt, err)
	}
	m.digest, m.media, m.raw = got.Digest, got.MediaType, got.Raw
	m.configDigest = m.parsed.Config.Digest.String()
	switch t := m.parsed.Config.MediaType; {
	case !t.IsConfig():
		return nil, invalid("its config is of the type %.100q, so it is no image that can be run", t)
	case !reference.ValidDigest(m.configDigest):
		return nil, fmt.Errorf("its config has the digest %.100q: %w", m.configDigest, content.ErrCorrupt)
	case m.parsed.Config.Size < 0 || m.parsed.Config.Size > maxSmall:
		return nil, fmt.Errorf("its config has %d bytes: %w", m.parsed.Config.Size, content.ErrCorrupt)
	}
	for _, l := range m.parsed.Layers {
		switch {
		case !reference.ValidDigest(l.Digest.String()) || l.Size < 0:
			return nil, fmt.Errorf("a layer has the digest %.100q and %d bytes: %w", l.Digest, l.Size, content.ErrCorrupt)
		case !l.MediaType.IsDistributable():
			return nil, invalid("layer %s must be fetched from its maker's site (%s)", l.Digest, l.MediaType)
		case !l.MediaType.IsLayer():
			return nil, invalid("layer %s is of the type %.100q", l.Digest, l.MediaType)
		}
	}
	return m, nil
}

// choose finds the manifest of a platform in an index. Of several the first counts (image-spec, image-index.md).
func choose(raw []byte, p platform) (v1.Descriptor, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return v1.Descriptor{}, fmt.Errorf("its index does not parse: %w: %w", content.ErrCorrupt, err)
	}
	var have []string
	for _, d := range index.Manifests {
		if d.Platform == nil {
			if len(index.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		its := platform{d.Platform.OS, d.Platform.Architecture, d.Platform.Variant}
		if p.matches(its) {
			return d, nil
		}
		if its.os != "unknown" && !slices.Contains(have, its.String()) {
			have = append(have, its.String())
		}
	}
	return v1.Descriptor{}, fmt.Errorf("it has no image for %s, only for %s: %w", p, strings.Join(have, ", "), ErrNotFound)
}

// platform is OS/ARCH[/VARIANT].
type platform struct{ os, arch, variant string }

func (p platform) String() string {
	s := p.os + "/" + p.arch
	if p.variant != "" {
		s += "/" + p.variant
	}
	return s
}

// matches says whether an image of the platform its is what was asked for. Without a variant any will do; arm64's v8 is all there is.
func (p platform) matches(its platform) bool {
	if p.arch == "arm64" && p.variant == "v8" {
		p.variant = ""
	}
	return p.os == its.os && p.arch == its.arch && (p.variant == "" || p.variant == its.variant)
}

func (img Image) platform() platform {
	p, err := parsePlatform(img.Platform)
	if err != nil {
		return platform{}
	}
	return p
}

// What GOOS and GOARCH may be of what containers are made for, and uname's words.
var (
	knownOS   = []string{"linux", "windows", "freebsd", "darwin"}
	knownArch = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "x86_64", "aarch64"}
)

func parsePlatform(s string) (platform, error) {
	if s == "" {
		return platform{"linux", runtime.GOARCH, ""}, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		// The rule of containerd's platforms.Parse: a word alone must be known, and a pair need not be.
		switch {
		case slices.Contains(knownOS, s):
			parts = []string{s, runtime.GOARCH}
		case slices.Contains(knownArch, s):
			parts = []string{"linux", s}
		default:
			return platform{}, invalid("platform %q is neither an operating system nor an architecture: want OS/ARCH or OS/ARCH/VARIANT", s)
		}
	}
	if len(parts) > 3 || slices.Contains(parts, "") {
		return platform{}, invalid("platform %q: want OS/ARCH or OS/ARCH/VARIANT", s)
	}
	p := platform{os: parts[0], arch: parts[1]}
	switch p.arch { // uname's words, as Docker takes them
	case "x86_64":
		p.arch = "amd64"
	case "aarch64":
		p.arch = "arm64"
	}
	if len(parts) == 3 {
		p.variant = parts[2]
	}
	return p, nil
}

// rowOf makes an image's row of its verified config.
func rowOf(cfg *v1.ConfigFile, layers []Layer, blobs []string) *imageRow {
	row := &imageRow{Created: cfg.Created.Time, OS: cfg.OS, Arch: cfg.Architecture, Layers: layers, Blobs: blobs,
		Platform: platform{cfg.OS, cfg.Architecture, cfg.Variant}.String()}
	for _, l := range layers {
		row.Size += l.Size
		row.Chain = l.Chain
	}
	c := cfg.Config
	row.Settings = record.Settings{Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, User: c.User, WorkingDir: c.WorkingDir,
		StopSignal: c.StopSignal, Labels: c.Labels, Volumes: sortedKeys(c.Volumes), ExposedPorts: sortedKeys(c.ExposedPorts)}
	if row.Created.IsZero() {
		row.Created = time.Unix(0, 0).UTC()
	}
	return row
}

func sortedKeys(m map[string]struct{}) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
