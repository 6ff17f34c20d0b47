package executor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/plan"
)

// Why a command could not be run, in the two kinds that exit statuses tell apart: 127 and 126.
var (
	ErrNotFound      = errors.New("command not found")
	ErrNotExecutable = errors.New("command cannot be run")
	ErrWorkDir       = errors.New("working directory cannot be entered") // 126, too
	ErrNamespaces    = errors.New("no more namespaces are allowed here")
	ErrEnded         = errors.New("the first process of the pid namespace has ended") // so that nothing can be started in it
)

// StepError says which step of a plan failed.
type StepError struct {
	Index, Total int
	Name         string
	Exec         bool // it was the command itself
	Cwd          bool // it was the working directory
	Err          error
}

func (e *StepError) Error() string {
	if e.Exec || e.Cwd {
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s: %v (step %d of %d)", e.Name, e.Err, e.Index, e.Total)
}

// Unwrap gives the errno, for a failed command ErrNotFound or ErrNotExecutable, and ErrWorkDir.
func (e *StepError) Unwrap() []error {
	switch {
	case e.Cwd:
		return []error{e.Err, ErrWorkDir}
	case !e.Exec || e.Err == unix.EIO: // the disk's fault, not the command's
		return []error{e.Err}
	case e.Err == unix.ENOENT || e.Err == unix.ENOTDIR:
		return []error{e.Err, ErrNotFound}
	}
	return []error{e.Err, ErrNotExecutable}
}

// Program is a plan ready to be walked, with what its errors are called.
type Program struct {
	encoded  []byte
	flags    uint64
	cgroupFD int
	pidNS    int
	steps    []plan.Step
}

// Load encodes a plan.
func Load(p *plan.Plan) (*Program, error) {
	b, err := p.Encode()
	if err != nil {
		return nil, err
	}
	return &Program{encoded: b, flags: p.Flags, cgroupFD: p.CgroupFD, pidNS: p.PidNS, steps: p.Steps}, nil
}

// Process is a started process. PidFD names it for as long as it is held, whatever becomes of the pid.
type Process struct {
	Pid   int
	PidFD *os.File
}

// Start walks the program in a new process and returns when that has become the command, or failed to. With vfork the calling thread
// waits for it; the caller vouches that no step blocks. Without a pid namespace of its own the process is always forked: others would see
// the caller's memory in it.
//
// A plan that sets a parent-death signal ties the process to the calling thread: the caller keeps the thread (runtime.LockOSThread) as
// long as the process is to live.
func Start(g *Program, vfork bool) (*Process, error) {
	// Nobody may look into this process while the child is, for a moment, a copy of it or the same memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become undumpable: %w", err)
	}
	mem, err := unix.Mmap(-1, 0, len(g.encoded), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map start plan: %w", err)
	}
	defer unix.Munmap(mem)
	copy(mem, g.encoded)
	base := uintptr(unsafe.Pointer(&mem[0]))
	if err := plan.Relocate(mem, base); err != nil {
		return nil, err
	}
	shared, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(status{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map status: %w", err)
	}
	defer unix.Munmap(shared)
	st := (*status)(unsafe.Pointer(&shared[0]))

	vfork = vfork && g.flags&unix.CLONE_NEWPID != 0
	pidFD := int32(-1)
	args := &cloneArgs{flags: g.flags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND, exitSignal: uint64(unix.SIGCHLD)}
	var pinner runtime.Pinner
	pinner.Pin(&pidFD)
	pinner.Pin(args)
	defer pinner.Unpin()
	args.pidFD = uint64(uintptr(unsafe.Pointer(&pidFD)))
	if g.cgroupFD >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(g.cgroupFD)
	}
	var begun, beginning *os.File
	if vfork {
		args.flags |= unix.CLONE_VM | unix.CLONE_VFORK
	}
	second := g.second()
	if !vfork || second != 0 {
		// The writing end closes when the command begins or the child ends.
		if begun, beginning, err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("start: %w", err)
		}
		defer begun.Close()
		defer beginning.Close()
	}
	keep := uintptr(0)
	if beginning != nil {
		keep = beginning.Fd()
	}
	back, err := enterPidNS(g.pidNS)
	if err != nil {
		return nil, err
	}
	pid, errno := spawn(args, base, st, keep)
	afterFork()
	err = back()
	if errno != 0 {
		err := error(unix.Errno(errno))
		if err == unix.ENOSPC { // namespaces(7): not a matter of disks
			err = fmt.Errorf("%w: %w", ErrNamespaces, err)
		}
		if err == unix.ENOMEM && g.pidNS >= 0 { // pid_namespaces(7), "The namespace init process"
			err = fmt.Errorf("%w: %w", ErrEnded, err)
		}
		return nil, fmt.Errorf("make a process in new namespaces: %w", err)
	}
	p := &Process{Pid: int(pid), PidFD: os.NewFile(uintptr(pidFD), "pidfd")}
	if err != nil {
		p.Signal(unix.SIGKILL)
		p.Wait()
		return nil, err
	}
	if beginning != nil {
		beginning.Close()
		io.Copy(io.Discard, begun)
	}
	if st.errno == 0 && int(st.step) == len(g.steps) && int(st.second) == second {
		return p, nil
	}
	return nil, g.failure(p, st)
}

// second is the last step of the second process, or 0 for a plan without one.
func (g *Program) second() int {
	for i, s := range g.steps {
		if s.Op == plan.OpFork {
			return i + 1 + s.Steps()
		}
	}
	return 0
}

// enterPidNS makes this thread's children members of a pid namespace, until back is called. A thread that cannot be brought back stays
// locked to its goroutine, and ends with it.
func enterPidNS(fd int) (back func() error, err error) {
	if fd < 0 {
		return func() error { return nil }, nil
	}
	own, err := os.Open("/proc/thread-self/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("enter a pid namespace: %w", err)
	}
	runtime.LockOSThread()
	if err := unix.Setns(fd, unix.CLONE_NEWPID); err != nil {
		runtime.UnlockOSThread()
		own.Close()
		if err == unix.ESRCH {
			err = fmt.Errorf("%w: %w", ErrEnded, err)
		}
		return nil, fmt.Errorf("enter a pid namespace: %w", err)
	}
	return func() error {
		defer own.Close()
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("return to the own pid namespace: %w", err)
		}
		runtime.UnlockOSThread()
		return nil
	}, nil
}

// failure reaps the child and says what stopped it. Where it was the second process, the first has ended with it: init does so.
func (g *Program) failure(p *Process, st *status) error {
	ended, err := p.Wait()
	e := &StepError{Index: int(st.stopped), Total: len(g.steps), Err: unix.Errno(st.errno)}
	if st.errno == 0 { // it was ended, between two steps or in one
		if e.Index = int(st.step); e.Index == len(g.steps) {
			e.Index = int(st.second)
		}
		e.Err = fmt.Errorf("ended with status %d", ended.Code)
		if err != nil {
			e.Err = err
		} else if ended.Signal != 0 {
			e.Err = fmt.Errorf("ended by %v", ended.Signal)
		}
	}
	if e.Index >= 1 && e.Index <= len(g.steps) {
		e.Name, e.Cwd = g.steps[e.Index-1].Name, g.steps[e.Index-1].Cwd
		e.Exec = g.steps[e.Index-1].Op == plan.OpExecAny
	}
	return e
}

// Status is how a process ended.
type Status struct {
	Code   int         // its exit status; 128 and the signal's number where a signal ended it
	Signal unix.Signal // 0 where it ended by itself
}

// Wait waits for the process's end and reaps it.
func (p *Process) Wait() (Status, error) {
	defer p.PidFD.Close()
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(p.Pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Status{}, fmt.Errorf("wait for process %d: %w", p.Pid, err)
		}
		if ws.Signaled() {
			return Status{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}, nil
		}
		return Status{Code: ws.ExitStatus()}, nil
	}
}

// Ended says whether the process that a pidfd names has ended, reaped or not.
func Ended(pidFD *os.File) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidFD.Fd()), Events: unix.POLLIN}}, 0)
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// Signal sends a signal to the process, and to no other that has its pid later.
func (p *Process) Signal(sig unix.Signal) error {
	return unix.PidfdSendSignal(int(p.PidFD.Fd()), sig, nil, 0)
}
