package archive

import (
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/layerctl/layerctl/image/reference"
)

// The annotations that name an image: OCI's (image-spec, annotations.md), and containerd's, which Docker and buildx write.
const (
	AnnotationRefName       = "org.opencontainers.image.ref.name"
	AnnotationContainerName = "io.containerd.image.name"
)

// readIndex reads index.json. Manifests of one name, or of none, that are for different platforms are one image.
func (a *Archive) readIndex(raw []byte) error {
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return fmt.Errorf("index.json does not parse (%w): %w", err, ErrMalformed)
	}
	if len(index.Manifests) > maxImages {
		return fmt.Errorf("index.json names %d manifests, more than %d: %w", len(index.Manifests), maxImages, ErrLimit)
	}
	var names []string
	groups := map[string][]v1.Descriptor{}
	for _, d := range index.Manifests {
		if d.Platform != nil && d.Platform.OS == "unknown" {
			continue // an attestation of buildx: no image
		}
		if !reference.ValidDigest(d.Digest.String()) || d.Size < 0 {
			return fmt.Errorf("index.json names a manifest of the digest %.100q and %d bytes: %w", d.Digest, d.Size, ErrMalformed)
		}
		name, err := nameOf(d)
		if err != nil {
			return err
		}
		if groups[name] == nil {
			names = append(names, name)
		}
		groups[name] = append(groups[name], d)
	}
	for _, name := range names {
		group := groups[name]
		switch {
		case len(group) == 1:
			a.add(name, group[0].Digest.String(), false)
		case platforms(group):
			digest, err := a.make(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: group})
			if err != nil {
				return err
			}
			a.add(name, digest, true)
		case name == "":
			for _, d := range group {
				a.add("", d.Digest.String(), false)
			}
		default:
			return fmt.Errorf("index.json gives %d manifests the name %s: %w", len(group), name, ErrMalformed)
		}
	}
	return nil
}

// add notes an image. Names of the same manifest come together.
func (a *Archive) add(name, digest string, made bool) {
	for i, img := range a.images {
		if img.Digest == digest {
			if name != "" {
				a.images[i].Names = append(img.Names, name)
			}
			return
		}
	}
	img := Image{Digest: digest, Made: made}
	if name != "" {
		img.Names = []string{name}
	}
	a.images = append(a.images, img)
}

// platforms says whether manifests are each for a platform of its own.
func platforms(list []v1.Descriptor) bool {
	seen := map[string]bool{}
	for _, d := range list {
		if d.Platform == nil || seen[d.Platform.String()] {
			return false
		}
		seen[d.Platform.String()] = true
	}
	return true
}

// nameOf is the name that annotations give a manifest, "" for none. A word alone is a tag within the layout by the specification; as
// podman does, it is taken for the name of an image that came from no registry, where it can be one.
func nameOf(d v1.Descriptor) (string, error) {
	name := d.Annotations[AnnotationContainerName]
	ref, err := reference.Parse(name)
	if name == "" {
		if name = d.Annotations[AnnotationRefName]; name == "" {
			return "", nil
		}
		ref, err = reference.Local(name)
		if err != nil && !strings.ContainsAny(name, "/:@") {
			return "", nil
		}
	}
	if err == nil && ref.Digest != "" && ref.Digest != d.Digest.String() {
		err = fmt.Errorf("%.300q is the name of manifest %s: %w", name, d.Digest, ErrMalformed)
	}
	if err != nil {
		return "", fmt.Errorf("index.json: %w", err)
	}
	if ref.Tag != "" {
		ref.Digest = ""
	}
	return ref.String(), nil
}
