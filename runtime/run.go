package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// IO are the caller's streams.
type IO struct{ Stdin, Stdout, Stderr *os.File }

// Run makes a container, runs it to its end with the caller's streams, and returns its exit status. Where layerctl itself failed, or
// the command could not be run, the error is an *ExitError.
func (s *Store) Run(ctx context.Context, o CreateOptions, streams IO) (int, error) {
	code, err := s.runContainer(ctx, o, streams)
	if err != nil {
		var failed *ExitError
		if !errors.As(err, &failed) {
			err = &ExitError{exitCode(err), err}
		}
		return 0, fmt.Errorf("run: %w", err)
	}
	return code, nil
}

func (s *Store) runContainer(ctx context.Context, o CreateOptions, streams IO) (int, error) {
	if o.TTY && o.Interactive && !term.IsTerminal(int(streams.Stdin.Fd())) {
		return 0, invalid("the input device is not a TTY (-it was asked for)")
	}
	r, err := s.create(ctx, o)
	if err != nil {
		return 0, err
	}
	if o.TTY {
		return s.runMonitored(r, streams)
	}
	defer r.lock.Close()
	// From here on the signals are the container's.
	signals := monitor.Catch()
	stdio, closeStdio, err := callersStreams(o.Interactive, streams)
	if err != nil {
		return 0, errors.Join(err, s.remove(ctx, r.Config))
	}
	defer closeStdio()
	return s.supervise(ctx, r, stdio, true, func(_ *prepared, p *executor.Process) { go forward(signals, p) })
}

// callersStreams are descriptors above 2 for what the container has at 0, 1 and 2.
func callersStreams(interactive bool, streams IO) (stdio [3]int, done func(), err error) {
	var files []*os.File
	done = func() {
		for _, f := range files {
			f.Close()
		}
	}
	in := streams.Stdin
	if !interactive {
		if in, err = os.Open(os.DevNull); err != nil {
			return stdio, done, err
		}
		files = append(files, in)
	}
	for i, f := range []*os.File{in, streams.Stdout, streams.Stderr} {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			done()
			return stdio, func() {}, fmt.Errorf("take over %s: %w", f.Name(), err)
		}
		stdio[i] = fd
		files = append(files, os.NewFile(uintptr(fd), f.Name()))
	}
	return stdio, done, nil
}

// forward hands the caller's signals to the container's first process. The third interrupt ends it: a first process that has no handler
// is spared by the kernel, and nothing else would.
func forward(signals <-chan os.Signal, p *executor.Process) {
	interrupts := 0
	for s := range signals {
		n, ok := s.(unix.Signal)
		if !ok {
			continue
		}
		switch n {
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
			continue
		case unix.SIGINT, unix.SIGTERM:
			if interrupts++; interrupts == 3 {
				n = unix.SIGKILL
			}
		}
		p.Signal(n)
	}
}

// supervise is the monitor's work: it starts a container, waits for its end, records that, and takes away what it took.
func (s *Store) supervise(ctx context.Context, r *recorded, stdio [3]int, vfork bool, started func(*prepared, *executor.Process)) (int, error) {
	var e ended
	p, err := s.prepare(ctx, &r.Config, stdio)
	if err == nil {
		defer p.close()
		e, err = s.runPrepared(r, p, vfork, started)
		p.close()
		if rerr := p.group.Remove(); err == nil && rerr != nil {
			err = rerr
		}
	}
	failpoint.Hit("end/released")
	if err != nil {
		e.ExitCode, e.Error = exitCode(err), err.Error()
	}
	if ferr := s.finish(ctx, r, e); err == nil {
		err = ferr
	}
	return e.ExitCode, err
}

func (s *Store) runPrepared(r *recorded, p *prepared, vfork bool, started func(*prepared, *executor.Process)) (ended, error) {
	failpoint.Hit("start/prepared")
	os.Remove(s.path(r.ID, "exit.json"))
	failpoint.Hit("start/begun")
	e := ended{StartedAt: time.Now().UTC()}
	proc, err := p.start(vfork)
	if err != nil {
		return e, err
	}
	failpoint.Hit("start/started")
	if b, jerr := json.Marshal(running{proc.Pid, e.StartedAt}); jerr == nil {
		err = os.WriteFile(s.volatile(&r.Config, "state.json"), b, 0o600)
	}
	if err != nil {
		proc.Signal(unix.SIGKILL)
	}
	failpoint.Hit("start/state")
	started(p, proc)
	status, werr := proc.Wait()
	failpoint.Hit("end/waited")
	e.ExitCode, e.FinishedAt = status.Code, time.Now().UTC()
	return e, errors.Join(err, werr)
}

// finish records a container's end, or removes it where it was to go.
func (s *Store) finish(ctx context.Context, r *recorded, e ended) error {
	if r.AutoRemove {
		return s.remove(ctx, r.Config)
	}
	b, err := json.Marshal(e)
	if err == nil {
		err = snapshot.WriteFile(s.path(r.ID, "exit.json"), b, true)
	}
	failpoint.Hit("end/recorded")
	if err == nil {
		err = os.RemoveAll(s.volatile(&r.Config))
	}
	failpoint.Hit("end/forgotten")
	if err != nil {
		return fmt.Errorf("record the end of container %s: %w", r.Name, err)
	}
	return nil
}

// Explain prints what the kernel would be asked for to run a container, from the plan that would be walked. Nothing of the container
// stays.
func (s *Store) Explain(ctx context.Context, o CreateOptions, w io.Writer) error {
	o.AutoRemove = true
	r, err := s.create(ctx, o)
	if err != nil {
		return &ExitError{exitCode(err), fmt.Errorf("explain: %w", err)}
	}
	defer r.lock.Close()
	var text bytes.Buffer
	p, err := s.prepare(ctx, &r.Config, [3]int{0, 1, 2})
	if err == nil {
		err = p.Explain(&text)
		if p.Console != nil {
			p.Console.Close()
		}
		p.close()
		err = errors.Join(err, p.group.Remove())
	}
	err = errors.Join(err, s.remove(ctx, r.Config))
	if err == nil {
		_, err = text.WriteTo(w) // last of all: a pipe that is closed ends us
	}
	if err != nil {
		return &ExitError{exitCode(err), fmt.Errorf("explain: %w", err)}
	}
	return nil
}

// runMonitored hands a container to a monitor of its own and connects the caller's terminal with it.
func (s *Store) runMonitored(r *recorded, streams IO) (int, error) {
	conn, err := s.startMonitor(r)
	r.lock.Close() // the monitor has it now
	if err != nil {
		return 0, errors.Join(err, s.remove(context.Background(), r.Config))
	}
	defer conn.Close()
	code, err := monitor.Attach(conn, streams.Stdin, streams.Stdout, r.Interactive)
	var failed *monitor.StartError
	if errors.As(err, &failed) {
		return 0, &ExitError{failed.Code, err}
	}
	return code, err
}

// startMonitor starts this program again, on the way that leads to MonitorMain, with the container's lock and one end of a stream.
func (s *Store) startMonitor(r *recorded) (*monitor.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "monitor"), os.NewFile(uintptr(pair[1]), "caller")
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{monitor.Name, s.root, s.rroot, r.ID}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, null, null, r.lock, theirs}, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	p.Release()
	failpoint.Hit("monitor/started")
	return monitor.NewConn(ours), nil
}

// MonitorMain is the monitor's whole life. Its arguments are the store's root, the run root and the container's ID; descriptor 3 is the
// container's lock, 4 the stream to the caller. It returns the exit status.
func MonitorMain(args []string) int {
	if len(args) != 3 {
		return 125
	}
	lock, stream := os.NewFile(3, "lock"), os.NewFile(4, "caller")
	if lock == nil || stream == nil {
		return 125
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	conn := monitor.NewConn(stream)
	code, err := monitorContainer(args[0], args[1], args[2], lock, conn)
	if err != nil {
		conn.SendFailed(exitCode(err), err.Error())
		return exitCode(err)
	}
	conn.SendExit(code)
	return 0
}

func monitorContainer(root, runRoot, id string, lock *os.File, conn *monitor.Conn) (int, error) {
	// What ends the caller, or its terminal, is not meant for the container.
	// They are caught and dropped, not ignored: the container would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
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
	if err := readJSON(s.path(id, "config.json"), &r.Config); err != nil {
		return 0, err
	}
	failpoint.Hit("monitor/opened")
	drained := make(chan bool)
	close(drained)
	code, err := s.supervise(context.Background(), r, [3]int{-1, -1, -1}, false, func(p *prepared, proc *executor.Process) {
		// The container's end of the terminal is the container's alone: when its last process is gone, reading ends.
		p.Compiled.Close()
		drained = make(chan bool)
		go func() {
			monitor.Serve(conn, p.Console, func(n unix.Signal) { proc.Signal(n) })
			close(drained)
		}()
	})
	<-drained
	return code, err
}
