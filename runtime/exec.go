package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/runtime/plan"
	"github.com/layerctl/layerctl/runtime/spec"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// ExecOptions say what is run in a container beside its first process. What is "" or nil is the container's.
type ExecOptions struct {
	Args        []string
	Env         []string // NAME=VALUE, or NAME for the caller's value; over the container's
	EnvFiles    []string // files of variables, in Docker's form; Env comes after them
	WorkDir     string
	User        string
	Interactive bool
	TTY         bool
	Detach      bool   // it goes on in the background
	DetachKeys  []byte // what detaches from its terminal; nil is monitor.DefaultDetachKeys
}

// Exec runs a command in a running container with the caller's streams, and returns its exit status, or, detached, 0 when it has begun. It
// is in all namespaces and cgroups of the container, may do what the container may, and ends with it. Without a terminal and not detached,
// it ends with this process, too. Where layerctl itself failed, or the command could not be run, the error is an *ExitError; a user who
// detaches from the terminal gets monitor.ErrDetached.
//
// The caller sees to it that this program cannot be written through /proc (executor.BecomeUnwritable): the process is in the container's
// pid namespace before it is the command.
func (s *Store) Exec(ctx context.Context, name string, o ExecOptions, streams IO) (int, error) {
	code, err := s.exec(ctx, name, o, streams)
	if err != nil && !errors.Is(err, monitor.ErrDetached) {
		var failed *ExitError
		if !errors.As(err, &failed) {
			err = &ExitError{exitCode(err), err}
		}
		err = fmt.Errorf("exec: %w", err)
	}
	return code, err
}

func (s *Store) exec(ctx context.Context, name string, o ExecOptions, streams IO) (int, error) {
	if o.Detach {
		o.Interactive = false // nobody could send anything
	}
	if o.TTY && o.Interactive && !term.IsTerminal(int(streams.Stdin.Fd())) {
		return 0, invalid("the input device is not a TTY (-it was asked for)")
	}
	if o.Interactive {
		if err := stopInBackground(streams.Stdin); err != nil {
			return 0, err
		}
	}
	c, err := s.Lookup(ctx, name)
	if err != nil {
		return 0, err
	}
	e, err := s.enter(c)
	if err != nil {
		return 0, err
	}
	defer e.close()
	if o, err = o.complete(); err != nil {
		return 0, err
	}
	x, err := s.recordExec(c, o)
	if err != nil {
		return 0, fmt.Errorf("container %s: %w", c.Name, err)
	}
	s.happened(&c.Config, "exec_create", "execID", x.ID)
	failpoint.Hit("exec/recorded")
	if o.TTY || o.Detach {
		e.close()
		return s.execMonitored(c, x, o, streams)
	}
	defer s.forgetExec(c, x)
	stdio, closeStdio, err := callersStreams(o.Interactive, streams)
	if err != nil {
		return 0, err
	}
	defer closeStdio()
	if err := e.compile(o, stdio); err != nil {
		return 0, err
	}
	failpoint.Hit("exec/prepared")
	// Until the command has begun, a signal ends this process, and the command's with it.
	proc, err := e.start()
	if err != nil {
		return 0, err
	}
	failpoint.Hit("exec/started")
	s.happened(&c.Config, "exec_start", "execID", x.ID)
	done := make(chan struct{})
	go forward(monitor.Catch(), proc, done)
	status, err := proc.Wait()
	close(done)
	failpoint.Hit("exec/waited")
	s.happened(&c.Config, "exec_die", "execID", x.ID, "exitCode", strconv.Itoa(status.Code))
	return status.Code, err
}

// complete replaces the files and names of variables by what they say now.
func (o ExecOptions) complete() (ExecOptions, error) {
	var env []string
	for _, path := range o.EnvFiles {
		more, err := readEnvFile(path)
		if err != nil {
			return o, err
		}
		env = append(env, more...)
	}
	more, err := callersValues(o.Env)
	o.Env, o.EnvFiles = append(env, more...), nil
	return o, err
}

// errEnded is ErrNotRunning of a container that ran when it was looked at.
var errEnded error = &kindError{"it has ended", ErrNotRunning}

// entered is a running container with a way into it.
type entered struct {
	*prepared
	c     *Container
	first *os.File // the pidfd of its first process
	root  *os.File
}

func (e *entered) close() {
	e.prepared.close()
	for _, f := range []*os.File{e.first, e.root} {
		if f != nil {
			f.Close()
		}
	}
}

// enter opens the way into a container.
func (s *Store) enter(c *Container) (_ *entered, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("container %s: %w", c.Name, err)
		}
	}()
	if c.State.Status == StatusPaused {
		return nil, ErrPaused
	}
	e := &entered{c: c, prepared: &prepared{group: cgroup.Found(c.ID)}}
	defer func() {
		if err != nil {
			e.close()
			if errors.Is(err, errMoving) {
				err = errEnded
			}
		}
	}()
	if e.first, err = s.process(c); err != nil {
		return nil, err
	}
	ns, err := s.openNamespace(c, e.first, "mnt")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if e.root, err = rootIn(ns, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	if e.v2, err = e.group.OpenV2(); err != nil {
		return nil, err
	}
	return e, nil
}

// compile makes the plan of a process that is as the container's first one is, but for what the options say.
func (e *entered) compile(o ExecOptions, stdio [3]int) error {
	c := e.c
	name := o.User
	if name == "" {
		name = c.User
	}
	user, err := findUser(e.root, name)
	if err != nil {
		return err
	}
	cwd := o.WorkDir
	if cwd == "" {
		cwd = c.WorkDir
	} else if cwd[0] != '/' {
		return invalid("working directory %q is not absolute", cwd)
	}
	soft, hard, err := fileLimits()
	if err != nil {
		return err
	}
	in := plan.Inputs{
		Spec: spec.Process(spec.Options{
			Args: o.Args, Env: spec.Environment(c.Image.Settings.Env, append(c.Env[:len(c.Env):len(c.Env)], o.Env...), c.Hostname, user.home, o.TTY),
			Terminal: o.TTY, Cwd: cwd, UID: user.uid, GID: user.gid, Groups: user.groups,
			MayMakeDevices: e.group.LimitsDevices(), SoftFiles: soft, HardFiles: hard,
		}),
		Enter: e.first, Cgroups: e.group.V1(), CgroupFD: -1, Stdio: stdio, PDeathSig: unix.SIGKILL,
	}
	if e.v2 != nil {
		in.CgroupFD = int(e.v2.Fd())
	}
	if o.TTY {
		if in.Pts, err = openPts(e.root); err != nil {
			return err
		}
		defer in.Pts.Close()
	}
	e.Compiled, err = plan.Compile(in)
	return e.unlessEnded(err)
}

// openPts opens the container's devpts, which nobody in it can have exchanged.
func openPts(root *os.File) (*os.File, error) {
	fd, err := plan.OpenBelow(root, "dev/pts", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("open its /dev/pts: %w", err)
	}
	f := os.NewFile(uintptr(fd), "/dev/pts")
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.DEVPTS_SUPER_MAGIC {
		f.Close()
		return nil, errors.Join(err, invalid("its /dev/pts is no devpts"))
	}
	return f, nil
}

// start makes the process.
func (e *entered) start() (*executor.Process, error) {
	p, err := e.prepared.start(false)
	return p, e.unlessEnded(err)
}

// unlessEnded turns an error into the one that says why, where the container has ended meanwhile: its namespaces and cgroups go with it,
// and the kernel has many words for that.
func (e *entered) unlessEnded(err error) error {
	if err == nil {
		return nil
	}
	if executor.Ended(e.first) || errors.Is(err, executor.ErrEnded) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("container %s: %w", e.c.Name, errEnded)
	}
	return err
}
