package tests

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	e.ok("--root", filepath.Join(e.dir, "second"), "ps", "-a")
	if out := e.ok("ps", "-a", "--format", "{{.Status}}"); !strings.HasPrefix(out, "Exited (255)") {
		t.Errorf("of a container whose monitor was killed another store left %q", out)
	}
}
