package monitor

import (
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// usual are the signals that people and programs send to the command that started a container.
var usual = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGWINCH}

// Catch takes over the signals of this process, for as long as it lives: whoever holds a container neither ends by what is meant for
// it, nor while it takes away what the container left.
//
// Go's runtime asks a thread of its own about each signal: all of them cost some 3 ms, more than the whole start of a container. So the
// unusual ones (real-time signals, say) are taken over a moment later, when a short command has ended already.
func Catch() <-chan os.Signal {
	c := make(chan os.Signal, 64)
	signal.Notify(c, usual...)
	time.AfterFunc(20*time.Millisecond, func() {
		var rest []os.Signal
		for n := unix.Signal(1); n <= 64; n++ {
			// 32 and 33 are the C library's; KILL and STOP cannot be caught; TTIN and TTOU stop a command in the background that
			// reads or changes the terminal, and one that caught them would try again for ever.
			if n != unix.SIGKILL && n != unix.SIGSTOP && n != 32 && n != 33 && n != unix.SIGTTIN && n != unix.SIGTTOU && !slices.Contains(usual, os.Signal(n)) {
				rest = append(rest, n)
			}
		}
		signal.Notify(c, rest...)
	})
	return c
}
