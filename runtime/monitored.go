package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/logs"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// attachment is how whoever starts a container is connected with it.
type attachment struct {
	output, input bool
	keys          []byte // that detach; nil is the default
}

// errNoMonitor says that the monitor could not be started: what was made for it is still the caller's.
var errNoMonitor = errors.New("there is no monitor")

// runMonitored hands a container to a monitor of its own and connects the caller's streams with it. Without output it returns when the
// container has started.
func (s *Store) runMonitored(r *recorded, a attachment, streams IO) (int, error) {
	conn, err := launch([]string{monitor.Name, s.root, s.rroot, r.ID}, r.lock, r.PidMode != "")
	r.lock.Close() // the monitor has it now
	if err != nil {
		return 0, fmt.Errorf("start monitor: %w: %w", errNoMonitor, err)
	}
	defer conn.Close()
	hello := monitor.Hello{Input: a.input, Output: a.output, FromStart: true, Pipe: a.input && a.output}
	if a.output {
		hello.Window(streams.Stdout, streams.Stdin)
	}
	code := 0
	if err = conn.Greet(hello); err == nil && a.output {
		code, err = monitor.Attach(conn, monitor.AttachOptions{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
			Input: a.input, TTY: r.TTY, DetachKeys: a.keys, Signals: r.signals, Proxy: true, Hangup: true, Warn: s.warn})
	} else if err == nil {
		_, err = conn.WaitStarted()
	}
	if errors.Is(err, monitor.ErrDetached) {
		s.happened(&r.Config, "detach")
	}
	var failed *monitor.StartError
	if errors.As(err, &failed) {
		return 0, &ExitError{failed.Code, &kindError{failed.Reason, errorOfKind(failed.Kind)}}
	}
	return code, err
}

// launch starts this program again, on the way that leads to MonitorMain, with what it locks and one end of a stream. An exposed one makes a
// process in a pid namespace where others are, who see it before it is the command.
func launch(args []string, lock *os.File, exposed bool) (*monitor.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "caller")
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer null.Close()
	program, done := "/proc/self/exe", func() {}
	if exposed {
		program, done, err = executor.UnwritableSelf()
	}
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer done()
	failpoint.Hit("monitor/starting")
	p, err := os.StartProcess(program, args, &os.ProcAttr{
		Dir: "/", Env: failpoint.Environ(), Files: []*os.File{null, null, null, lock, theirs}, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	p.Release()
	return monitor.NewConn(pair[0])
}

// MonitorMain is the monitor's whole life. Its arguments are the store's root, the run root and the container's ID; descriptor 3 is the
// container's lock, 4 the stream to the caller. After "exec" it is the monitor of a command in a running container: descriptor 3 is then
// its record. It returns the exit status.
func MonitorMain(args []string) int {
	if len(args) == 4 && args[0] == "exec" {
		return execMonitorMain(args[1], args[2], args[3])
	}
	if len(args) != 3 {
		return 125
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	lock := os.NewFile(3, "lock")
	conn, err := monitor.NewConn(4)
	if lock == nil || err != nil {
		return 125
	}
	code, err := monitorContainer(args[0], args[1], args[2], lock, conn)
	if err != nil {
		hub := monitor.NewHub(monitor.HubOptions{})
		hub.Join(conn)
		hub.Fail(exitCode(err), kindOf(err), err.Error())
		return exitCode(err)
	}
	return code
}

// monitorContainer returns the container's last exit status, and an error only where its life has not begun: conn is nobody else's then.
func monitorContainer(root, runRoot, id string, lock *os.File, conn *monitor.Conn) (int, error) {
	defer lock.Close()
	monitor.Drop() // what ends the caller, or its terminal, is not meant for the container
	snaps, err := snapshot.Open(root + "/snapshots")
	if err != nil {
		return 0, err
	}
	snaps.DeleteDetached(true)
	s, err := Open(root, runRoot, snaps)
	if err != nil {
		return 0, err
	}
	r := &recorded{lock: lock}
	if r.Config, err = s.readConfig(id); err != nil {
		return 0, err
	}
	l, err := monitor.Bind(s.volatile(&r.Config, "attach"))
	if err != nil {
		return 0, err
	}
	o := monitor.HubOptions{TTY: r.TTY, Stdin: r.Interactive, StdinOnce: r.StdinOnce}
	if r.LogDriver != "none" {
		if r.log, err = logs.Open(s.path(id), logs.Options(r.LogOpts)); err != nil {
			return 0, err
		}
		o.Log = r.log
	}
	hub := monitor.NewHub(o)
	if err := hub.Listen(l); err != nil {
		return 0, err
	}
	hub.Join(conn)
	failpoint.Hit("monitor/opened")
	return s.live(context.Background(), r, hub), nil
}

// live runs a container, again and again where its restart policy says so, and records each end before it tells anybody. It returns the last
// exit status, which is the monitor's own: that is all that systemd sees of a container.
func (s *Store) live(ctx context.Context, r *recorded, hub *monitor.Hub) int {
	defer r.closeLog() // when the last word is said: who reads slowly is fed from it
	r.signals = hub.Signals()
	delay := firstDelay
	for {
		e, err := s.runOnce(ctx, r, hub)
		hub.Drain()
		stopped := exists(s.volatile(&r.Config, "stopping"))
		again := err == nil && s.again(r, e, stopped)
		e.Stopped = stopped
		if !again {
			if ferr := s.finish(ctx, r, e); err == nil && ferr != nil {
				err = ferr
			}
			r.lock.Close() // who is told of the end may do with the container what he likes
			if err != nil {
				hub.Fail(exitCode(err), kindOf(err), err.Error())
			} else {
				hub.End(e.ExitCode)
			}
			return e.ExitCode
		}
		if e.FinishedAt.Sub(e.StartedAt) >= steady {
			delay = firstDelay
		}
		e.RestartCount = r.restarts
		s.record(r, e, false)
		s.writeState(r, running{RestartAt: time.Now().Add(delay), Last: &e})
		hub.Ended(e.ExitCode)
		if !s.pauseBetween(r, delay) {
			e.Stopped = true
			s.finish(ctx, r, e)
			r.lock.Close()
			hub.End(e.ExitCode)
			return e.ExitCode
		}
		delay = min(2*delay, lastDelay)
		r.restarts++
	}
}

// How long a monitor waits before it starts a container again: twice as long each time, and from the beginning after a run that was steady
// (moby, restartmanager).
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	steady     = 10 * time.Second
)

// again says whether a container that has ended is started again. What the policy is, is read now: it may have been changed.
func (s *Store) again(r *recorded, e ended, stopped bool) bool {
	if c, err := s.readConfig(r.ID); err == nil {
		r.Name, r.Restart = c.Name, c.Restart
	}
	switch r.Restart.Name {
	case "always", "unless-stopped":
		return !stopped
	case "on-failure":
		return !stopped && e.ExitCode != 0 && (r.Restart.Max == 0 || r.restarts < r.Restart.Max)
	}
	return false
}

// pauseBetween waits between two runs, and says whether there is to be another. A SIGCONT ends the wait: somebody wants it to run now.
func (s *Store) pauseBetween(r *recorded, delay time.Duration) bool {
	t := time.NewTimer(delay)
	defer t.Stop()
	for {
		if exists(s.volatile(&r.Config, "stopping")) {
			return false
		}
		select {
		case <-t.C:
			return !exists(s.volatile(&r.Config, "stopping"))
		case sig := <-r.signals:
			if sig == unix.SIGCONT {
				t.Reset(0)
			}
		}
	}
}

func (r *recorded) closeLog() {
	if r.log != nil {
		r.log.Close()
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// runOnce is one run of a monitored container.
func (s *Store) runOnce(ctx context.Context, r *recorded, hub *monitor.Hub) (ended, error) {
	stdio := [3]int{-1, -1, -1}
	var outer outerEnds
	var inner []*os.File
	defer func() {
		for _, f := range inner {
			f.Close()
		}
	}()
	if !r.TTY {
		var err error
		if outer, inner, err = pipes(r.Interactive); err != nil {
			err = fmt.Errorf("make pipes: %w", err)
			return ended{ExitCode: exitCode(err), Error: err.Error(), FinishedAt: time.Now().UTC()}, err
		}
		for i, f := range inner {
			stdio[i] = int(f.Fd())
		}
	}
	r.connect = func(console *os.File) error {
		outer.Console = console
		err := hub.Begin(monitor.Streams(outer))
		outer = outerEnds{}
		return err
	}
	r.started = func(pid int) {
		time.AfterFunc(time.Second, func() { monitor.Rest() }) // when a short command has ended already; where it fails, it takes more memory
		for _, f := range inner {
			f.Close()
		}
		inner = nil
		hub.Started(pid)
	}
	defer func() { outer.close() }()
	return s.supervise(ctx, r, stdio, false)
}

// outerEnds are the ends of a container's streams that are the monitor's, until the hub has them.
type outerEnds monitor.Streams

func (o *outerEnds) close() {
	for _, f := range []*os.File{o.Stdin, o.Stdout, o.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// pipes makes a container's stdin, stdout and stderr: the ends outside of it, and those inside. Without input stdin is /dev/null.
func pipes(input bool) (outer outerEnds, inner []*os.File, err error) {
	defer func() {
		if err != nil {
			outer.close()
			for _, f := range inner {
				f.Close()
			}
		}
	}()
	if input {
		r, w, err := os.Pipe()
		if err != nil {
			return outer, inner, err
		}
		outer.Stdin, inner = w, append(inner, r)
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return outer, inner, err
		}
		inner = append(inner, null)
	}
	for _, to := range []**os.File{&outer.Stdout, &outer.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return outer, inner, err
		}
		*to, inner = r, append(inner, w)
	}
	return outer, inner, nil
}

// errorKinds are the kinds of errors that are told from each other when they come from a monitor; 0 is any other.
func errorKinds() []error {
	return []error{nil, executor.ErrNotFound, executor.ErrNotExecutable, snapshot.ErrDamaged, snapshot.ErrUnavailable, snapshot.ErrInUse, ErrInvalid, os.ErrPermission,
		executor.ErrWorkDir, executor.ErrNamespaces, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, ErrNotRunning, ErrPaused}
}

func kindOf(err error) byte {
	for i, kind := range errorKinds() {
		if kind != nil && errors.Is(err, kind) {
			return byte(i)
		}
	}
	return 0
}

func errorOfKind(kind byte) error {
	if kinds := errorKinds(); int(kind) < len(kinds) {
		return kinds[kind]
	}
	return nil
}
