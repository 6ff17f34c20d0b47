package monitor

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Every signal that can be caught comes, from wherever it is sent to whichever thread, and none stays with what this process starts.
func TestCatch(t *testing.T) {
	if os.Getenv("LAYERCTL_TEST_CATCH") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCatch$", "-test.v")
		cmd.Env = append(os.Environ(), "LAYERCTL_TEST_CATCH=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ignored := masks(t)["SigIgn"] // by who started us: make, by way of posix_spawn(3), ignores signal 32
	signals := Catch()
	time.Sleep(500 * time.Millisecond) // until the faults are caught, too, on a machine that is busy
	for n := unix.Signal(1); n <= 64; n++ {
		if !ours(n) && !slices.Contains(faults, os.Signal(n)) {
			continue
		}
		err := unix.Kill(os.Getpid(), n)
		if err == unix.EINVAL && n > 32 {
			continue // an emulator keeps it for itself
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-signals:
			if got != n {
				t.Fatalf("%v was sent, %v came", n, got)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%v did not come", n)
		}
	}

	// They come in between whatever is done.
	const rounds = 2000
	done := make(chan int)
	go func() {
		grown := 0
		for range rounds {
			grown += len(strings.Repeat("x", 1000+grown%1000))
			unix.Kill(os.Getpid(), unix.SIGUSR1)
		}
		done <- grown
	}()
	came := 0
	for finished := false; !finished || came == 0; {
		select {
		case <-signals:
			came++
		case <-done:
			finished = true
		}
	}

	// A broken pipe is an error and not the end, also where it is stdout.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := w.WriteString("nobody reads this"); !errors.Is(err, unix.EPIPE) {
		t.Errorf("a write to a broken pipe: %v", err)
	}
	stdout, err := unix.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(int(w.Fd()), 1, 0); err != nil {
		t.Fatal(err)
	}
	_, werr := os.Stdout.WriteString("nor this")
	if err := unix.Dup3(stdout, 1, 0); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(werr, unix.EPIPE) {
		t.Errorf("a write to a broken stdout: %v", werr)
	}

	Release()
	interrupted, stop := signal.NotifyContext(t.Context(), unix.SIGINT)
	defer stop()
	unix.Kill(os.Getpid(), unix.SIGINT)
	select {
	case <-interrupted.Done():
	case <-time.After(10 * time.Second):
		t.Error("a signal that was released does not come")
	}
	Catch()

	if m := masks(t); m["SigIgn"] != ignored || m["SigCgt"] != "0000000000000000" {
		t.Errorf("a program that was started ignores %s, without us %s, and catches %s", m["SigIgn"], ignored, m["SigCgt"])
	}
}

// masks are the sets of signals of a program that this one starts (proc_pid_status(5)).
func masks(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, mask, ok := strings.Cut(strings.TrimSpace(line), ":\t"); ok && strings.HasPrefix(name, "Sig") {
			m[name] = mask
		}
	}
	return m
}
