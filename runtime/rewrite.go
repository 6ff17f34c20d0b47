package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// lockNames locks containers/names. Who rewrites a record, or takes away a name that may be somebody's, has it alone (unix.LOCK_EX); who
// removes a container shares it (unix.LOCK_SH) for the moments in which its record and its name go. Making a name needs no lock.
func (s *Store) lockNames(ctx context.Context, how int) (*os.File, error) {
	f, err := os.Open(filepath.Join(s.dir, "names"))
	if err == nil {
		err = flock.Lock(ctx, f, how, "waiting for another process that renames a container")
	}
	if err != nil {
		return nil, fmt.Errorf("hold the names of containers: %w", err)
	}
	return f, nil
}

// Rename gives a container another name, whether it runs or not. It returns ErrExists for one that is in use, and ErrInvalid for one that
// cannot be. There is no moment at which neither name is the container's, and none at which a look-up finds it by both.
func (s *Store) Rename(ctx context.Context, c *Container, name string) error {
	fail := func(err error) error { return fmt.Errorf("rename container %s: %w", c.Name, err) }
	if err := checkName(name); err != nil {
		return fail(err)
	}
	if target, err := os.Readlink(filepath.Join(s.dir, "names", name)); err == nil {
		s.sweep(ctx, filepath.Base(target)) // a container that was never made to the end has no name
	}
	old := ""
	names, err := s.rewrite(ctx, c.ID, func(now *Config, names *os.File) error {
		if now.Name == name {
			return invalid("that is its name")
		}
		if err := s.claimName(ctx, name, c.ID, names); err != nil {
			return err
		}
		failpoint.Hit("rename/claimed")
		old, now.Name = now.Name, name
		return nil
	})
	if names != nil {
		defer names.Close()
	}
	if err != nil {
		if old != "" {
			s.sweepName(name, c.ID)
		}
		return fail(err)
	}
	if err := s.unname(old, c.ID); err != nil {
		return fail(err)
	}
	failpoint.Hit("rename/unnamed")
	now := c.Config
	now.Name = name
	s.happened(&now, "rename", "oldName", old)
	if c.AutoRemove {
		return nil
	}
	if err := snapshot.SyncDir(names.Name()); err != nil {
		return fail(err)
	}
	return nil
}

// SetRestart gives a container another restart policy, which its monitor heeds from its next end on.
func (s *Store) SetRestart(ctx context.Context, c *Container, policy string) error {
	fail := func(err error) error { return fmt.Errorf("update container %s: %w", c.Name, err) }
	p, err := ParseRestart(policy)
	if err != nil {
		return fail(err)
	}
	names, err := s.rewrite(ctx, c.ID, func(now *Config, _ *os.File) error {
		now.Restart = p
		if p.Name != "" && now.AutoRemove {
			return invalid("--restart %s: it is removed when it ends", p)
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	s.happened(&c.Config, "update")
	return names.Close()
}

// rewrite changes a container's record: first the copy that its snapshot has, then config.json, so that a crash leaves the old record or
// the new one, and what the new one needs stands before it. The names are locked while change works, and afterwards for the caller.
func (s *Store) rewrite(ctx context.Context, id string, change func(c *Config, names *os.File) error) (names *os.File, err error) {
	defer func() {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, snapshot.ErrNotFound) {
			err = ErrNotFound
		}
		if err != nil && names != nil {
			names.Close()
			names = nil
		}
	}()
	c, err := s.readConfig(id)
	if err != nil {
		return nil, err
	}
	kept, before, after := !c.AutoRemove, "", ""
	write := func(labels map[string]string) error {
		if names, err = s.lockNames(ctx, unix.LOCK_EX); err != nil {
			return err
		}
		if c, err = s.readConfig(id); err != nil { // removed, or rewritten meanwhile
			return err
		}
		if err := change(&c, names); err != nil {
			return err
		}
		b, err := seal(id, "config.json", c)
		before, after = labels[copyLabel], string(b)
		labels[copyLabel] = after
		return err
	}
	if kept {
		err = s.snaps.Relabel(ctx, snapshotKey(id), write)
	} else {
		err = write(map[string]string{})
	}
	failpoint.Hit("rewrite/copied")
	if err == nil {
		err = snapshot.WriteFile(s.path(id, "config.json"), []byte(after), kept)
		if err != nil && kept { // as far as that disk lets us
			s.snaps.Relabel(ctx, snapshotKey(id), func(labels map[string]string) error { labels[copyLabel] = before; return nil })
		}
	}
	failpoint.Hit("rewrite/recorded")
	return names, err
}

// unname takes a container's name away, where it leads to it. The names must be locked, be it with others.
func (s *Store) unname(name, id string) error {
	link := filepath.Join(s.dir, "names", name)
	target, err := os.Readlink(link)
	if err == nil && filepath.Base(target) == id {
		err = os.Remove(link)
	}
	return unlessGone(err)
}

// claimName makes the link that reserves a name. One that leads nowhere, or to a container that was not made or removed to the end, or that
// has another name by its record, was left by a crash. names is the lock of the names where the caller has it; what was not made to the end
// he has swept.
func (s *Store) claimName(ctx context.Context, name, id string, names *os.File) error {
	link := filepath.Join(s.dir, "names", name)
	fail := func(err error) error { return fmt.Errorf("name container %s: %w", name, err) }
	for range 10 {
		err := os.Symlink("../"+id, link)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return fail(err)
		}
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		other := filepath.Base(target)
		if names == nil {
			s.sweep(ctx, other) // which takes names' lock itself
		}
		if !s.strayName(name, other) {
			return &kindError{fmt.Sprintf("name container %s: container %.12s has that name", name, other), ErrExists}
		}
		if names == nil { // it may be a rename under way: look again when that is over
			if names, err = s.lockNames(ctx, unix.LOCK_EX); err != nil {
				return fail(err)
			}
			defer names.Close()
			continue
		}
		if err := s.unname(name, other); err != nil {
			return fail(err)
		}
	}
	return fail(ErrExists)
}

// strayName says whether a name that leads to a container is not that container's, for good if the names are locked.
func (s *Store) strayName(name, id string) bool {
	if _, err := os.Lstat(s.path(id)); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	c, err := s.readConfig(id)
	return err == nil && c.Name != name
}

// leadsTo says whether a name leads to a container.
func (s *Store) leadsTo(name, id string) bool {
	target, err := os.Readlink(filepath.Join(s.dir, "names", name))
	return err == nil && target == "../"+id
}

// misnamed says whether a name and a container's record contradict each other while nobody renames.
func (s *Store) misnamed(ctx context.Context, name, id string) bool {
	names, err := s.lockNames(ctx, unix.LOCK_SH)
	if err != nil {
		return true
	}
	defer names.Close()
	c, err := s.readConfig(id)
	return err == nil && s.leadsTo(name, id) != (c.Name == name)
}

// sweepName takes a name away that leads to nothing, or to a container of another name, unless somebody renames just now.
func (s *Store) sweepName(name, id string) {
	names, err := os.Open(filepath.Join(s.dir, "names"))
	if err != nil {
		return
	}
	defer names.Close()
	if flock.Try(names, unix.LOCK_EX) == nil && s.strayName(name, id) {
		s.unname(name, id)
	}
}
