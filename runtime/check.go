package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Finding is something of a container that is not as it was written.
type Finding struct{ Container, File, Problem string }

// CheckReport is what Check found.
type CheckReport struct {
	Findings   []Finding
	Containers int
	Names      map[string]string // what the active snapshot of that key belongs to: the container's name
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
	r := &CheckReport{Names: map[string]string{}}
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
		c, err := s.readConfig(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // being made, or removed
		}
		r.Containers++
		if err != nil {
			name := s.nameOf(id)
			r.Names[snapshotKey(id)] = name
			find(name, id+"/config.json", "is damaged")
			continue
		}
		r.Names[snapshotKey(id)] = c.Name
		named[c.Name] = id
		for _, name := range []string{"config.json", "exit.json"} {
			if b, err := readBytes(s.path(id, name)); err == nil && rowdb.Unsealed(b) {
				find(c.Name, id+"/"+name, "has no checksum")
			}
		}
		if !s.leadsTo(c.Name, id) && s.misnamed(ctx, c.Name, id) {
			missing(&c, "names/"+c.Name, "does not lead to its container")
		}
		var e ended
		if err := s.readRecord(id, "exit.json", &e); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
			// It may have been made since the containers were listed.
			if s.strayName(n.Name(), id) && s.misnamed(ctx, n.Name(), id) {
				find(n.Name(), "names/"+n.Name(), "leads to a container of another name")
			}
		}
	}
	return r
}

// claimOf is what a container knows of its snapshot. record is where its config.json is.
func claimOf(c *Config, record string) snapshot.Claim {
	claim := snapshot.Claim{Parent: c.Image.Chain}
	if c.RootFS != "" {
		claim = snapshot.Claim{Dirs: []string{c.RootFS}}
	}
	if b, err := readBytes(record); err == nil && !c.AutoRemove && !rowdb.Unsealed(b) {
		claim.Labels = map[string]string{copyLabel: string(b)}
	}
	return claim
}

// nameOf is the name of a container that cannot say it: of the link that leads to it, or else the beginning of its ID.
func (s *Store) nameOf(id string) string {
	names, _ := os.ReadDir(filepath.Join(s.dir, "names"))
	for _, n := range names {
		if target, err := os.Readlink(filepath.Join(s.dir, "names", n.Name())); err == nil && filepath.Base(target) == id {
			return n.Name()
		}
	}
	return id[:12]
}
