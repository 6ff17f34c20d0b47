package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// ErrNotRunning says that a container has no process to do something with, ErrPaused that its processes stand still.
var (
	ErrNotRunning = errors.New("container is not running")
	ErrPaused     = errors.New("container is paused")
)

// notRunning is ErrNotRunning with how the container is instead, or was when it was looked at.
func notRunning(c *Container) error {
	if c.State.Pid != 0 {
		return errEnded
	}
	return &kindError{fmt.Sprintf("it is not running (%s)", c.State.Status), ErrNotRunning}
}

// signal sends a signal to the container's first process, and to no stranger that has its pid by now: the pid is that of the process which
// began when the record says, and whose monitor has not reaped it, for that holds the lock. Where the process has ended, the error is
// ErrNotRunning.
func (s *Store) signal(c *Container, sig unix.Signal) error {
	p, err := s.process(c)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := unix.PidfdSendSignal(int(p.Fd()), sig, nil, 0); err == unix.ESRCH {
		return notRunning(c)
	} else if err != nil {
		return fmt.Errorf("send %v to process %d: %w", sig, c.State.Pid, err)
	}
	s.happened(&c.Config, "kill", "signal", strconv.Itoa(int(sig)))
	return nil
}

// process opens the container's first process (pidfd_open(2)).
func (s *Store) process(c *Container) (*os.File, error) {
	if c.State.Pid == 0 {
		return nil, notRunning(c)
	}
	p, err := openProcess(c.State.Pid, c.pidStart)
	if errors.Is(err, unix.ESRCH) {
		return nil, notRunning(c)
	}
	if err != nil {
		return nil, err
	}
	if monitored, err := s.monitored(c.ID); err != nil || !monitored {
		p.Close()
		return nil, errors.Join(notRunning(c), err)
	}
	return p, nil
}

// openProcess opens the process that has a pid and began then; another one, or none, is ESRCH.
func openProcess(pid int, began uint64) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // so that await can leave the waiting to Go's poller
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := os.NewFile(uintptr(fd), "process")
	if at, err := startTime(pid); err != nil || began != 0 && at != began {
		p.Close()
		return nil, fmt.Errorf("open process %d: %w", pid, unix.ESRCH)
	}
	return p, nil
}

// await waits until a process has ended, and says whether it has. A time of 0 is for ever.
func await(ctx context.Context, p *os.File, most time.Duration) (ended bool, err error) {
	rc, err := p.SyscallConn()
	if err != nil {
		return false, err
	}
	var until time.Time
	if most > 0 {
		until = time.Now().Add(most)
	}
	if err := p.SetReadDeadline(until); err != nil {
		return false, fmt.Errorf("wait for a process: %w", err)
	}
	defer context.AfterFunc(ctx, func() { p.SetReadDeadline(time.Unix(1, 0)) })()
	err = rc.Read(func(fd uintptr) bool { // a pidfd is readable when its process has ended (pidfd_open(2))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ended = n > 0
		return ended || err != nil && err != unix.EINTR
	})
	switch {
	case ended:
		return true, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		return false, fmt.Errorf("wait for a process: %w", err)
	}
	return false, nil
}

// Kill sends a signal to the container's first process. One that would end it ends its restarting, too (docker kill).
func (s *Store) Kill(ctx context.Context, c *Container, sig unix.Signal) error {
	err := s.kill(ctx, c, sig)
	if err != nil {
		return fmt.Errorf("kill container %s: %w", c.Name, err)
	}
	return nil
}

func (s *Store) kill(ctx context.Context, c *Container, sig unix.Signal) error {
	c, err := s.begun(ctx, c)
	if err != nil {
		return err
	}
	stop, _ := c.EndsBy()
	ends := sig == unix.SIGKILL || sig == stop
	if ends && c.State.Status == StatusRestarting { // as docker: there is nobody to send it to, and there will be nobody
		return s.stop(ctx, c, new(time.Duration))
	}
	if c.State.Pid == 0 {
		return notRunning(c)
	}
	if ends {
		if err := s.stopping(c); err != nil {
			return err
		}
	}
	if err := s.signal(c, sig); err != nil {
		return err
	}
	if sig == unix.SIGKILL && c.State.Status == StatusPaused { // it is delivered when the processes go on (v1; v2 kills the frozen, too)
		return s.thaw(c)
	}
	return nil
}

// stopping records that the user ends the container: whatever its restart policy, its monitor leaves it ended.
func (s *Store) stopping(c *Container) error {
	err := os.WriteFile(s.volatile(&c.Config, "stopping"), nil, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return notRunning(c)
	}
	failpoint.Hit("stop/recorded")
	return err
}

// Stop asks the container's first process to end, by its stop signal, and kills it after timeout; a negative one waits for ever. It returns
// when the end is on record. A container that does not run is left as it is.
func (s *Store) Stop(ctx context.Context, c *Container, timeout *time.Duration) error {
	err := s.stop(ctx, c, timeout)
	if errors.Is(err, ErrNotRunning) || errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	s.happened(&c.Config, "stop")
	return nil
}

func (s *Store) stop(ctx context.Context, c *Container, timeout *time.Duration) error {
	c, err := s.begun(ctx, c)
	if err != nil {
		return err
	}
	if !c.State.Running() {
		return notRunning(c)
	}
	// Said first: whatever happens from here on, it is not started again, but for a start that has begun already.
	if err := s.stopping(c); err != nil {
		return err
	}
	for {
		err := s.stopProcess(ctx, c, timeout)
		if !errors.Is(err, ErrNotRunning) {
			return err
		}
		// It has ended by itself, and is recorded or, by its restart policy, waits: that is called off, or is a new process by now.
		if err := s.callOff(ctx, c); !errors.Is(err, ErrInUse) {
			return err
		}
		now, err := s.load(ctx, c.ID)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if now.State.Pid == 0 || now.State.Pid == c.State.Pid && now.pidStart == c.pidStart {
			return s.settle(ctx, now, 10*time.Second)
		}
		c = now
	}
}

// stopProcess ends the container's first process as Stop says.
func (s *Store) stopProcess(ctx context.Context, c *Container, timeout *time.Duration) error {
	sig, after := c.EndsBy()
	patience := time.Duration(after) * time.Second
	if timeout != nil {
		patience = *timeout
	}
	p, err := s.process(c)
	if err != nil {
		return err
	}
	defer p.Close()
	if patience != 0 {
		if err := s.signal(c, sig); err != nil {
			return err
		}
		if c.State.Status == StatusPaused {
			if err := s.thaw(c); err != nil {
				return err
			}
		}
		ended, err := await(ctx, p, max(patience, 0))
		if err != nil {
			return err
		}
		if ended {
			return s.settle(ctx, c, 10*time.Second)
		}
	}
	if err := s.signal(c, unix.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	if err := s.thaw(c); err != nil {
		return err
	}
	ended, err := await(ctx, p, time.Second)
	if err == nil && !ended {
		s.endExecs(c)
		ended, err = await(ctx, p, 20*time.Second) // the host's first process reaps what they leave, in its own time
	}
	if err == nil && !ended {
		err = fmt.Errorf("process %d does not end, although it was killed", c.State.Pid)
	}
	if err != nil {
		return err
	}
	return s.settle(ctx, c, 10*time.Second)
}

// callOff ends the time between two runs. It is ErrInUse where the container's monitor goes on.
func (s *Store) callOff(ctx context.Context, c *Container) error {
	conn, err := s.dial(c)
	if err == nil {
		if err = conn.Greet(monitor.Hello{}); err == nil {
			err = conn.Signal(unix.SIGTERM)
		}
		conn.Close()
	}
	if err != nil && !errors.Is(err, ErrNotRunning) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	return s.settle(ctx, c, 500*time.Millisecond)
}

// settle waits until the monitor has recorded the end of a container whose first process is gone. A monitor that does not do that (it is
// stopped, or starved) is told of.
func (s *Store) settle(ctx context.Context, c *Container, patience time.Duration) error {
	f, err := os.Open(s.path(c.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if standsStill(c.monitor) {
		patience = min(patience, 200*time.Millisecond)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = flock.Lock(limited, f, unix.LOCK_SH, "waiting for the monitor of container "+c.Name+" to record its end")
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &kindError{fmt.Sprintf("its process has ended, but its monitor (process %d) does not record that: `rm -f` does without it", c.monitor), ErrInUse}
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// standsStill says whether a process is stopped by a signal or a tracer (proc(5), /proc/PID/stat, the state).
func standsStill(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	after := b[bytes.LastIndexByte(b, ')')+1:]
	return bytes.HasPrefix(after, []byte(" T")) || bytes.HasPrefix(after, []byte(" t"))
}

// Wait waits until a container does not run, and returns its exit status.
func (s *Store) Wait(ctx context.Context, c *Container) (int, error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("wait for container %s: %w", c.Name, err) }
	if c.State.Status == StatusExited {
		return c.State.ExitCode, nil
	}
	if c.State.Status == StatusCreated && !c.starting {
		return 0, nil // as docker: it has no process
	}
	// Both are opened before anything is waited for: a container that is to be removed takes them with it.
	f, err := os.Open(s.path(c.ID))
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	state, err := os.Open(s.volatile(&c.Config, "state.json"))
	if err == nil {
		defer state.Close()
	}
	if conn, err := s.dial(c); err == nil {
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		if err = conn.Greet(monitor.Hello{}); err == nil {
			var code int
			if code, err = monitor.Attach(conn, monitor.AttachOptions{}); err == nil {
				return code, nil
			}
		}
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
	}
	if err := flock.Lock(ctx, f, unix.LOCK_SH, ""); err != nil {
		return fail(err)
	}
	var e ended
	if err := s.readRecord(c.ID, "exit.json", &e); err == nil && !e.Begun {
		return e.ExitCode, nil
	}
	if state != nil {
		var r running
		if err := json.NewDecoder(state).Decode(&r); err == nil && r.ExitCode != nil {
			return *r.ExitCode, nil
		}
	}
	if now, err := s.load(ctx, c.ID); err == nil {
		return now.State.ExitCode, nil
	}
	return fail(&kindError{"it was removed, and nobody knows how it ended", ErrNotFound})
}

// Pause stops every process of a running container until Unpause is called (docker pause).
func (s *Store) Pause(ctx context.Context, c *Container) error {
	fail := func(err error) error { return fmt.Errorf("pause container %s: %w", c.Name, err) }
	c, err := s.begun(ctx, c)
	if err == nil {
		err = mayPause(c)
	}
	if err != nil {
		return fail(err)
	}
	held, err := s.holdPaused(ctx, c)
	if err != nil {
		return fail(err)
	}
	defer held.Close()
	defer os.Remove(held.Name())
	file := s.volatile(&c.Config, "pause")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return fail(err)
	}
	failpoint.Hit("pause/recorded")
	if err := cgroup.Of(c.ID).Freeze(ctx); err != nil {
		os.Remove(file)
		if errors.Is(err, cgroup.ErrNoFreezer) {
			err = fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return fail(err)
	}
	failpoint.Hit("pause/done")
	s.happened(&c.Config, "pause")
	return nil
}

func mayPause(c *Container) error {
	switch {
	case c.State.Status == StatusPaused:
		return &kindError{"it is paused already", ErrPaused}
	case c.State.Status != StatusRunning:
		return notRunning(c)
	}
	return nil
}

func mayUnpause(c *Container) error {
	if c.State.Status != StatusPaused {
		return &kindError{fmt.Sprintf("it is not paused (%s)", c.State.Status), ErrInvalid}
	}
	return nil
}

// Unpause lets the processes of a paused container go on.
func (s *Store) Unpause(ctx context.Context, c *Container) error {
	fail := func(err error) error { return fmt.Errorf("unpause container %s: %w", c.Name, err) }
	if err := mayUnpause(c); err != nil {
		return fail(err)
	}
	held, err := s.holdPaused(ctx, c)
	if err != nil {
		return fail(err)
	}
	defer held.Close()
	defer os.Remove(held.Name())
	if err := s.thaw(c); err != nil {
		return fail(err)
	}
	s.happened(&c.Config, "unpause")
	return nil
}

// thaw lets the processes of a container go on, whoever has paused it.
func (s *Store) thaw(c *Container) error {
	if err := unlessGone(os.Remove(s.volatile(&c.Config, "pause"))); err != nil {
		return err
	}
	failpoint.Hit("unpause/recorded")
	return cgroup.Of(c.ID).Thaw()
}

// begun waits for a container that is being started, and returns it as it is then.
func (s *Store) begun(ctx context.Context, c *Container) (*Container, error) {
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for c.starting && limited.Err() == nil {
		conn, err := s.dial(c)
		if err == nil {
			stop := context.AfterFunc(limited, func() { conn.Close() })
			if err = conn.Greet(monitor.Hello{}); err == nil {
				conn.WaitStarted() // or it could not be started: its record says so
			}
			stop()
			conn.Close()
		} else if errors.Is(err, ErrNotRunning) {
			// Its monitor does not listen yet, or never will (run --rm in the foreground), or has no directory yet that could be watched, or
			// it is another command that has the lock, which tells nobody.
			time.Sleep(10 * time.Millisecond)
		} else {
			return c, err
		}
		now, err := s.load(ctx, c.ID)
		if err != nil {
			return c, err
		}
		c = now
	}
	return c, nil
}

// dial connects to a container's monitor. It is ErrNotRunning where nobody listens.
func (s *Store) dial(c *Container) (*monitor.Conn, error) {
	conn, err := monitor.Dial(s.volatile(&c.Config, "attach"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		err = notRunning(c)
	}
	return conn, err
}
