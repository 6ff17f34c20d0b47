package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/reference"
)

// What an archive can be refused for; test with errors.Is. Messages name the member.
var (
	ErrMalformed = errors.New("malformed archive")
	ErrLimit     = errors.New("archive beyond limits")
	ErrNotFound  = errors.New("not in the archive")
)

// Limits of what is believed of an archive. Only names and JSON are ever held in memory.
const (
	maxMembers   = 100_000
	maxNames     = 8 << 20 // bytes of all names and links
	maxIndex     = 4 << 20 // bytes of index.json and repositories, and of one manifest or config
	maxManifests = 8 << 20 // bytes of manifest.json, which names all layers of all images
	maxImages    = 1000
	maxLayers    = 1000
	maxHops      = 8
)

// Image is one image of an archive.
type Image struct {
	Names  []string // canonical; none for an image that the archive does not name
	Digest string   // of its manifest, or of an index that has it
	Made   bool     // the archive has no such thing: it is made up here, and its digest means nothing elsewhere
}

// Archive is an archive that is being read.
type Archive struct {
	files  files
	images []Image
	made   map[string]Manifest // by digest
	blobs  map[string]string   // digest → the member that Docker's form names otherwise

	digests, diffIDs map[string]string // of members that had to be read for them
}

// Manifest is a manifest or an index.
type Manifest struct {
	MediaType string
	Raw       []byte
}

// files are an archive's members by name.
type files interface {
	// open returns a regular file's content and length; what is not there is ErrNotFound.
	open(name string) (io.ReadCloser, int64, error)
	// digest returns a file's digest where it is known already, or "".
	digest(name string) string
}

// read finds out what the archive holds.
func read(f files) (*Archive, error) {
	a := &Archive{files: f, made: map[string]Manifest{}, blobs: map[string]string{}, digests: map[string]string{}, diffIDs: map[string]string{}}
	for _, form := range []struct {
		file string
		read func([]byte) error
		max  int64
	}{
		{"index.json", a.readIndex, maxIndex},
		{"manifest.json", a.readManifests, maxManifests},
		{"repositories", a.readRepositories, maxIndex},
	} {
		raw, err := a.readFile(form.file, form.max)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			err = form.read(raw)
		}
		if err == nil && len(a.images) == 0 {
			err = fmt.Errorf("%s names no image: %w", form.file, ErrMalformed)
		}
		if err != nil {
			return nil, err
		}
		return a, nil
	}
	return nil, fmt.Errorf("no image archive: it has no manifest.json, index.json or repositories: %w", ErrMalformed)
}

// Images are the images of the archive, in its order.
func (a *Archive) Images() []Image { return a.images }

// readFile reads a small file.
func (a *Archive) readFile(name string, limit int64) ([]byte, error) {
	r, size, err := a.files.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", name, size, limit, ErrLimit)
	}
	b, err := io.ReadAll(io.LimitReader(r, size))
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("it was cut short: %w", ErrMalformed)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// BlobName is where an OCI layout has a blob.
func BlobName(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

// Manifest returns a manifest or an index by digest, verified.
func (a *Archive) Manifest(digest string) (Manifest, error) {
	if m, ok := a.made[digest]; ok {
		return m, nil
	}
	if !reference.ValidDigest(digest) {
		return Manifest{}, fmt.Errorf("a manifest has the digest %.100q: %w", digest, ErrMalformed)
	}
	raw, err := a.readFile(BlobName(digest), maxIndex)
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if got := content.Digest(raw); got != digest {
		return Manifest{}, fmt.Errorf("manifest %s has the digest %s: %w", digest, got, ErrMalformed)
	}
	return Manifest{mediaType(raw), raw}, nil
}

// mediaType is what a manifest says of itself, or, where it does not, what it looks like (image-spec, manifest.md, says that it should).
func mediaType(raw []byte) string {
	var m struct {
		MediaType     string          `json:"mediaType"`
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return ""
	}
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.FSLayers != nil || m.SchemaVersion == 1:
		return string(types.DockerManifestSchema1)
	case m.Manifests != nil:
		return string(types.OCIImageIndex)
	}
	return string(types.OCIManifestSchema1)
}

// Blob opens a blob. Its bytes are not verified.
func (a *Archive) Blob(digest string) (io.ReadCloser, error) {
	if m, ok := a.made[digest]; ok { // a config
		return io.NopCloser(bytes.NewReader(m.Raw)), nil
	}
	name, ok := a.blobs[digest]
	if !ok {
		if !reference.ValidDigest(digest) {
			return nil, fmt.Errorf("a blob has the digest %.100q: %w", digest, ErrMalformed)
		}
		name = BlobName(digest)
	}
	r, _, err := a.files.open(name)
	return r, err
}

// make notes a manifest that the archive does not have.
func (a *Archive) make(mediaType types.MediaType, v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	digest := content.Digest(raw)
	a.made[digest] = Manifest{string(mediaType), raw}
	return digest, nil
}

// descriptor names a blob that is a member of another name.
func (a *Archive) descriptor(mediaType types.MediaType, digest, member string, size int64) (v1.Descriptor, error) {
	h, err := v1.NewHash(digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	a.blobs[digest] = member
	return v1.Descriptor{MediaType: mediaType, Digest: h, Size: size}, nil
}
