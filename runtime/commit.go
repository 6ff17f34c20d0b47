package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// Key is the key of the container's active snapshot.
func (c *Config) Key() string { return snapshotKey(c.ID) }

// Settings are those that the container was made with: its image's, and what the user has set instead.
func (c *Config) Settings() Settings {
	s := c.Image.Settings
	s.Entrypoint, s.Cmd = slices.Clone(c.Command[:c.Entrypoint]), slices.Clone(c.Command[c.Entrypoint:])
	s.User, s.Labels = c.User, c.Labels
	if c.StopSignal != "" {
		s.StopSignal = c.StopSignal
	}
	if c.WorkDir != "/" || s.WorkingDir != "" {
		s.WorkingDir = c.WorkDir
	}
	s.Env = slices.Clone(s.Env)
	for _, kv := range c.Env {
		name, _, given := strings.Cut(kv, "=")
		at := slices.IndexFunc(s.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		switch {
		case at >= 0 && given:
			s.Env[at] = kv
		case at >= 0:
			s.Env = slices.Delete(s.Env, at, at+1)
		case given:
			s.Env = append(s.Env, kv)
		}
	}
	return s
}

// Suspend stops every process of a container until resume is called; a container that does not run need not be stopped. Who is killed
// meanwhile leaves it stopped: it goes on when the next command looks at it. It returns ErrUnsupported where the container has no freezer.
func (s *Store) Suspend(ctx context.Context, c *Container) (resume func() error, err error) {
	nothing := func() error { return nil }
	if c.State.Pid == 0 {
		return nothing, nil
	}
	fail := func(err error) (func() error, error) { return nil, fmt.Errorf("pause container %s: %w", c.Name, err) }
	held, err := s.holdPaused(ctx, c)
	if errors.Is(err, ErrNotRunning) {
		return nothing, nil // it has ended
	}
	if err != nil {
		return fail(err)
	}
	failpoint.Hit("pause/held")
	group := cgroup.Of(c.ID)
	err = group.Freeze(ctx)
	failpoint.Hit("pause/frozen")
	resume = func() error {
		var err error
		if !exists(s.volatile(&c.Config, "pause")) { // else its user has paused it
			err = group.Thaw()
		}
		failpoint.Hit("pause/thawed")
		return errors.Join(err, unlessGone(os.Remove(held.Name())), held.Close())
	}
	if err == nil {
		return resume, nil
	}
	rerr := resume()
	if monitored, merr := s.monitored(c.ID); merr == nil && !monitored {
		return nothing, nil
	}
	if errors.Is(err, cgroup.ErrNoFreezer) {
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fail(errors.Join(err, rerr))
}

func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// holdPaused makes the file that says who has stopped a container: whoever holds its lock. Where somebody else has, it waits for him. It is
// ErrNotRunning where the container has ended.
func (s *Store) holdPaused(ctx context.Context, c *Container) (*os.File, error) {
	path := s.volatile(&c.Config, "paused")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, notRunning(c)
		}
		if err != nil {
			return nil, err
		}
		if err := flock.Lock(ctx, f, unix.LOCK_EX, "waiting for another process that has paused the container "+c.Name); err != nil {
			return nil, err
		}
		same, err := isAt(f, path)
		if err == nil && same {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// resumeLeft lets a container go on that was paused by somebody who is gone.
func (s *Store) resumeLeft(c *Container) {
	if f := snapshot.LockIdle(s.volatile(&c.Config, "paused")); f != nil {
		if exists(s.volatile(&c.Config, "pause")) || cgroup.Of(c.ID).Thaw() == nil {
			os.Remove(f.Name())
		}
		f.Close()
	}
}
