package image

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/layerctl/layerctl/snapshot"
)

// CheckLevel says how closely Check looks.
type CheckLevel int

// The levels. Quick reads rows, small files and the sizes of blobs; Normal hashes every blob and compares every name of every tree with
// the layer's index; Full reads every file, too, and packs the layers that were made here again.
const (
	CheckQuick CheckLevel = iota
	CheckNormal
	CheckFull
)

// Finding is something in the store that is not as it was written, and whom it concerns.
type Finding struct {
	File      string   `json:",omitempty"` // below the store's root
	Layer     string   `json:",omitempty"` // diff ID
	Path      string   `json:",omitempty"` // in the layer
	Problem   string   // the end of a sentence that begins with the above
	Images    []string `json:",omitempty"` // by name, or ID where they have none
	Snapshots []string `json:",omitempty"` // keys of active snapshots
	tree      string
	blob      string
}

func (f Finding) id() string {
	return strings.Join([]string{f.File, f.Layer, f.Path, f.Problem, f.tree, f.blob}, "\x00")
}

// Subject is what of the store a finding is about.
func (f Finding) Subject() string {
	switch {
	case f.File != "" && f.Layer != "":
		return f.File + " of layer " + f.Layer
	case f.File != "":
		return f.File
	}
	return fmt.Sprintf("layer %s (tree %s): /%s", f.Layer, f.tree, strings.TrimPrefix(f.Path, "."))
}

// CheckReport is what Check found, and how much it looked at.
type CheckReport struct {
	Findings                            []Finding
	Notes                               []string // what is no damage and still worth a line
	Images, Layers, Blobs, Names, Files int64    // Names are those in the trees that were compared
	Bytes                               int64    // of blobs and files that were read
	leavings                            []string // damaged blobs that nothing relies on: what a power cut leaves
	state                               *rows
	snaps                               *snapshot.Report
}

// Check compares everything in the images and snapshots with what it should be. It takes no lock for longer than a moment: what is on
// its way, or goes away meanwhile, is no finding.
func (s *Store) Check(ctx context.Context, level CheckLevel) (*CheckReport, error) {
	r, err := s.checkRows(ctx)
	for _, wait := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		if err != nil || len(r.Findings) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		first := map[string]bool{}
		for _, f := range r.Findings {
			first[f.id()] = true
		}
		if r, err = s.checkRows(ctx); err == nil {
			r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return !first[f.id()] })
		}
	}
	if err != nil {
		return nil, fmt.Errorf("check images: %w", err)
	}
	c := &byteChecker{s: s, r: r, level: level}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	if len(c.found) > 0 {
		// What is no longer named, or is named anew, was removed or replaced meanwhile.
		now, err := s.checkRows(ctx)
		if err != nil {
			return nil, fmt.Errorf("check images: %w", err)
		}
		for _, f := range c.found {
			if f.tree != "" && !slices.ContainsFunc(now.snaps.Trees, func(t snapshot.CheckedTree) bool { return t.ID == f.tree && t.DiffID == f.Layer }) {
				continue
			}
			if f.blob != "" && (len(f.Images) > 0 && len(now.state.users(f.blob)) == 0 || c.rightNow(f.blob)) {
				continue
			}
			r.Findings = append(r.Findings, f)
		}
	}
	sort.SliceStable(r.Findings, func(i, j int) bool { return r.Findings[i].File < r.Findings[j].File })
	if n := r.snaps.Remakes + r.state.remakes; n > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d small copies of rows are not there, and will be made again when they are needed", n))
	}
	if r.snaps.Unnamed+c.unnamed > 0 && len(r.Findings) == 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("nothing names %d layers and %d blobs: `layerctl prune` frees them, unless they are on their way", r.snaps.Unnamed, c.unnamed))
	}
	if n := len(r.leavings); n > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d blobs that nothing relies on are damaged, as a power cut may leave them: a pull that wants one brings it anew", n))
	}
	return r, nil
}
