package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/reference"
)

// HistoryEntry is one step of how an image was made, newest first.
type HistoryEntry struct {
	ID        string // the image's, for the newest step
	Created   time.Time
	CreatedBy string
	Comment   string
	Size      int64 // bytes of files that the step's layer has
}

func parseConfig(img Image) (rawConfig, error) {
	var c rawConfig
	if err := json.Unmarshal(img.Config, &c); err != nil {
		return c, fmt.Errorf("read the config of %s: %w", img.ID, err)
	}
	return c, nil
}

func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// History tells how the image that ref names was made. Layers without a step of their own come last, as steps that say nothing.
func (s *Store) History(ctx context.Context, ref string) ([]HistoryEntry, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	cfg, err := parseConfig(img)
	if err != nil {
		return nil, err
	}
	var steps []HistoryEntry
	next := 0
	for _, h := range cfg.History {
		e := HistoryEntry{Created: parseTime(h.Created), CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer && next < len(img.Layers) {
			e.Size = img.Layers[next].Size
			next++
		}
		steps = append(steps, e)
	}
	for ; next < len(img.Layers); next++ {
		steps = append(steps, HistoryEntry{Size: img.Layers[next].Size})
	}
	for i, j := 0, len(steps)-1; i < j; i, j = i+1, j-1 {
		steps[i], steps[j] = steps[j], steps[i]
	}
	if len(steps) > 0 {
		steps[0].ID = img.ID
	}
	return steps, nil
}

// Details is what inspect shows of an image, in Docker's field names.
type Details struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Comment      string
	Created      string
	Author       string
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	Config       json.RawMessage
	RootFS       struct {
		Type   string
		Layers []string
	}
	GraphDriver struct {
		Name string
		Data map[string]string
	}
	ChainID     string
	LayerDetail []Layer
}

// Inspect describes the image that ref names.
func (s *Store) Inspect(ctx context.Context, ref string) (Details, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return Details{}, fmt.Errorf("inspect: %w", err)
	}
	cfg, err := parseConfig(img)
	if err != nil {
		return Details{}, err
	}
	d := Details{ID: img.ID, RepoTags: []string{}, RepoDigests: []string{}, Created: cfg.Created, Author: cfg.Author,
		Architecture: cfg.Architecture, Variant: cfg.Variant, Os: cfg.OS, Size: img.Size, Config: cfg.Config, ChainID: img.Chain,
		LayerDetail: img.Layers}
	if n := len(cfg.History); n > 0 {
		d.Comment = cfg.History[n-1].Comment
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, name := range img.Names {
			var n nameRow
			if _, err := getJSON(tx, bucketNames, name, &n); err != nil {
				return err
			}
			r, err := reference.Parse(name)
			if err != nil {
				return err
			}
			if r.Tag != "" {
				d.RepoTags = append(d.RepoTags, name)
			}
			if n.Digest != "" && !contains(d.RepoDigests, r.Name()+"@"+n.Digest) {
				d.RepoDigests = append(d.RepoDigests, r.Name()+"@"+n.Digest)
			}
		}
		return nil
	})
	if err != nil {
		return Details{}, err
	}
	d.RootFS.Type = "layers"
	for _, l := range img.Layers {
		d.RootFS.Layers = append(d.RootFS.Layers, l.DiffID)
	}
	trees, err := s.snaps.Chain(ctx, img.Chain)
	if err != nil {
		return Details{}, fmt.Errorf("inspect %s: %w", ref, err)
	}
	d.GraphDriver.Name = "overlay"
	d.GraphDriver.Data = map[string]string{}
	for i := len(trees) - 1; i >= 0; i-- {
		if v := d.GraphDriver.Data["LowerDir"]; v != "" {
			d.GraphDriver.Data["LowerDir"] = v + ":" + filepath.Join(trees[i].Dir, "fs")
		} else {
			d.GraphDriver.Data["LowerDir"] = filepath.Join(trees[i].Dir, "fs")
		}
	}
	return d, nil
}

func (s *Store) resolvedDigest(name string) (string, error) {
	var n nameRow
	err := s.db.View(func(tx *bbolt.Tx) error { _, err := getJSON(tx, bucketNames, name, &n); return err })
	return n.Resolved, err
}

// standsAlone says whether a tree has no needs.
func standsAlone(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "needs"))
	return errors.Is(err, fs.ErrNotExist)
}
