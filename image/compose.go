package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// composed is an image that is put together here, of layers whose trees are in the store and held by a lease: what import, commit,
// config, squash and rebase make. It has no manifest: that says how layers are compressed, which is decided by who pushes or saves them.
type composed struct {
	verb    string        // what makes it: the first part of its failpoints' names
	ref     reference.Ref // its name; the zero one for none
	config  v1.ConfigFile // all but RootFS, which the layers say, and History
	history []json.RawMessage
	from    []byte // the config that it was made of, whose fields that we do not know it keeps; nil for none
	layers  []composedLayer
	sources []origin // where blobs of its layers can be fetched
}

// composedLayer is a layer and its tree, which is right for the layers below. Layer.Chain and Layer.Size are filled in.
type composedLayer struct {
	Layer
	tree snapshot.Tree
}

// deriveAs starts an image called name, which is made by verb, from the one that of names.
func (s *Store) deriveAs(ctx context.Context, l *snapshot.Lease, verb, of, name string) (Image, *composed, error) {
	ref, err := localName(name)
	if err != nil {
		return Image{}, nil, err
	}
	at, err := now()
	if err != nil {
		return Image{}, nil, err
	}
	img, c, err := s.derive(ctx, l, of)
	if err == nil {
		c.verb, c.ref, c.config.Created = verb, ref, at.created()
	}
	return img, c, err
}

// derive starts an image from the one that ref names: with its settings, history and layers, which the lease holds.
func (s *Store) derive(ctx context.Context, l *snapshot.Lease, ref string) (Image, *composed, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return img, nil, err
	}
	c := &composed{from: img.Config}
	var steps struct{ History []json.RawMessage }
	if err := errors.Join(json.Unmarshal(img.Config, &c.config), json.Unmarshal(img.Config, &steps)); err != nil {
		return img, nil, fmt.Errorf("read the config of %s: %w", img.ID, err)
	}
	c.history = steps.History
	var row imageRow
	if err := s.db.View(func(tx *bbolt.Tx) error { _, err := getJSON(tx, bucketImages, img.ID, &row); return err }); err != nil {
		return img, nil, err
	}
	c.sources = row.Sources
	trees, err := s.treesOf(ctx, img)
	for i, t := range trees {
		if err == nil {
			err = s.snaps.Hold(l, t)
		}
		if err == nil && img.Layers[i].Digest != "" {
			_, err = s.holdBlob(ctx, l, img.Layers[i].Digest)
		}
		if err == nil {
			c.layers = append(c.layers, composedLayer{img.Layers[i], t})
		}
	}
	if errors.Is(err, snapshot.ErrNotFound) {
		err = fmt.Errorf("%s was removed meanwhile: %w", ref, ErrNotFound)
	}
	return img, c, err
}

// step adds a step to the image's history. One that adds no layer is empty.
func (c *composed) step(by, comment string, empty bool) error {
	raw, err := json.Marshal(v1.History{Created: c.config.Created, CreatedBy: by, Comment: comment, EmptyLayer: empty})
	c.history = append(c.history, raw)
	return err
}

// compose gives the image its config, commits its chain and names it, each on disk before what refers to it.
func (s *Store) compose(ctx context.Context, l *snapshot.Lease, c *composed) (Image, error) {
	c.config.RootFS = v1.RootFS{Type: "layers"}
	var layers []Layer
	var chain []snapshot.ChainLayer
	parent := ""
	for _, cl := range c.layers {
		hash, err := v1.NewHash(cl.tree.DiffID)
		if err != nil {
			return Image{}, err
		}
		c.config.RootFS.DiffIDs = append(c.config.RootFS.DiffIDs, hash)
		cl.DiffID, cl.Size, cl.Chain = cl.tree.DiffID, cl.tree.Usage.Size, chainID(parent, cl.tree.DiffID)
		layers = append(layers, cl.Layer)
		chain = append(chain, snapshot.ChainLayer{Name: cl.Chain, Parent: parent, Tree: cl.tree})
		parent = cl.Chain
	}
	raw, err := c.encode()
	if err != nil {
		return Image{}, err
	}
	id, err := s.content.Put(l, raw)
	if err != nil {
		return Image{}, err
	}
	failpoint.Hit(c.verb + "/config")
	if err := s.snaps.Sync(); err != nil {
		return Image{}, err
	}
	failpoint.Hit(c.verb + "/synced")
	if err := s.snaps.AdoptChain(ctx, l, chain); err != nil {
		return Image{}, err
	}
	failpoint.Hit(c.verb + "/adopted")
	row := rowOf(&c.config, layers, []string{id})
	row.Absent, row.Sources = absent(s.content, layers), c.sources
	name := ""
	if c.ref != (reference.Ref{}) {
		name = c.ref.String()
	}
	if err := s.name(name, nameRow{ID: id}, row); err != nil {
		return Image{}, err
	}
	img := row.image(id, name) // not looked up again: somebody may have removed it already
	img.Config = raw
	if name != "" {
		img.Names = []string{name}
	}
	return img, nil
}

// encode is the config's JSON. What we did not change of the one that it was made of stays as it was there, with the fields that
// v1.ConfigFile does not know (image-spec, config.md, lets there be others).
func (c *composed) encode() ([]byte, error) {
	c.config.History = nil // steps are kept as they came
	to, err := document(c.config)
	if err != nil {
		return nil, err
	}
	if c.from != nil {
		var known v1.ConfigFile
		var had map[string]any
		if err := errors.Join(json.Unmarshal(c.from, &known), decode(c.from, &had)); err != nil {
			return nil, err
		}
		delete(had, "history")
		known.History = nil
		knew, err := document(known)
		if err != nil {
			return nil, err
		}
		to = retain(to, knew, had).(map[string]any)
	}
	if len(c.history) > 0 {
		to["history"] = c.history
	}
	return json.Marshal(to)
}

// document is v as the JSON object that it makes.
func document(v any) (m map[string]any, err error) {
	raw, err := json.Marshal(v)
	if err == nil {
		err = decode(raw, &m)
	}
	return m, err
}

// decode reads JSON and leaves numbers as they are written.
func decode(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(v)
}

// retain puts into a JSON value what another had: knew is how much of had was understood, and to what became of that.
func retain(to, knew, had any) any {
	if reflect.DeepEqual(to, knew) {
		return had
	}
	now, ok := to.(map[string]any)
	before, ok2 := had.(map[string]any)
	understood, ok3 := knew.(map[string]any)
	if !ok || !ok2 || !ok3 {
		return to
	}
	for key, value := range before {
		if _, ok := now[key]; ok {
			now[key] = retain(now[key], understood[key], value)
		} else if !hasKey(understood, key) && !hasKey(now, key) {
			now[key] = value
		}
	}
	return now
}

// hasKey looks a key up as package encoding/json does, for which "cmd" is "Cmd", too.
func hasKey(m map[string]any, key string) bool {
	for k := range m {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}

// localName is the name that a user gives to an image that is made here.
func localName(given string) (reference.Ref, error) {
	ref, err := reference.Local(given)
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("%q: a name that is given has no digest: %w", given, reference.ErrInvalid)
	}
	return ref, err
}
