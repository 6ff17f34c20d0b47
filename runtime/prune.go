package runtime

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Survey is all that the containers of a store take. Every byte is in one container, in Leftovers, or in Own: names and directories.
type Survey struct {
	Containers []SurveyedContainer
	Leftovers  []snapshot.Item // of containers that are being made, or that a crash left half made
	Own        int64
}

// SurveyedContainer is a container and what it takes on the disk, in bytes as du counts them: its records, and what it has written.
type SurveyedContainer struct {
	Container
	Records, Written int64
}

// ByKey finds the container of an active snapshot; nil for one that is no container's.
func (v *Survey) ByKey(key string) *SurveyedContainer {
	for i := range v.Containers {
		if v.Containers[i].Key() == key {
			return &v.Containers[i]
		}
	}
	return nil
}

// ImageOf is the ID of the image that the container of an active snapshot was made from, or "".
func (v *Survey) ImageOf(key string) string {
	if c := v.ByKey(key); c != nil {
		return c.Image.ID
	}
	return ""
}

// PruneOptions say which containers are removed of those that do not run.
type PruneOptions struct {
	Match func(created time.Time, labels map[string]string) bool // nil is all
}

// Survey looks at every container. What each has written is taken from actives, as the snapshots' survey has them.
func (s *Store) Survey(ctx context.Context, actives []snapshot.Active) (*Survey, error) {
	list, err := s.List(ctx, true)
	if err != nil {
		return nil, err
	}
	written := map[string]int64{}
	for _, a := range actives {
		written[a.Key] = a.Size
	}
	v := &Survey{}
	known := map[string]bool{}
	for _, c := range list {
		records, err := snapshot.DiskUsage(ctx, s.path(c.ID))
		if err != nil {
			return nil, err
		}
		known[c.ID] = true
		v.Containers = append(v.Containers, SurveyedContainer{Container: c, Records: records, Written: written[snapshotKey(c.ID)]})
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if known[id] {
			continue
		}
		item := snapshot.Item{Name: "container " + id, Path: s.path(id)}
		if item.Held, err = s.monitored(id); err != nil {
			return nil, err
		}
		if item.Size, err = snapshot.DiskUsage(ctx, item.Path); err != nil {
			return nil, err
		}
		v.Leftovers = append(v.Leftovers, item)
	}
	v.Own, err = snapshot.OwnUsage(ctx, s.dir, func(name string) bool { return len(name) == 64 })
	return v, err
}

// Plan finds the containers that may go: none that runs or is about to.
func (v *Survey) Plan(o PruneOptions) []SurveyedContainer {
	var list []SurveyedContainer
	for _, c := range v.Containers {
		if s := c.State.Status; s == StatusExited || s == StatusDead || s == StatusCreated && !c.starting {
			if o.Match == nil || o.Match(c.Created, c.Labels) {
				list = append(list, c)
			}
		}
	}
	return list
}

// ExecutePrune removes the containers of a plan, but for those that were started since, and returns the ones that it removed.
func (s *Store) ExecutePrune(ctx context.Context, plan []SurveyedContainer) (removed []SurveyedContainer, err error) {
	for _, c := range plan {
		if ctx.Err() != nil {
			return removed, errors.Join(err, ctx.Err())
		}
		switch rerr := s.Remove(ctx, &c.Container, false); {
		case rerr == nil:
			removed = append(removed, c)
		case !errors.Is(rerr, ErrInUse) && !errors.Is(rerr, snapshot.ErrInUse): // it is mounted, or read
			err = errors.Join(err, rerr)
		}
		failpoint.Hit("prune/container")
	}
	return removed, err
}

// Sweep takes away what a crash left of containers: directories without a record, names and volatile state without a directory, active
// snapshots without a container, with whatever runs in their cgroups.
//
// A cgroup is known by a container's ID, and the machine may have other stores: only those of IDs that are ours in one of these places
// are touched. That is enough, since a container's cgroups are taken away before the last of them.
func (s *Store) Sweep(ctx context.Context) error {
	if _, err := s.List(ctx, true); err != nil { // settles and sweeps on its way
		return err
	}
	actives, err := s.snaps.Actives()
	if err != nil {
		return err
	}
	for _, a := range actives {
		id, ours := strings.CutPrefix(a.Key, snapshotKey(""))
		if !ours || len(id) != 64 {
			continue
		}
		if _, err := os.Lstat(s.path(id)); errors.Is(err, fs.ErrNotExist) {
			s.sweep(ctx, id)
		}
	}
	s.sweepHostDirs()
	cgroup.RemoveParents()
	ids, err := s.ids()
	for _, id := range ids {
		err = errors.Join(err, snapshot.SweepTemporary(s.path(id)))
	}
	return errors.Join(err, snapshot.SweepTemporary(s.root))
}
