package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/runtime/monitor"
)

// load reads a container, and settles what a crash left of it. It returns ErrNotFound for one that is gone, or was never whole.
func (s *Store) load(ctx context.Context, id string) (*Container, error) {
	c := &Container{}
	var err error
	c.Config, err = s.readConfig(id)
	if err == nil && c.Version != configVersion {
		err = fmt.Errorf("container %.12s was made by another version of layerctl (%d): %w", id, c.Version, ErrUnsupported)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("container %.12s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	monitored, err := s.monitored(id)
	if err != nil {
		return nil, err
	}
	if monitored {
		s.observe(c)
		return c, nil
	}
	// Nobody monitors it, and its volatile state is there: a crash left that.
	if _, err := os.Lstat(s.volatile(&c.Config)); err == nil || c.AutoRemove {
		if err := s.bury(ctx, c); err != nil {
			c.State = State{Status: StatusExited, ExitCode: 255, Error: err.Error()}
			if c.AutoRemove {
				c.State.Status = StatusDead
			}
			return c, nil
		}
		if c.AutoRemove {
			return nil, fmt.Errorf("container %.12s: %w", id, ErrNotFound)
		}
	}
	var e ended
	switch err := s.readRecord(id, "exit.json", &e); {
	case err == nil:
		c.State = e.state()
	case errors.Is(err, fs.ErrNotExist):
		c.State = State{Status: StatusCreated}
	default:
		return nil, err
	}
	return c, nil
}

// state is how a container is whose end is recorded.
func (e *ended) state() State {
	st := State{Status: StatusExited, ExitCode: e.ExitCode, Error: e.Error, OOMKilled: e.OOMKilled, RestartCount: e.RestartCount, StartedAt: e.StartedAt, FinishedAt: e.FinishedAt}
	switch {
	case e.Begun:
		st.ExitCode, st.Error = 255, cmp.Or(e.Error, "its run root was emptied, as by a reboot; nobody saw how it ended")
	case e.StartedAt.IsZero():
		st.Status = StatusCreated // it could not be started
	}
	return st
}

// observe says how a container is that has a monitor.
func (s *Store) observe(c *Container) {
	c.State, c.starting = State{Status: StatusCreated}, true
	var r running
	path := s.volatile(&c.Config, "state.json")
	err := readVolatile(path, &r)
	switch {
	case err != nil && exists(path):
		r, err = s.ask(c)
	case err == nil && r.Pid != 0:
		if began, perr := startTime(r.Pid); perr == nil && began != r.PidStart { // a stranger's pid
			if now, aerr := s.ask(c); aerr == nil {
				r = now
			}
		}
	}
	if err != nil {
		return // it has not begun, as far as anybody knows
	}
	c.monitor, c.pidStart = r.Monitor, r.PidStart
	switch {
	case r.Pid != 0:
		c.starting = false
		c.State = State{Status: StatusRunning, Pid: r.Pid, StartedAt: r.StartedAt, RestartCount: r.Restarts}
		s.resumeLeft(c)
		if exists(s.volatile(&c.Config, "pause")) {
			if frozen, err := cgroup.Of(c.ID).Frozen(); err == nil && frozen {
				c.State.Status = StatusPaused
			}
		}
	case r.Last != nil:
		c.starting = false
		c.State = r.Last.state()
		c.State.Status, c.State.RestartCount = StatusRestarting, r.Restarts
	case r.ExitCode != nil: // it is being removed
		c.starting = false
		c.State = State{Status: StatusExited, ExitCode: *r.ExitCode}
	}
}

// ask asks a container's monitor what state.json does not say, or says wrong: it is half written yet, or somebody has damaged it.
func (s *Store) ask(c *Container) (r running, err error) {
	conn, err := s.dial(c)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	late := time.AfterFunc(200*time.Millisecond, func() { conn.Close() }) // it has not begun, or is stopped
	defer late.Stop()
	if err = conn.Greet(monitor.Hello{}); err == nil {
		r.Pid, err = conn.WaitStarted()
	}
	if err == nil {
		r.PidStart, err = startTime(r.Pid)
	}
	if err != nil {
		return r, err
	}
	r.Monitor = s.findMonitor(c.ID)
	var e ended
	if s.readRecord(c.ID, "exit.json", &e) == nil && e.Begun {
		r.StartedAt, r.Restarts = e.StartedAt, e.RestartCount
	}
	return r, nil
}
