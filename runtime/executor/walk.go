package executor

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/plan"
)

// What package syscall uses around its own fork; the runtime keeps them for others, too (go.dev/issue/67401).
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:noescape
func rawClone3(args, size uintptr) (pid, errno uintptr)

// cloneArgs is struct clone_args of linux/sched.h.
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// status is what the child tells the parent, in a shared page: the step that it is at, the one that the second process of OpFork is at,
// and the error that stopped either, with its step.
type status struct {
	step, second   uint64
	errno, stopped uint64
	results        [maxSteps]uint64 // of the steps done; failed ones hold failed
}

const (
	maxSteps   = 480
	failed     = ^uint64(0)
	exitFailed = 125
)

// spawn makes the child. In it, it never returns; in the parent it returns at once, and the caller does the rest: this frame may be the
// child's, too.
//
//go:noinline
//go:norace
//go:nocheckptr
func spawn(args *cloneArgs, program uintptr, st *status, keep uintptr) (pid, errno uintptr) {
	beforeFork()
	pid, errno = rawClone3(uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args))
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	walk(program, st, keep)
	return 0, 0
}

// word reads the n-th word at an address.
//
//go:nosplit
//go:norace
//go:nocheckptr
func word(at uintptr, n uintptr) uintptr {
	at += 8 * n
	return **(**uintptr)(unsafe.Pointer(&at)) // memory that the garbage collector does not know
}

// walk does the steps of a relocated plan and ends in the command, or in exit. Nothing in it may allocate, grow the stack or call what
// is not nosplit: there is no Go runtime in this process. It keeps the descriptor keep, where that is above 2, until the command begins.
//
//go:nosplit
//go:norace
//go:nocheckptr
func walk(program uintptr, st *status, keep uintptr) {
	n := word(program, 3)
	at := &st.step
	for i := uintptr(0); i < n; i++ {
		rec := program + 8*(plan.HeadWords+plan.StepWords*i)
		*at = uint64(i + 1)
		if needs := word(rec, 2); needs != 0 && st.results[needs-1] == failed {
			st.results[i] = failed
			continue
		}
		var a [6]uintptr
		for j := uintptr(0); j < 6; j++ {
			a[j] = word(rec, 9+j)
			if word(rec, 3+j) == 3 { // the result of an earlier step
				a[j] = uintptr(st.results[a[j]-1])
			}
		}
		var r uintptr
		var e syscall.Errno
		switch word(rec, 0) {
		case uintptr(plan.OpCall):
			r, _, e = syscall.RawSyscall6(word(rec, 1), a[0], a[1], a[2], a[3], a[4], a[5])
		case uintptr(plan.OpCheckFS):
			var buf [15]uint64 // struct statfs; the type comes first
			_, _, e = syscall.RawSyscall(unix.SYS_STATFS, a[0], uintptr(unsafe.Pointer(&buf)), 0)
			if e == 0 && uintptr(buf[0]) != a[1] {
				e = syscall.ENOTSUP
			}
		case uintptr(plan.OpCloseRest):
			e = closeRest(min(keep, a[0]), max(keep, a[0]))
		case uintptr(plan.OpFork):
			if r, e = fork(st); e != 0 {
				break
			}
			if r == 0 {
				at = &st.second
				continue
			}
			st.results[i] = uint64(r)
			i += a[0]
			continue
		case uintptr(plan.OpCaller):
			if keep > 2 {
				_, _, e = syscall.RawSyscall(unix.SYS_WRITE, keep, rec, 1)
			}
		default:
			e = execAny(a[0], a[1], a[2])
		}
		if e == 0 {
			st.results[i] = uint64(r)
			continue
		}
		st.results[i] = failed
		if uintptr(e) == word(rec, 15) || uintptr(e) == word(rec, 16) || uintptr(e) == word(rec, 17) {
			continue
		}
		st.stopped, st.errno = uint64(i+1), uint64(e)
		break
	}
	exit()
}

//go:nosplit
//go:norace
//go:nocheckptr
func exit() {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, exitFailed, 0, 0)
	}
}

// fork makes a second process, with memory of its own, so that this function may return in both. The first gets its pidfd; the second
// gets 0, when the first has executed a program: while the container's command runs, nobody in its pid namespace may have the caller's
// memory. The second dies with the first.
//
//go:nosplit
//go:norace
//go:nocheckptr
func fork(st *status) (pidFD uintptr, e syscall.Errno) {
	var gate [2]int32
	if _, _, e := syscall.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&gate)), unix.O_CLOEXEC, 0); e != 0 {
		return 0, e
	}
	first, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	fd := int32(-1)
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PIDFD|uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&fd)), 0, 0, 0)
	if e != 0 {
		return 0, e
	}
	if pid != 0 {
		syscall.RawSyscall(unix.SYS_CLOSE, uintptr(gate[0]), 0, 0)
		return uintptr(fd), 0 // gate[1] closes when it executes a program, or ends
	}
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(gate[1]), 0, 0)
	_, _, e = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	syscall.RawSyscall(unix.SYS_READ, uintptr(gate[0]), uintptr(unsafe.Pointer(&fd)), 1) // no signal disturbs it: they are blocked
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(gate[0]), 0, 0)
	if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); st.errno != 0 || parent != first {
		exit()
	}
	return 0, e
}

// closeRest closes the descriptors from 3 on, but two, of which a is not the greater one.
//
//go:nosplit
//go:norace
//go:nocheckptr
func closeRest(a, b uintptr) (e syscall.Errno) {
	from := uintptr(3)
	if a > 2 {
		if e = closeRange(from, a-1); e != 0 {
			return e
		}
		from = a + 1
	}
	if b > 2 {
		if e = closeRange(from, b-1); e != 0 {
			return e
		}
		from = b + 1
	}
	return closeRange(from, uintptr(^uint32(0)))
}

//go:nosplit
//go:norace
//go:nocheckptr
func closeRange(first, last uintptr) (e syscall.Errno) {
	if first <= last {
		_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, first, last, 0)
	}
	return e
}

// execAny tries each path as execvp does: one that may not be run is remembered, for it says more than that others are not there.
//
//go:nosplit
//go:norace
//go:nocheckptr
func execAny(paths, argv, envv uintptr) syscall.Errno {
	last := syscall.ENOENT
	for i := uintptr(0); word(paths, i) != 0; i++ {
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, word(paths, i), argv, envv)
		switch e {
		case syscall.ENOENT, syscall.ENOTDIR:
		case syscall.EACCES:
			last = e
		default:
			return e
		}
	}
	return last
}
