package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerctl/layerctl/snapshot"
)

// Finding is something of a container that is not as it was written.
type Finding struct{ Container, File, Problem string }

// CheckReport is what Check found.
type CheckReport struct {
	Findings   []Finding
	Containers int
	Names      map[string]string         // what the active snapshot of that key belongs to: the container's name
	Claims     map[string]snapshot.Claim // what their snapshots are, by key
}

// Check looks at the containers' records, their names, and whether the snapshots that they stand on are there. What a crash left half
// made is taken away first, as by every command that lists containers. What a container wrote is its own: nobody knows what it should be.
func (s *Store) Check(ctx context.Context) (*CheckReport, error) {
	if _, err := s.List(ctx, true); err != nil && !errors.Is(err, snapshot.ErrDamaged) {
		return nil, fmt.Errorf("check containers: %w", err)
	}
	return s.check(ctx), nil
}

func (s *Store) check(ctx context.Context) *CheckReport {
	r := &CheckReport{Names: map[string]string{}, Claims: map[string]snapshot.Claim{}}
	find := func(container, file, problem string) {
		r.Findings = append(r.Findings, Finding{container, filepath.Join(filepath.Base(s.dir), file), problem})
	}
	// A container's record comes last and goes first: what is missing while that is there, is missing.
	missing := func(c *Config, file, problem string) {
		if s.recorded(c.ID) {
			find(c.Name, file, problem)
		}
	}
	ids, err := s.ids()
	if err != nil {
		find("", ".", err.Error())
	}
	named := map[string]string{}
	for _, id := range ids {
		var c Config
		err := readJSON(s.path(id, "config.json"), &c)
		if errors.Is(err, fs.ErrNotExist) {
			continue // being made, or removed
		}
		r.Containers++
		r.Names[snapshotKey(id)] = id[:12]
		if err != nil {
			find(id[:12], id+"/config.json", "is damaged")
			continue
		}
		r.Names[snapshotKey(id)] = c.Name
		if c.ID != id {
			find(c.Name, id+"/config.json", "is another container's")
			continue
		}
		named[c.Name] = id
		claim := snapshot.Claim{Parent: c.Image.Chain}
		if c.RootFS != "" {
			claim = snapshot.Claim{Dirs: []string{c.RootFS}}
		}
		r.Claims[snapshotKey(id)] = claim
		if target, err := os.Readlink(filepath.Join(s.dir, "names", c.Name)); err != nil || target != "../"+id {
			missing(&c, "names/"+c.Name, "does not lead to its container")
		}
		var e ended
		if err := readJSON(s.path(id, "exit.json"), &e); err != nil && !errors.Is(err, fs.ErrNotExist) {
			find(c.Name, id+"/exit.json", "is damaged")
		}
		if stands, err := s.snaps.StandsOn(ctx, snapshotKey(id), c.Image.Chain); errors.Is(err, snapshot.ErrNotFound) {
			missing(&c, id, "its snapshot is not there")
		} else if err == nil && !stands {
			find(c.Name, id, "its snapshot does not stand on its image's "+c.Image.Chain)
		}
	}
	names, err := os.ReadDir(filepath.Join(s.dir, "names"))
	if err != nil {
		find("", "names", err.Error())
	}
	for _, n := range names {
		target, err := os.Readlink(filepath.Join(s.dir, "names", n.Name()))
		if id := filepath.Base(target); err == nil && named[n.Name()] != id {
			var c Config // it may have been made since the containers were listed
			if err := readJSON(s.path(id, "config.json"), &c); err == nil && c.Name != n.Name() {
				find(n.Name(), "names/"+n.Name(), "leads to a container of another name")
			}
		}
	}
	return r
}

// Repair makes the names of the containers lead to them again. It returns the files that it made right.
func (s *Store) Repair(ctx context.Context) (done []string, err error) {
	for _, f := range s.check(ctx).Findings {
		link := filepath.Join(filepath.Dir(s.dir), f.File)
		if filepath.Dir(link) != filepath.Join(s.dir, "names") || !ValidName(filepath.Base(link)) {
			continue
		}
		err := os.Remove(link)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		for _, id := range s.idsNamed(f.Container) {
			if err == nil {
				err = os.Symlink("../"+id, link)
			}
		}
		if err != nil {
			return done, fmt.Errorf("repair name %s: %w", f.Container, err)
		}
		done = append(done, f.File)
	}
	return done, nil
}

// idsNamed are the containers whose record says that they have a name: at most one.
func (s *Store) idsNamed(name string) []string {
	ids, _ := s.ids()
	for _, id := range ids {
		var c Config
		if readJSON(s.path(id, "config.json"), &c) == nil && c.ID == id && c.Name == name {
			return []string{id}
		}
	}
	return nil
}
