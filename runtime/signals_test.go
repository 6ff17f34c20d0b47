package runtime

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{
		"9": 9, "64": 64, "1": 1, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "Hup": 1, "WINCH": unix.SIGWINCH, "SIGCLD": unix.SIGCHLD, "IOT": 6, "POLL": unix.SIGIO,
		"RTMIN": 34, "SIGRTMIN": 34, "RTMIN+1": 35, "sigrtmin+15": 49, "RTMIN+30": 64, "RTMAX": 64, "RTMAX-14": 50, "RTMAX-30": 34, "STKFLT": unix.SIGSTKFLT,
	} {
		if got, err := ParseSignal(s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "-1", "65", "+9", "SIG", "NOPE", "SIGSIGKILL", "RTMIN-1", "RTMAX+1", "RTMIN+31", "RTMIN+", "RTMIN++1", "RTMIN+1x", "RTMIN1", "9 ", "KILL\n", "99999999999999999999"} {
		if got, err := ParseSignal(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is taken for %d (%v)", s, got, err)
		}
	}
}

func TestSignalName(t *testing.T) {
	for n := unix.Signal(1); n <= 64; n++ {
		if got, err := ParseSignal(SignalName(n)); err != nil || got != n {
			t.Errorf("signal %d is called %s, which is %d, %v", n, SignalName(n), got, err)
		}
	}
}
