package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/reference"
)

// DockerImage is an image in manifest.json.
type DockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readManifests reads Docker's manifest.json.
func (a *Archive) readManifests(raw []byte) error {
	var list []DockerImage
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("manifest.json does not parse (%w): %w", err, ErrMalformed)
	}
	if len(list) > maxImages {
		return fmt.Errorf("manifest.json names %d images, more than %d: %w", len(list), maxImages, ErrLimit)
	}
	for _, img := range list {
		if err := a.readDocker(img); err != nil {
			return fmt.Errorf("manifest.json: %w", err)
		}
	}
	return nil
}

func (a *Archive) readDocker(img DockerImage) error {
	name, err := cleaned(img.Config)
	if err != nil {
		return err
	}
	raw, err := a.readFile(name, maxIndex)
	if err != nil {
		return fmt.Errorf("the config: %w", err)
	}
	digest := content.Digest(raw)
	if named := strings.TrimSuffix(path.Base(name), ".json"); reference.ValidDigest("sha256:"+named) && "sha256:"+named != digest {
		return fmt.Errorf("the config %s has the digest %s: %w", name, digest, ErrMalformed)
	}
	var cfg v1.ConfigFile
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return fmt.Errorf("the config %.200q does not parse (%w): %w", name, err, ErrMalformed)
	}
	if len(cfg.RootFS.DiffIDs) != len(img.Layers) {
		return fmt.Errorf("the config %.200q names %d layers, the archive %d: %w", name, len(cfg.RootFS.DiffIDs), len(img.Layers), ErrMalformed)
	}
	if len(img.Layers) > maxLayers {
		return fmt.Errorf("an image has %d layers, more than %d: %w", len(img.Layers), maxLayers, ErrLimit)
	}
	config, err := a.descriptor(types.OCIConfigJSON, digest, name, int64(len(raw)))
	if err != nil {
		return err
	}
	var layers []v1.Descriptor
	for i, member := range img.Layers {
		d, err := a.layer(member, cfg.RootFS.DiffIDs[i].String())
		if err != nil {
			return fmt.Errorf("layer %.200q: %w", member, err)
		}
		layers = append(layers, d)
	}
	return a.addDocker(img.RepoTags, config, layers)
}

// addDocker makes up the manifest of an image in Docker's form.
func (a *Archive) addDocker(tags []string, config v1.Descriptor, layers []v1.Descriptor) error {
	digest, err := a.make(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: layers})
	if err != nil {
		return err
	}
	a.add("", digest, true)
	for _, tag := range tags {
		ref, err := reference.Parse(tag)
		if err == nil && ref.Digest != "" {
			err = fmt.Errorf("%.300q: a name that is given has no digest: %w", tag, reference.ErrInvalid)
		}
		if err != nil {
			return err
		}
		a.add(ref.String(), digest, true)
	}
	return nil
}

// layer describes a layer of Docker's form: the tar itself, whose digest is the diff ID, or, as some tools pack them, compressed.
func (a *Archive) layer(name, diffID string) (v1.Descriptor, error) {
	if !reference.ValidDigest(diffID) {
		return v1.Descriptor{}, fmt.Errorf("its diff ID is %.100q: %w", diffID, ErrMalformed)
	}
	name, err := cleaned(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	r, size, err := a.files.open(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer r.Close()
	var kind types.MediaType
	head, err := io.ReadAll(io.LimitReader(r, 6))
	if err != nil {
		return v1.Descriptor{}, err
	}
	switch how := layer.Detect(head); how {
	case layer.None:
		// Not to be verified now: whoever fetches the blob verifies it against the diff ID that its descriptor carries.
		return a.descriptor(types.OCIUncompressedLayer, diffID, name, size)
	case layer.Gzip:
		kind = types.OCILayer
	case layer.Zstd:
		kind = types.OCILayerZStd
	default:
		return v1.Descriptor{}, fmt.Errorf("it is compressed with %s, which no image's layer may be: %w", how, ErrMalformed)
	}
	digest := a.files.digest(name)
	if digest == "" {
		digest = a.digests[name]
	}
	if digest == "" {
		sum := sha256.New()
		sum.Write(head)
		if _, err := io.Copy(sum, r); err != nil {
			return v1.Descriptor{}, err
		}
		digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
		a.digests[name] = digest
	}
	return a.descriptor(kind, digest, name, size)
}

// readRepositories reads the form that Docker wrote before 1.10: repositories names the topmost layer of each tag, and each layer its
// parent. The config is made of the topmost layer's, as Docker makes it.
func (a *Archive) readRepositories(raw []byte) error {
	var repositories map[string]map[string]string
	if err := json.Unmarshal(raw, &repositories); err != nil {
		return fmt.Errorf("repositories does not parse (%w): %w", err, ErrMalformed)
	}
	tags := map[string][]string{}
	var ids []string
	for name, repository := range repositories {
		for tag, id := range repository {
			if tags[id] == nil {
				ids = append(ids, id)
			}
			tags[id] = append(tags[id], name+":"+tag)
		}
	}
	if len(ids) > maxImages {
		return fmt.Errorf("repositories names %d images, more than %d: %w", len(ids), maxImages, ErrLimit)
	}
	slices.Sort(ids)
	for _, id := range ids {
		slices.Sort(tags[id])
		if err := a.readOld(id, tags[id]); err != nil {
			return fmt.Errorf("repositories: %w", err)
		}
	}
	return nil
}

// oldLayer is <id>/json.
type oldLayer struct {
	Parent          string          `json:"parent"`
	Created         json.RawMessage `json:"created"`
	Author          string          `json:"author"`
	Comment         string          `json:"comment"`
	ContainerConfig struct {
		Cmd []string
	} `json:"container_config"`
}

type oldHistory struct {
	Created   json.RawMessage `json:"created,omitempty"`
	Author    string          `json:"author,omitempty"`
	CreatedBy string          `json:"created_by,omitempty"`
	Comment   string          `json:"comment,omitempty"`
}

func (a *Archive) readOld(top string, tags []string) error {
	var layers []v1.Descriptor
	var diffIDs []string
	var history []oldHistory
	var config map[string]json.RawMessage
	for id := top; id != ""; {
		if len(layers) == maxLayers {
			return fmt.Errorf("layer %.100q has more than %d below it, or itself: %w", top, maxLayers, ErrLimit)
		}
		if strings.Trim(id, "0123456789abcdef") != "" {
			return fmt.Errorf("a layer has the ID %.100q: %w", id, ErrMalformed)
		}
		raw, err := a.readFile(id+"/json", maxIndex)
		if err != nil {
			return err
		}
		var old oldLayer
		if err := json.Unmarshal(raw, &old); err != nil {
			return fmt.Errorf("%s/json does not parse (%w): %w", id, err, ErrMalformed)
		}
		if config == nil {
			if err := json.Unmarshal(raw, &config); err != nil {
				return fmt.Errorf("%s/json does not parse (%w): %w", id, err, ErrMalformed)
			}
		}
		name := id + "/layer.tar"
		diffID, err := a.diffID(name)
		if err != nil {
			return fmt.Errorf("layer %.200q: %w", name, err)
		}
		d, err := a.layer(name, diffID)
		if err != nil {
			return fmt.Errorf("layer %.200q: %w", name, err)
		}
		layers, diffIDs = append(layers, d), append(diffIDs, diffID)
		history = append(history, oldHistory{old.Created, old.Author, strings.Join(old.ContainerConfig.Cmd, " "), old.Comment})
		id = old.Parent
	}
	slices.Reverse(layers)
	slices.Reverse(diffIDs)
	slices.Reverse(history)
	for _, key := range []string{"id", "parent", "Size", "parent_id", "layer_id", "throwaway"} {
		delete(config, key)
	}
	for key, v := range map[string]any{"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}, "history": history} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		config[key] = b
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	digest := content.Digest(raw)
	a.made[digest] = Manifest{string(types.OCIConfigJSON), raw}
	h, err := v1.NewHash(digest)
	if err != nil {
		return err
	}
	return a.addDocker(tags, v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: h, Size: int64(len(raw))}, layers)
}

// diffID finds out a layer's diff ID, which the old form does not say.
func (a *Archive) diffID(name string) (string, error) {
	if known := a.diffIDs[name]; known != "" {
		return known, nil
	}
	r, _, err := a.files.open(name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	plain, how, err := layer.Decompress(r)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	if digest := a.files.digest(name); how == layer.None && digest != "" {
		return digest, nil
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(plain, maxLayer+1))
	if err == nil && n > maxLayer {
		err = fmt.Errorf("it has more than %d bytes: %w", int64(maxLayer), ErrLimit)
	}
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("it was cut short: %w", ErrMalformed)
		}
		return "", err
	}
	a.diffIDs[name] = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return a.diffIDs[name], nil
}

// maxLayer is what a layer may have unpacked, as in package layer.
const maxLayer = 1 << 40
