package tests

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// begun starts a container whose command prints "up" first, and waits for that.
func (e *env) begun(args ...string) (cmd *exec.Cmd, out io.Reader) {
	e.t.Helper()
	cmd = e.command(args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	e.start(cmd)
	line := make([]byte, 2)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "up" {
		e.t.Fatalf("%q, %v", line, err)
	}
	return cmd, out
}

// Whoever uses a store sees what runs of it, whatever run root he has.
func TestOtherRunRoot(t *testing.T) {
	e := withBusybox(t)
	other := []string{"--run-root", filepath.Join(e.dir, "other")}
	short, _ := e.begun("run", "--rm", "--name", "short", "busybox", "sh", "-c", "echo up; sleep 2; exit 5")
	kept, _ := e.begun("run", "--name", "kept", "busybox", "sh", "-c", "echo up; exec sleep 1000")
	if out := e.ok(append(other, "ps", "--format", "{{.Names}} {{.State}}")...); out != "kept running\nshort running\n" {
		t.Errorf("ps with another run root: %q", out)
	}
	e.fails(1, []string{"kept", "running"}, append(other, "rm", "kept")...)
	e.ok(append(other, "container", "prune", "-f")...)
	short.Wait()
	if code := short.ProcessState.ExitCode(); code != 5 {
		t.Errorf("the run that others looked at ended with status %d", code)
	}
	e.ok(append(other, "rm", "-f", "kept")...)
	kept.Wait()
	if code := kept.ProcessState.ExitCode(); code != 137 {
		t.Errorf("rm -f with another run root: status %d", code)
	}
}

// Two stores with one run root do not settle each other's containers.
func TestSharedRunRoot(t *testing.T) {
	e := withBusybox(t)
	cmd, _ := e.begun("run", "--name", "orphan", "busybox", "sh", "-c", "echo up; exec sleep 1000")
	e.ok("--root", filepath.Join(e.dir, "second"), "ps", "-a")
	if out := e.ok("ps", "--format", "{{.Names}}"); out != "orphan\n" {
		t.Errorf("after a look from another store: %q", out)
	}
	syscall.Kill(e.monitorOf("orphan"), syscall.SIGKILL)
	cmd.Wait()
	e.ok("--root", filepath.Join(e.dir, "second"), "ps", "-a")
	if out := e.ok("ps", "-a", "--format", "{{.Status}}"); !strings.HasPrefix(out, "Exited (255)") {
		t.Errorf("of a container whose monitor was killed another store left %q", out)
	}
}

// The container's terminal has the window's size from the first moment.
func TestFirstSize(t *testing.T) {
	e := withBusybox(t)
	for range 10 {
		cmd := e.command("run", "--rm", "-it", "busybox", "stty", "size")
		term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(term) // EIO at the end
		cmd.Wait()
		term.Close()
		if string(out) != "33 77\r\n" {
			t.Fatalf("%q", out)
		}
	}
}

// What was typed and nobody reads does not hold signals up, and what somebody reads arrives.
func TestPaste(t *testing.T) {
	e := withBusybox(t)
	start := func(script string) (*exec.Cmd, *os.File) {
		cmd := e.command("run", "--rm", "-it", "busybox", "sh", "-c", script)
		term, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		up := make([]byte, 4)
		if _, err := io.ReadFull(term, up); err != nil || string(up) != "up\r\n" {
			t.Fatalf("%q, %v", up, err)
		}
		return cmd, term
	}
	cmd, term := start("stty -echo; trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
	go term.WriteString(strings.Repeat("0123456789abcde\n", 40_000))
	time.Sleep(500 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		e.run("rm", "-f", strings.TrimSpace(e.ok("ps", "-q")))
		<-done
	}
	term.Close()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("SIGTERM behind a paste that nobody reads: status %d", code)
	}

	cmd, term = start("stty raw -echo opost; echo up; head -c 1000000 | wc -c; stty sane")
	time.Sleep(100 * time.Millisecond)
	go term.WriteString(strings.Repeat("x", 1_000_000))
	out, _ := io.ReadAll(term)
	cmd.Wait()
	term.Close()
	if !strings.HasPrefix(string(out), "1000000") {
		t.Errorf("of a paste of 1000000 bytes arrived %q", out)
	}
}

// A container whose output goes nowhere is told so by its terminal, and the command line waits for its end.
func TestBrokenOutput(t *testing.T) {
	e := withBusybox(t)
	with := "export LAYERCTL_ROOT=" + e.root + " LAYERCTL_RUN_ROOT=" + e.runRoot + "; "
	if out := sh(t, e.dir, with+"set +o pipefail; timeout 10 "+binary+" run --rm -t busybox yes </dev/null | head -1; echo ${PIPESTATUS[0]}"); out != "y\r\n1\n" {
		t.Errorf("a closed pipe: %q", out)
	}
	out := sh(t, e.dir, with+"set +e; "+binary+" run --rm -t --name full busybox sh -c 'echo hi; sleep 0.5; exit 4' </dev/null 2>&1 >/dev/full; echo $?; "+binary+" ps -aq")
	if !strings.Contains(out, ": no space left on device\n") || !strings.HasSuffix(out, "\n125\n") || !strings.Contains(out, "ended with status 4") {
		t.Errorf("a full disk: %q", out)
	}
}

// Interrupts that the command handles are its own affair, however many they are.
func TestHandledInterrupts(t *testing.T) {
	e := withBusybox(t)
	for _, flags := range [][]string{nil, {"-t"}} {
		cmd, out := e.begun(append(append([]string{"run", "--rm"}, flags...), "busybox", "sh", "-c",
			"trap 'echo handled' INT; echo up; for i in $(seq 30); do sleep 0.05; done; echo finished")...)
		for range 4 {
			time.Sleep(200 * time.Millisecond)
			cmd.Process.Signal(syscall.SIGINT)
		}
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		if strings.Count(string(rest), "handled") != 4 || !strings.Contains(string(rest), "finished") || cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("%q: %q, status %d", flags, rest, cmd.ProcessState.ExitCode())
		}
	}
}

// A signal in the first milliseconds leaves nothing behind that runs unattended or was never begun.
func TestEarlySignal(t *testing.T) {
	e := withBusybox(t)
	for i := range 50 {
		args := []string{"run", "busybox", "sleep", "0.3"}
		if i%2 == 0 {
			args = []string{"run", "-t", "busybox", "sleep", "0.3"}
		}
		cmd := e.start(e.command(args...))
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != -1 && code != 143 && code != 0 {
			t.Errorf("%d: status %d", i, code)
		}
		for _, state := range strings.Fields(e.ok("ps", "-a", "--format", "{{.State}}")) {
			if state != "exited" && state != "created" { // it was not to be started
				t.Fatalf("%d: a container is %s", i, state)
			}
		}
	}
}

// A command that was started with & and would read the terminal stops, as any other.
func TestBackground(t *testing.T) {
	e := withBusybox(t)
	cmd := exec.Command("bash", "--norc", "--noediting", "-i")
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "PS1=$ ", "HISTFILE=/dev/null", "LAYERCTL_ROOT="+e.root, "LAYERCTL_RUN_ROOT="+e.runRoot)
	term, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	timer := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill(); term.Close() })
	defer timer.Stop()
	var screen strings.Builder
	buf := make([]byte, 4096)
	for _, step := range [][2]string{
		{binary + " run --rm -i busybox sed s/^/container:/ &\n", "[1] "},
		{"sleep 1; jobs -l\n", "Stopped (tty input)"},
		{"fg\n", "sed s/^/container:/\r\n"},
		{"this\n\x04", "container:this"},
		{"echo 'r'eady\n", "ready\r\n"},
	} {
		screen.Reset()
		term.WriteString(step[0])
		for !strings.Contains(screen.String(), step[1]) {
			n, err := term.Read(buf)
			screen.Write(buf[:n])
			if err != nil {
				t.Fatalf("after %q: %q, %v", step[0], screen.String(), err)
			}
		}
	}
	term.WriteString("exit\n")
	cmd.Wait()
}

// An error is told with the same hint, whoever found it.
func TestHintWithTerminal(t *testing.T) {
	e := withBusybox(t)
	for _, args := range [][]string{{"nothing"}, {"/etc/passwd"}} {
		plain := e.run(append([]string{"run", "--rm", "busybox"}, args...)...)
		term := e.run(append([]string{"run", "--rm", "-t", "busybox"}, args...)...)
		if plain != term || !strings.Contains(term.stderr, "hint: ") {
			t.Errorf("%q: %+v, with a terminal %+v", args, plain, term)
		}
	}
}
