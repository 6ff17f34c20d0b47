package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/events"
	"github.com/layerctl/layerctl/runtime/logs"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// Logs shows what a container has printed since it was made, as it is in its log. With o.Follow it goes on until the container's monitor has
// ended, through restarts by its policy; o.Ended is Logs' to set.
func (s *Store) Logs(ctx context.Context, c *Container, o logs.ReadOptions, stdout, stderr io.Writer) error {
	fail := func(err error) error { return fmt.Errorf("logs of container %s: %w", c.Name, err) }
	if c.LogDriver == "none" {
		return fail(&kindError{"it keeps no log (--log-driver none)", ErrUnsupported})
	}
	if _, err := os.Lstat(s.path(c.ID, "log")); errors.Is(err, fs.ErrNotExist) && c.AutoRemove && c.State.Pid != 0 {
		return fail(&kindError{"it keeps no log: it has the streams of the command that runs it (run --rm in the foreground)", ErrUnsupported})
	}
	if o.Follow {
		// The monitor has the lock until it has written the last of the log.
		f, err := os.Open(s.path(c.ID))
		if err != nil {
			return fail(err)
		}
		ended := make(chan struct{})
		o.Ended = ended
		waiting, done := context.WithCancel(ctx)
		defer done()
		go func() {
			if flock.Lock(waiting, f, unix.LOCK_SH, "") == nil {
				f.Close()
				close(ended)
			}
		}()
	}
	if err := logs.Read(ctx, s.path(c.ID), o, stdout, stderr); err != nil {
		return fail(err)
	}
	return nil
}

// Happened adds an event to the store's diary. Nothing depends on the diary: where it cannot be written, that is so.
func (s *Store) Happened(e events.Event) {
	events.Append(s.run, e)
}

// happened is Happened of something that happened to a container.
func (s *Store) happened(c *Config, action string, more ...string) {
	s.Happened(EventOf(c, action, more...))
}

// renamed takes in that a container has another name by now: it is read again where its name does not lead to it.
func (s *Store) renamed(r *recorded) {
	if target, err := os.Readlink(filepath.Join(s.dir, "names", r.Name)); err == nil && filepath.Base(target) == r.ID {
		return
	}
	if now, err := s.readConfig(r.ID); err == nil {
		r.Name = now.Name
	}
}

// Events hands what is in the store's diary to f.
func (s *Store) Events(ctx context.Context, o events.ReadOptions, f func(events.Event) error) error {
	return events.Read(ctx, s.run, o, f)
}

// EventOf is something that happened to a container, with what is said of it with each of its events: its name, its image, its labels, and
// further attributes, a name and a value at a time.
func EventOf(c *Config, action string, more ...string) events.Event {
	e := events.Event{Type: events.Container, Action: action, ID: c.ID, Attributes: make(map[string]string, 2+len(c.Labels)+len(more)/2)}
	for k, v := range c.Labels {
		e.Attributes[k] = v
	}
	e.Attributes["name"], e.Attributes["image"] = c.Name, cmp.Or(c.Image.Name, c.RootFS)
	for i := 0; i+1 < len(more); i += 2 {
		e.Attributes[more[i]] = more[i+1]
	}
	return e
}
