package image

import (
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/layerctl/layerctl/image/archive"
	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/reference"
)

// writeDocker writes a docker-archive: manifest.json, and for readers from before it repositories and a directory for each layer.
func (sv *saver) writeDocker(ctx context.Context, w *archive.Writer) error {
	var list []archive.DockerImage
	repositories := map[string]map[string]string{}
	for _, m := range sv.images {
		img := archive.DockerImage{Config: hexOf(m.img.ID) + ".json"}
		for _, l := range m.layers {
			img.Layers = append(img.Layers, hexOf(l.DiffID)+".tar")
		}
		for _, name := range m.names {
			ref, err := reference.Parse(name)
			if err != nil {
				return err
			}
			if ref.Tag == "" {
				continue // a name by digest is none that an image can be given
			}
			img.RepoTags = append(img.RepoTags, name)
			if repositories[ref.Name()] == nil {
				repositories[ref.Name()] = map[string]string{}
			}
			old := oldIDs(m)
			repositories[ref.Name()][ref.Tag] = old[len(old)-1]
		}
		list = append(list, img)
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := w.Bytes("manifest.json", raw); err != nil {
		return err
	}
	if raw, err = json.Marshal(repositories); err != nil {
		return err
	}
	if err := w.Bytes("repositories", raw); err != nil {
		return err
	}
	for _, m := range sv.images {
		if err := w.Bytes(hexOf(m.img.ID)+".json", m.img.Config); err != nil {
			return err
		}
		for _, l := range m.layers {
			err := w.File(hexOf(l.DiffID)+".tar", l.TarSize, func(to io.Writer) error { return sv.tar(ctx, l, to) })
			if err != nil {
				return err
			}
		}
		if err := writeOld(w, m); err != nil {
			return err
		}
	}
	return nil
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// oldIDs are the IDs that an image's layers have in the old form, which knows no digests: each for all that is below it, too, and the
// topmost, which has the config, for that.
func oldIDs(m *saving) []string {
	var ids []string
	parent := ""
	for i, l := range m.layers {
		what := parent + " " + l.DiffID
		if i == len(m.layers)-1 {
			what += " " + m.img.ID
		}
		parent = hexOf(content.Digest([]byte(what)))
		ids = append(ids, parent)
	}
	return ids
}

// writeOld writes the directories of the old form, whose layers are links to the new one's.
func writeOld(w *archive.Writer, m *saving) error {
	parent := ""
	ids := oldIDs(m)
	for i, id := range ids {
		config := map[string]any{}
		if i == len(ids)-1 {
			if err := json.Unmarshal(m.img.Config, &config); err != nil {
				return err
			}
			delete(config, "rootfs")
			delete(config, "history")
		}
		config["id"] = id
		if parent != "" {
			config["parent"] = parent
		}
		raw, err := json.Marshal(config)
		if err != nil {
			return err
		}
		if err := w.Bytes(id+"/VERSION", []byte("1.0")); err != nil {
			return err
		}
		if err := w.Bytes(id+"/json", raw); err != nil {
			return err
		}
		if err := w.Link(id+"/layer.tar", "../"+hexOf(m.layers[i].DiffID)+".tar"); err != nil {
			return err
		}
		parent = id
	}
	return nil
}
