package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// execMonitored hands a command to a monitor of its own, and connects the caller's terminal with it; detached, it returns when the command
// has begun.
func (s *Store) execMonitored(c *Container, x *execution, o ExecOptions, streams IO) (int, error) {
	conn, err := launch([]string{monitor.Name, "exec", s.root, s.rroot, c.ID}, x.f, true)
	if err != nil {
		s.forgetExec(c, x)
		return 0, fmt.Errorf("start monitor: %w", err)
	}
	defer conn.Close()
	x.f.Close() // the monitor has it now
	hello := monitor.Hello{Input: o.Interactive, Output: !o.Detach}
	if !o.Detach {
		hello.Window(streams.Stdout, streams.Stdin)
	}
	code := 0
	if err = conn.Greet(hello); err == nil && o.Detach {
		_, err = conn.WaitStarted()
	} else if err == nil {
		code, err = monitor.Attach(conn, monitor.AttachOptions{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
			Input: o.Interactive, TTY: o.TTY, DetachKeys: o.DetachKeys, Signals: monitor.Catch(), Proxy: true, Hangup: true, Warn: s.warn})
	}
	if errors.Is(err, monitor.ErrDetached) && code == 0 {
		// By the keys, and not because the terminal went away.
		if f, err := os.OpenFile(s.execPath(c, x.ID+detachedEnd), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			f.Close()
		}
	}
	var failed *monitor.StartError
	if errors.As(err, &failed) {
		return 0, &ExitError{failed.Code, &kindError{failed.Reason, errorOfKind(failed.Kind)}}
	}
	return code, err
}

// execMonitorMain is the whole life of the monitor of a command in a running container.
func execMonitorMain(root, runRoot, id string) int {
	unix.CloseOnExec(3)
	watched, err := unix.FcntlInt(4, unix.F_DUPFD_CLOEXEC, 5)
	unix.CloseOnExec(4)
	record := os.NewFile(3, "record")
	if record == nil || err != nil {
		return 125
	}
	conn, err := monitor.NewConn(4)
	if err != nil {
		return 125
	}
	// What ends the caller, or its terminal, is not meant for the command. They are caught and dropped, not ignored: that is inherited.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	x, err := readExec(record)
	hub := monitor.NewHub(monitor.HubOptions{})
	code := 0
	if err == nil {
		hub = monitor.NewHub(monitor.HubOptions{TTY: x.TTY, Stdin: x.Interactive, StdinOnce: true})
		hub.Join(conn)
		code, err = monitorExec(root, runRoot, id, x, hub, os.NewFile(uintptr(watched), "caller"))
	} else {
		hub.Join(conn)
	}
	if err != nil {
		hub.Fail(exitCode(err), kindOf(err), err.Error())
		return exitCode(err)
	}
	hub.End(code)
	return 0
}

func monitorExec(root, runRoot, id string, x *execution, hub *monitor.Hub, caller *os.File) (int, error) {
	snaps, err := snapshot.Open(root + "/snapshots")
	if err != nil {
		return 0, err
	}
	s, err := Open(root, runRoot, snaps)
	if err != nil {
		return 0, err
	}
	c, err := s.load(context.Background(), id)
	if err != nil {
		return 0, err
	}
	defer s.forgetExec(c, x)
	if err := x.adopt(); err != nil {
		return 0, err
	}
	failpoint.Hit("exec/monitored")
	e, err := s.enter(c)
	if err != nil {
		return 0, err
	}
	defer e.close()
	stdio := [3]int{-1, -1, -1}
	if !x.TTY {
		// Nobody is connected with it, and nobody can be.
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer null.Close()
		for i := range stdio {
			stdio[i] = int(null.Fd())
		}
	}
	if err := e.compile(x.options(), stdio); err != nil {
		return 0, err
	}
	if x.TTY {
		if err := hub.Begin(monitor.Streams{Console: e.Console}); err != nil {
			return 0, err
		}
	}
	proc, err := e.start()
	if err != nil {
		return 0, err
	}
	failpoint.Hit("exec/started")
	e.Compiled.Close() // the inner end of the terminal is the command's alone
	s.happened(&c.Config, "exec_start", "execID", x.ID)
	hub.Started(proc.Pid)
	done := make(chan struct{})
	go forward(hub.Signals(), proc, done)
	drain := sync.OnceFunc(hub.Drain)
	if x.TTY && !x.Detach {
		go func() {
			awaitHangup(caller)
			if _, err := os.Lstat(s.execPath(c, x.ID+detachedEnd)); err != nil {
				drain() // nobody can come to this terminal again: it is hung up
			}
		}()
	}
	status, err := proc.Wait()
	close(done)
	drain()
	s.happened(&c.Config, "exec_die", "execID", x.ID, "exitCode", strconv.Itoa(status.Code))
	return status.Code, err
}

// awaitHangup returns when the other end of a stream is closed.
func awaitHangup(f *os.File) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	rc.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
