package runtime

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The real-time signals that a program may use, signal(7): the C library keeps the kernel's first two for itself.
const (
	sigRTMin = unix.Signal(34)
	sigRTMax = unix.Signal(64)
)

// ParseSignal reads a signal as `docker kill -s` takes it: a number from 1 to 64, or a name, with or without SIG, in letters of either
// case; RTMIN+1 and RTMAX-1 count from the ends of the real-time signals. It is ErrInvalid for anything else, 0 among it: that asks whether
// a process is there and is no signal.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > int(sigRTMax) || s[0] == '+' {
			return 0, invalid("signal %s: want a number from 1 to %d, or a name", s, sigRTMax)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	switch name { // second names, signal(7)
	case "CLD":
		name = "CHLD"
	case "IOT":
		name = "ABRT"
	case "POLL":
		name = "IO"
	case "UNUSED":
		name = "SYS"
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	from, sign := sigRTMin, unix.Signal(1)
	rest, ok := strings.CutPrefix(name, "RTMIN")
	if !ok {
		rest, ok = strings.CutPrefix(name, "RTMAX")
		from, sign = sigRTMax, -1
	}
	if ok && rest == "" {
		return from, nil
	}
	if ok && (sign > 0) == (rest[0] == '+') {
		if n, err := strconv.ParseUint(rest[1:], 10, 8); err == nil && n <= uint64(sigRTMax-sigRTMin) {
			return from + sign*unix.Signal(n), nil
		}
	}
	return 0, invalid("signal %q: there is none of that name", s)
}

// SignalName is a signal's name as ParseSignal reads it: SIGTERM, SIGRTMIN+3.
func SignalName(n unix.Signal) string {
	switch name := unix.SignalName(n); {
	case name != "":
		return name
	case n == sigRTMin:
		return "SIGRTMIN"
	case n > sigRTMin && n <= sigRTMax:
		return "SIGRTMIN+" + strconv.Itoa(int(n-sigRTMin))
	}
	return strconv.Itoa(int(n))
}
