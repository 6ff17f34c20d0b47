package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/runtime/network"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// IO are the caller's streams.
type IO struct{ Stdin, Stdout, Stderr *os.File }

// Run makes a container and runs it to its end with the caller's streams, or, detached, until its command has begun. It returns the
// container's ID and its exit status. Where layerctl itself failed, or the command could not be run, the error is an *ExitError; a user who
// detaches from the terminal gets monitor.ErrDetached.
func (s *Store) Run(ctx context.Context, o CreateOptions, streams IO) (id string, code int, err error) {
	id, code, err = s.runContainer(ctx, o, streams)
	if err != nil && !errors.Is(err, monitor.ErrDetached) {
		var failed *ExitError
		if !errors.As(err, &failed) {
			err = &ExitError{exitCode(err), err}
		}
		return id, 0, fmt.Errorf("run: %w", err)
	}
	return id, code, err
}

func (s *Store) runContainer(ctx context.Context, o CreateOptions, streams IO) (string, int, error) {
	if o.Interactive && !o.Detach {
		if err := checkInput(o.TTY, streams.Stdin); err != nil {
			return "", 0, err
		}
	}
	// From here on the signals are the container's; before there is one, those that end a command end the run in an orderly manner.
	signals := monitor.Catch()
	monitored := o.TTY || o.Detach || !o.AutoRemove || o.LogDriver == defaultLogDriver || len(o.LogOpts) > 0 // who asks for a log gets one
	var pending *network.Pending
	if !monitored && o.Network == "none" {
		pending = network.Begin()
	}
	r, err := s.create(ctx, o)
	if err != nil {
		monitor.Release() // the caller may fetch the image, and be interrupted
		return "", 0, err
	}
	r.signals, r.network = signals, pending
	if monitored {
		code, err := s.runMonitored(r, attachment{output: !o.Detach, input: o.Interactive && !o.Detach, keys: o.DetachKeys}, streams)
		if errors.Is(err, errNoMonitor) {
			err = errors.Join(err, s.remove(context.Background(), r.Config))
		}
		return r.ID, code, err
	}
	defer r.lock.Close()
	stdio, closeStdio, err := callersStreams(o.Interactive, streams)
	if err != nil {
		return "", 0, errors.Join(err, s.remove(ctx, r.Config))
	}
	defer closeStdio()
	e, err := s.supervise(ctx, r, stdio, true)
	if ferr := s.finish(ctx, r, e); err == nil {
		err = ferr
	}
	return r.ID, e.ExitCode, err
}

// checkInput sees that stdin is what a container's input can be: a terminal, for one that has a terminal.
func checkInput(tty bool, stdin *os.File) error {
	if tty && !term.IsTerminal(int(stdin.Fd())) {
		return invalid("the input device is not a TTY, and the container's is")
	}
	return stopInBackground(stdin)
}

// stopInBackground stops a command that was started with & and would take what the user types from the shell, until it is brought to the
// foreground. The kernel does that with who reads, but not with the container, which is in a session of its own. So this process reads
// first: nothing, which is enough to be asked.
func stopInBackground(stdin *os.File) error {
	fd := int(stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil
	}
	if _, err := unix.Read(fd, nil); err != nil {
		return fmt.Errorf("read the terminal: %w", err)
	}
	return nil
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

// forward hands signals to the container's first process until done is closed. The third interrupt that it does not catch ends it: the
// kernel spares a first process that has no handler, and nothing else would end it.
func forward(signals <-chan os.Signal, p *executor.Process, done <-chan struct{}) {
	unheeded := 0
	for {
		var n unix.Signal
		select {
		case s := <-signals:
			n, _ = s.(unix.Signal)
		case <-done:
			return
		}
		switch n {
		case 0, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTSTP:
			continue
		case unix.SIGINT, unix.SIGTERM:
			if !catches(p.Pid, n) {
				unheeded++
			}
			if unheeded == 3 {
				n = unix.SIGKILL
			}
		}
		p.Signal(n)
	}
}

// catches says whether a process has a handler for a signal, or has blocked it to read it from a signalfd (SigCgt and SigBlk, proc(5)).
// The pid is believed because its process is not reaped while anything is forwarded to it.
func catches(pid int, n unix.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	for _, set := range []string{"\nSigCgt:\t", "\nSigBlk:\t"} {
		_, after, found := strings.Cut(string(b), set)
		mask, _, _ := strings.Cut(after, "\n")
		signals, err := strconv.ParseUint(mask, 16, 64)
		if !found || err != nil || signals&(1<<(n-1)) != 0 {
			return true
		}
	}
	return false
}

// interrupted is the first of the waiting signals that ends a command, or 0.
func interrupted(signals <-chan os.Signal) unix.Signal {
	for {
		select {
		case s := <-signals:
			if n, _ := s.(unix.Signal); n == unix.SIGINT || n == unix.SIGTERM || n == unix.SIGHUP || n == unix.SIGQUIT {
				return n
			}
		default:
			return 0
		}
	}
}

// supervise is the monitor's work: it starts a container, waits for its end, and takes away what it took. What is returned is to be
// recorded by finish.
func (s *Store) supervise(ctx context.Context, r *recorded, stdio [3]int, vfork bool) (ended, error) {
	var e ended
	p, err := s.prepare(ctx, r, stdio)
	if err == nil {
		defer p.close()
		e, err = s.runPrepared(r, p, vfork)
		p.close()
		if rerr := p.group.Remove(); rerr != nil {
			if rerr = endProcesses(r.ID); rerr != nil {
				// The record stays, so that whoever looks next tries again: nothing else knows whose the groups are.
				return e, errors.Join(err, rerr)
			}
		}
	}
	failpoint.Hit("end/released")
	if err != nil {
		e = ended{ExitCode: exitCode(err), Error: err.Error(), FinishedAt: time.Now().UTC()}
	}
	return e, err
}

func (s *Store) runPrepared(r *recorded, p *prepared, vfork bool) (ended, error) {
	failpoint.Hit("start/prepared")
	e := ended{StartedAt: time.Now().UTC()}
	if !r.AutoRemove {
		// Until its end is recorded, this is what is known of it where the run root is lost (a reboot).
		if err := s.record(r, ended{Begun: true, StartedAt: e.StartedAt, RestartCount: r.restarts}, false); err != nil {
			return e, err
		}
	}
	failpoint.Hit("start/begun")
	if n := interrupted(r.signals); n != 0 {
		return ended{}, &ExitError{128 + int(n), fmt.Errorf("ended before the start: %v", n)}
	}
	if r.connect != nil {
		if err := r.connect(p.Console); err != nil {
			return e, err
		}
	}
	proc, err := p.start(vfork)
	if err != nil {
		return e, err
	}
	failpoint.Hit("start/started")
	began, err := startTime(proc.Pid)
	if err == nil {
		err = s.writeState(r, running{Pid: proc.Pid, PidStart: began, StartedAt: e.StartedAt})
	}
	if err != nil {
		proc.Signal(unix.SIGKILL)
	}
	failpoint.Hit("start/state")
	s.happened(&r.Config, "start")
	done := make(chan struct{})
	go forward(r.signals, proc, done)
	if r.started != nil {
		// The container's end of its terminal and pipes is the container's alone: when its last process is gone, reading ends.
		p.Compiled.Close()
		r.started(proc.Pid)
	}
	status, werr := proc.Wait()
	close(done)
	failpoint.Hit("end/waited")
	e.ExitCode, e.FinishedAt = status.Code, time.Now().UTC()
	s.renamed(r)
	if !r.AutoRemove || e.ExitCode != 0 {
		if e.OOMKilled = p.group.OOMKills() > 0; e.OOMKilled {
			s.happened(&r.Config, "oom")
		}
	}
	s.happened(&r.Config, "die", "exitCode", strconv.Itoa(e.ExitCode), "execDuration", strconv.Itoa(int(e.FinishedAt.Sub(e.StartedAt).Seconds())))
	return e, errors.Join(err, werr)
}

// record writes exit.json.
func (s *Store) record(r *recorded, e ended, durable bool) error {
	b, err := seal(r.ID, "exit.json", e)
	if err == nil {
		err = snapshot.WriteFile(s.path(r.ID, "exit.json"), b, durable)
	}
	return err
}

// writeState writes state.json. What is there of a run before is replaced in one step: nobody finds half of it. A first one that is half
// there says what no file says, that the container has not begun; and who waits for a container that is removed has this very file open.
func (s *Store) writeState(r *recorded, state running) error {
	state.Version, state.Monitor, state.Restarts = stateVersion, os.Getpid(), r.restarts
	b, err := json.Marshal(state)
	switch path := s.volatile(&r.Config, "state.json"); {
	case err != nil:
	case state.Last != nil || r.restarts > 0:
		err = snapshot.WriteFile(path, b, false)
	default:
		err = os.WriteFile(path, b, 0o600)
	}
	return err
}

// finish records a container's end, or removes it where it was to go.
func (s *Store) finish(ctx context.Context, r *recorded, e ended) error {
	if r.AutoRemove {
		// Who waits has the file open.
		s.writeState(r, running{ExitCode: &e.ExitCode})
		return s.remove(ctx, r.Config)
	}
	e.RestartCount = r.restarts
	err := s.record(r, e, true)
	failpoint.Hit("end/recorded")
	if err == nil {
		err = s.removeVolatile(&r.Config)
	}
	failpoint.Hit("end/forgotten")
	if err != nil {
		return fmt.Errorf("record the end of container %s: %w", r.Name, err)
	}
	return nil
}
