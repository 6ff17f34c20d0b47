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
	"strconv"
	"strings"
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
	if o.Interactive {
		if err := stopInBackground(streams.Stdin); err != nil {
			return 0, err
		}
	}
	// From here on the signals are the container's; before there is one, those that end a command end the run in an orderly manner.
	signals := monitor.Catch()
	r, err := s.create(ctx, o)
	if err != nil {
		return 0, err
	}
	r.signals = signals
	if o.TTY {
		return s.runMonitored(r, streams)
	}
	defer r.lock.Close()
	stdio, closeStdio, err := callersStreams(o.Interactive, streams)
	if err != nil {
		return 0, errors.Join(err, s.remove(ctx, r.Config))
	}
	defer closeStdio()
	return s.supervise(ctx, r, stdio, true)
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

// forward hands the caller's signals to the container's first process. The third interrupt that it does not catch ends it: the kernel
// spares a first process that has no handler, and nothing else would end it.
func forward(signals <-chan os.Signal, p *executor.Process) {
	unheeded := 0
	for s := range signals {
		n, ok := s.(unix.Signal)
		if !ok {
			continue
		}
		switch n {
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTSTP:
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

// supervise is the monitor's work: it starts a container, waits for its end, records that, and takes away what it took.
func (s *Store) supervise(ctx context.Context, r *recorded, stdio [3]int, vfork bool) (int, error) {
	var e ended
	p, err := s.prepare(ctx, &r.Config, stdio)
	if err == nil {
		defer p.close()
		e, err = s.runPrepared(r, p, vfork)
		p.close()
		if rerr := p.group.Remove(); rerr != nil {
			if rerr = endProcesses(r.ID); rerr != nil {
				// The record stays, so that whoever looks next tries again: nothing else knows whose the groups are.
				return e.ExitCode, errors.Join(err, rerr)
			}
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

func (s *Store) runPrepared(r *recorded, p *prepared, vfork bool) (ended, error) {
	failpoint.Hit("start/prepared")
	os.Remove(s.path(r.ID, "exit.json"))
	failpoint.Hit("start/begun")
	if r.hub != nil {
		defer r.hub.Drain()
		if err := r.hub.Begin(monitor.Streams{Console: p.Console}); err != nil {
			return ended{}, fmt.Errorf("take the container's terminal: %w", err)
		}
	}
	if n := interrupted(r.signals); n != 0 {
		return ended{}, &ExitError{128 + int(n), fmt.Errorf("ended before the start: %v", n)}
	}
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
	go forward(r.signals, proc)
	if r.hub != nil {
		p.Compiled.Close() // the container's end of the terminal is the container's alone
		r.hub.Started(proc.Pid)
	}
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
	b, err := seal(r.ID, "exit.json", e)
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
	_, err := ParseRestart(o.Restart)
	var r *recorded
	if err == nil {
		o.AutoRemove, o.Restart, o.CIDFile = true, "", "" // nothing of it stays
		r, err = s.create(ctx, o)
	}
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
		err = errors.Join(err, endProcesses(r.ID))
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
	conn, err := s.startMonitor(r, streams)
	r.lock.Close() // the monitor has it now
	if err != nil {
		return 0, errors.Join(err, s.remove(context.Background(), r.Config))
	}
	defer conn.Close()
	code, err := monitor.Attach(conn, monitor.AttachOptions{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
		Input: r.Interactive, TTY: r.TTY, Signals: r.signals, Proxy: true, Hangup: true})
	var failed *monitor.StartError
	if errors.As(err, &failed) {
		return 0, &ExitError{failed.Code, &kindError{failed.Reason, errorOfKind(failed.Kind)}}
	}
	return code, err
}

// startMonitor starts this program again, on the way that leads to MonitorMain, with the container's lock and one end of a stream.
func (s *Store) startMonitor(r *recorded, streams IO) (*monitor.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "caller")
	defer theirs.Close()
	conn, err := monitor.NewConn(pair[0])
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	defer null.Close()
	hello := monitor.Hello{Input: r.Interactive, Output: true}
	hello.Window(streams.Stdout, streams.Stdin)
	if err := conn.Greet(hello); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{monitor.Name, s.root, s.rroot, r.ID}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, null, null, r.lock, theirs}, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	p.Release()
	failpoint.Hit("monitor/started")
	return conn, nil
}

// MonitorMain is the monitor's whole life. Its arguments are the store's root, the run root and the container's ID; descriptor 3 is the
// container's lock, 4 the stream to the caller. It returns the exit status.
func MonitorMain(args []string) int {
	if len(args) != 3 {
		return 125
	}
	lock := os.NewFile(3, "lock")
	conn, err := monitor.NewConn(4)
	if lock == nil || err != nil {
		return 125
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	var hub *monitor.Hub
	code, err := monitorContainer(args[0], args[1], args[2], lock, func(c Config) *monitor.Hub {
		hub = monitor.NewHub(monitor.HubOptions{TTY: c.TTY, Stdin: c.Interactive, StdinOnce: true})
		hub.Join(conn)
		return hub
	})
	lock.Close() // who is told of the end may do with the container what he likes
	if hub == nil {
		hub = monitor.NewHub(monitor.HubOptions{})
		hub.Join(conn)
	}
	if err != nil {
		hub.Fail(exitCode(err), kindOf(err), err.Error())
		return exitCode(err)
	}
	hub.End(code)
	return 0
}

func monitorContainer(root, runRoot, id string, lock *os.File, connect func(Config) *monitor.Hub) (int, error) {
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
	c, err := s.readConfig(id)
	if err != nil {
		return 0, err
	}
	hub := connect(c)
	r := &recorded{Config: c, lock: lock, signals: hub.Signals(), hub: hub}
	failpoint.Hit("monitor/opened")
	return s.supervise(context.Background(), r, [3]int{-1, -1, -1}, false)
}

// errorKinds are the kinds of errors that are told from each other when they come from a monitor; 0 is any other.
func errorKinds() []error {
	return []error{nil, executor.ErrNotFound, executor.ErrNotExecutable, snapshot.ErrDamaged, snapshot.ErrUnavailable, snapshot.ErrInUse, ErrInvalid, os.ErrPermission}
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
