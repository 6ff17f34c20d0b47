package monitor

import (
	"math"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// faults are the signals by which Go's own handlers tell of a mistake in the program. That somebody sends one is unusual.
var faults = []os.Signal{unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS}

// ours says whether Catch takes a signal over at once. KILL and STOP cannot be caught; 32 and 33 are the C library's; TTIN and TTOU stop a
// command in the background that reads or changes the terminal, and one that caught them would try again for ever; URG is how Go's
// runtime interrupts its threads, and CHLD concerns nobody else.
func ours(n unix.Signal) bool {
	switch n {
	case unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS,
		unix.SIGKILL, unix.SIGSTOP, 32, 33, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGCHLD:
		return false
	}
	return true
}

// caught is the pipe into which the handler writes the number of each signal that comes, as a byte.
//
//lint:ignore U1000 the handler reads it
var caught uint32

// handler returns the addresses of a signal handler that writes into caught, and of what it returns to.
func handler() (handler, restorer uintptr)

// sigaction is the kernel's struct sigaction (rt_sigaction(2)).
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// Flags of asm/signal.h.
const (
	saRestorer = 0x04000000
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
)

// Catch takes over the signals of this process, for as long as it lives: whoever holds a container neither ends by what is meant for
// it, nor while it takes away what the container left.
//
// It does that below os/signal, which asks a thread of its own about each signal: eight signals take longer than half of what a container's
// record does, all of them longer than a whole start. The faults are taken over that way, a moment later.
func Catch() <-chan os.Signal {
	signals := make(chan os.Signal, 64)
	var ends [2]int
	if unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil { // no descriptors are left: little else will work
		signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
		return signals
	}
	takeOver(uint32(ends[1]))
	go pass(os.NewFile(uintptr(ends[0]), "signals"), signals)
	return signals
}

// Drop is Catch for who has no use for any signal. They are not ignored: what this process starts would inherit that.
func Drop() { takeOver(math.MaxUint32) }

// before is how Go's runtime had the signals.
var before [65]sigaction

// Release gives the signals back to os/signal, for who goes on with something else. What has come is lost.
func Release() {
	for n := range before {
		if before[n].handler != 0 {
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&before[n])), 0, unsafe.Sizeof(before[n].mask), 0, 0)
		}
	}
}

// takeOver has the number of each signal written to a descriptor, or nowhere.
func takeOver(to uint32) {
	caught = to
	signal.Ignore(unix.SIGPIPE)                                        // so that a write to a broken stdout is an error and not the end; it is caught like the others, which no child inherits
	a := sigaction{flags: saOnStack | saRestart, mask: math.MaxUint64} // one handler at a time: the signal stack has no room for many
	if a.handler, a.restorer = handler(); a.restorer != 0 {
		a.flags |= saRestorer
	}
	for n := unix.Signal(1); n <= 64; n++ {
		if ours(n) {
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&before[n])), unsafe.Sizeof(a.mask), 0, 0)
		}
	}
}

func pass(from *os.File, to chan os.Signal) {
	time.AfterFunc(20*time.Millisecond, func() { signal.Notify(to, faults...) })
	var b [64]byte
	for {
		n, err := from.Read(b[:])
		if err != nil {
			return
		}
		for _, number := range b[:n] {
			select {
			case to <- unix.Signal(number):
			default: // as os/signal does
			}
		}
	}
}
