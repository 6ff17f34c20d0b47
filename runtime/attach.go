package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Create makes a container that is not started.
func (s *Store) Create(ctx context.Context, o CreateOptions) (*Config, error) {
	r, err := s.create(ctx, o)
	if err != nil {
		return nil, &ExitError{exitCode(err), fmt.Errorf("create: %w", err)}
	}
	err = os.RemoveAll(r.RunDir)
	r.lock.Close()
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	return &r.Config, nil
}

// StartOptions say how whoever starts a container, or attaches to one, is connected with it.
type StartOptions struct {
	Attach     bool   // to its output, until it ends
	Input      bool   // and its input, of a container made with it
	DetachKeys []byte // what detaches from a terminal; nil is monitor.DefaultDetachKeys
}

// Start starts a container that does not run. Attached, it returns the exit status; else 0 when the command has begun. One that runs
// already is left as it is; one that waits for its restart policy to start it again has waited long enough.
func (s *Store) Start(ctx context.Context, c *Container, o StartOptions, streams IO) (int, error) {
	code, err := s.start(ctx, c, o, streams)
	if err != nil && !errors.Is(err, monitor.ErrDetached) {
		var failed *ExitError
		if !errors.As(err, &failed) {
			err = &ExitError{exitCode(err), err}
		}
		err = fmt.Errorf("start container %s: %w", c.Name, err)
	}
	return code, err
}

func (s *Store) start(ctx context.Context, c *Container, o StartOptions, streams IO) (int, error) {
	switch {
	case c.State.Status == StatusPaused:
		return 0, &kindError{"it is paused", ErrPaused}
	case c.State.Status == StatusRestarting, c.State.Status == StatusRunning && o.Attach:
		return s.connect(ctx, c, o, streams)
	case c.State.Status == StatusRunning:
		return 0, nil
	}
	if o.Input && c.Interactive {
		if err := checkInput(c.TTY, streams.Stdin); err != nil {
			return 0, err
		}
	}
	r, err := s.holdIdle(ctx, c)
	if errors.Is(err, errBusy) { // with another start, perhaps: then it will run in a moment
		if now, lerr := s.load(ctx, c.ID); lerr == nil {
			if now, lerr = s.begun(ctx, now); lerr == nil && now.State.Running() {
				return s.start(ctx, now, o, streams)
			}
		}
	}
	if err != nil {
		return 0, err
	}
	r.signals = monitor.Catch()
	failpoint.Hit("start/volatile")
	a := attachment{output: o.Attach, input: o.Input && c.Interactive, keys: o.DetachKeys}
	code, err := s.runMonitored(r, a, streams)
	if errors.Is(err, errNoMonitor) {
		s.removeVolatile(&r.Config)
	}
	return code, err
}

// errBusy says that somebody else has a container's lock, who is not known to be its monitor.
var errBusy = errors.New("busy")

// holdIdle holds a container that does not run, for a start, and reads it again: it may have been removed meanwhile.
func (s *Store) holdIdle(ctx context.Context, c *Container) (*recorded, error) {
	lock, err := s.hold(ctx, c.ID, 250*time.Millisecond) // for those who only look
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &kindError{"another command is starting or removing it", errBusy}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	r := &recorded{lock: lock}
	if r.Config, err = s.readConfig(c.ID); errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err == nil {
		err = s.makeVolatile(&r.Config)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return r, nil
}

// makeVolatile makes the directory for a container's volatile state again, empty.
func (s *Store) makeVolatile(c *Config) error {
	dir := s.volatile(c)
	if err := endProcesses(c.ID); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// Attach connects the caller's streams with a running container's until it ends, and returns its exit status. A user who detaches gets
// monitor.ErrDetached.
func (s *Store) Attach(ctx context.Context, c *Container, o StartOptions, streams IO) (int, error) {
	code, err := s.attach(ctx, c, o, streams)
	if err != nil && !errors.Is(err, monitor.ErrDetached) {
		err = fmt.Errorf("attach to container %s: %w", c.Name, err)
	}
	return code, err
}

func (s *Store) attach(ctx context.Context, c *Container, o StartOptions, streams IO) (int, error) {
	c, err := s.begun(ctx, c)
	if err != nil {
		return 0, err
	}
	switch {
	case c.State.Status == StatusPaused:
		return 0, &kindError{"it is paused", ErrPaused}
	case c.State.Status == StatusRestarting:
		return 0, &kindError{"it is restarting: wait until it runs", ErrNotRunning}
	case c.State.Status != StatusRunning:
		return 0, notRunning(c)
	}
	return s.connect(ctx, c, o, streams)
}

// connect connects the caller's streams with a container that has a monitor. One that is between two runs starts the next now. Without
// o.Attach it returns as soon as the container runs.
func (s *Store) connect(ctx context.Context, c *Container, o StartOptions, streams IO) (int, error) {
	if standsStill(c.monitor) {
		return 0, fmt.Errorf("its monitor (process %d) is stopped, and cannot give what the container prints: SIGCONT lets it go on", c.monitor)
	}
	conn, err := s.dial(c)
	if errors.Is(err, ErrNotRunning) {
		now, lerr := s.load(ctx, c.ID)
		switch {
		case lerr != nil:
			err = lerr
		case !now.State.Running():
			err = notRunning(now)
		case c.AutoRemove:
			err = &kindError{fmt.Sprintf("it runs in the foreground of another command (process %d), which has its streams", c.monitor), ErrUnsupported}
		default:
			err = fmt.Errorf("its monitor (process %d) cannot be reached: somebody has taken away its socket", c.monitor)
		}
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	hello := monitor.Hello{Input: o.Input && c.Interactive, Output: o.Attach, Pipe: o.Attach}
	if hello.Input {
		if err := checkInput(c.TTY, streams.Stdin); err != nil {
			return 0, err
		}
	}
	if o.Attach {
		hello.Window(streams.Stdout, streams.Stdin)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	code := 0
	err = conn.Greet(hello)
	if err == nil && c.State.Status == StatusRestarting {
		err = conn.Signal(unix.SIGCONT)
	}
	switch {
	case err != nil:
	case !o.Attach:
		_, err = conn.WaitStarted()
	default:
		s.happened(&c.Config, "attach")
		code, err = monitor.Attach(conn, monitor.AttachOptions{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
			Input: hello.Input, TTY: c.TTY, DetachKeys: o.DetachKeys, Signals: monitor.Catch(), Proxy: true, Warn: s.warn})
	}
	switch {
	case errors.Is(err, monitor.ErrDetached):
		s.happened(&c.Config, "detach")
	case errors.Is(err, monitor.ErrGone), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		now, lerr := s.load(ctx, c.ID)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case lerr != nil:
		case now.State.Status == StatusExited && now.State.Error == "": // before it took us in
			return now.State.ExitCode, nil
		case now.State.Status == StatusRestarting && !o.Attach: // it took us in just before
			return s.connect(ctx, now, o, streams)
		}
	}
	return code, err
}

// Restart stops a container as Stop does, where it runs, and starts it.
func (s *Store) Restart(ctx context.Context, c *Container, timeout *time.Duration) error {
	if err := s.Stop(ctx, c, timeout); err != nil {
		return err
	}
	now, err := s.load(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("restart container %s: %w", c.Name, err)
	}
	if _, err = s.Start(ctx, now, StartOptions{}, IO{}); err == nil {
		s.happened(&c.Config, "restart")
	}
	return err
}
