package tests

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// zombies is a command that leaves three orphans behind and turns into a program that reaps none, which counts those that are dead and
// still there.
const zombies = `for i in 1 2 3; do sh -c "sleep 0.05 &"; done
exec awk 'BEGIN { system("sleep 0.4"); while (("cat /proc/[0-9]*/stat" | getline line) > 0) if (line ~ /\) Z /) n++; print n+0 }'`

func TestInit(t *testing.T) {
	e := withBusybox(t)
	sh(t, e.dir, "printf '#!/proc/self/exe\\n' > busybox/bin/self && chmod +x busybox/bin/self")
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"busybox", "sh", "-c", zombies}, 0, "3\n"},
		{[]string{"--init", "busybox", "sh", "-c", zombies}, 0, "0\n"},
		{[]string{"--init", "busybox", "sh", "-c", "cat /proc/1/comm; tr '\\0' '|' < /proc/1/cmdline; exit 42"}, 42,
			"layerctl-init\nlayerctl-init|--|sh|-c|cat /proc/1/comm; tr '\\0' '|' < /proc/1/cmdline; exit 42|"},
		{[]string{"--init", "busybox", "sh", "-c", "kill -SEGV $$"}, 139, ""},
		{[]string{"--init", "-u", "ann", "busybox", "sh", "-c", "id -un; stat -c %U /proc/1; kill -9 $$"}, 137, "ann\nann\n"},
		{[]string{"--init", "busybox", "nothing"}, 127, ""},
		{[]string{"--init", "busybox", "/etc/passwd"}, 126, ""},
		{[]string{"--init", "-w", "/etc/passwd", "busybox", "true"}, 126, ""},
		// The one who writes to the log by way of process 1, and the program that nobody writes to.
		{[]string{"--init", "busybox", "sh", "-c", "echo log > /proc/1/fd/1"}, 0, "log\n"},
		{[]string{"--init", "busybox", "sh", "-c", "(echo x > /proc/1/exe) 2>&1 | grep -c busy; cp /proc/1/exe /tmp/init && chmod +x /tmp/init && stat -c %s /tmp/init | grep -c '^...$'"}, 0, "1\n1\n"},
		// Nor is layerctl's own program to be had by way of the process that becomes the command.
		{[]string{"--init", "busybox", "/proc/self/exe", "version"}, 126, ""},
		{[]string{"--init", "--rootfs", "busybox", "/bin/self", "version"}, 126, ""},
		{[]string{"--init", "busybox", "/proc/1/exe"}, 126, ""},
		{[]string{"--init", "--network", "host", "busybox", "sh", "-c", "kill -0 1 && echo there"}, 0, "there\n"},
	} {
		if r := e.run(append([]string{"run", "--rm"}, row.args...)...); r.code != row.code || r.stdout != row.want {
			t.Errorf("%q: %+v, want %d and %q", row.args, r, row.code, row.want)
		}
	}
	if out := e.ok("run", "--rm", "--init", "--explain", "busybox", "echo", "a b"); !strings.HasSuffix(out,
		"(  # a second process becomes the command\nsetsid\nexec echo 'a b'\n) &\nexec layerctl-init -- echo 'a b'  # execveat, of a sealed file in memory\n") {
		t.Errorf("--explain ends:\n%s", out)
	}
}

// A first process has no default action for a signal; a child of init has.
func TestInitSignals(t *testing.T) {
	e := withBusybox(t)
	start := func(args ...string) *exec.Cmd {
		t.Helper()
		cmd := e.command(append([]string{"run", "--rm"}, args...)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1} {
		cmd := start("--init", "busybox", "sh", "-c", "echo up; exec sleep 100")
		cmd.Process.Signal(sig)
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(sig) {
			t.Errorf("%v with --init: %v", sig, cmd.ProcessState)
		}
	}
	cmd := start("busybox", "sh", "-c", "echo up; exec sleep 1")
	cmd.Process.Signal(syscall.SIGTERM)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("SIGTERM without --init: %v", cmd.ProcessState)
	}
	// The third one ends a first process that does not heed them; with init it is the command's to say what they mean.
	for _, init := range []bool{false, true} {
		args := []string{"busybox", "sh", "-c", "trap '' TERM; echo up; sleep 1; exit 9"}
		want := 137
		if init {
			args, want = append([]string{"--init"}, args...), 9
		}
		cmd := start(args...)
		for range 4 {
			cmd.Process.Signal(syscall.SIGTERM)
			time.Sleep(30 * time.Millisecond)
		}
		if cmd.Wait(); cmd.ProcessState.ExitCode() != want {
			t.Errorf("init=%v: four SIGTERM: %v, want %d", init, cmd.ProcessState, want)
		}
	}
	// Whoever goes first, nobody stays: the command line, and init.
	for _, first := range []string{"the command line", "init"} {
		mark := fmt.Sprintf("%d.%d", 1000+os.Getpid(), len(first))
		cmd := start("--init", "busybox", "sh", "-c", "echo up; sleep "+mark+" & exec sleep "+mark)
		if first == "init" {
			init := strings.TrimSpace(sh(t, e.dir, fmt.Sprintf("cat /proc/%d/task/*/children", cmd.Process.Pid)))
			sh(t, e.dir, "kill -9 "+init)
		} else {
			cmd.Process.Kill()
		}
		cmd.Wait()
		eventually(t, "all have ended with "+first, func() bool { return !running("sleep\x00" + mark) })
		if code := cmd.ProcessState.ExitCode(); first == "init" && code != 137 {
			t.Errorf("kill -9 of init: status %d", code)
		}
		e.ok("ps", "-a")
	}
}

// In a pid namespace of others it is not process 1, and does what it does for its own.
func TestInitShared(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "base", "busybox", "sleep", "1000")
	script := `cat /proc/$PPID/comm; sh -c "sleep 0.05 & echo \$!" > /tmp/pid; read p < /tmp/pid
cut -d' ' -f4 /proc/$p/stat | grep -cx $PPID; sleep 0.3; [ -e /proc/$p ] || echo reaped; kill -TERM $PPID; sleep 5`
	for _, mode := range []string{"container:base", "host"} {
		if r := e.run("run", "--rm", "--init", "--pid", mode, "busybox", "sh", "-c", script); r.code != 143 || r.stdout != "layerctl-init\n1\nreaped\n" {
			t.Errorf("--pid %s: %+v", mode, r)
		}
	}
	e.fails(127, []string{"run nothing: no such file"}, "run", "--rm", "--init", "--pid", "container:base", "busybox", "nothing")
	// Its end is the container's: what is left of it goes with it, and of the other nothing.
	id := strings.TrimSpace(e.ok("run", "-d", "--init", "--pid", "container:base", "busybox", "sh", "-c", "sleep 777 & exec sleep 777"))
	sh(t, e.dir, "kill -9 "+e.ok("inspect", "--format", "{{.State.Pid}}", id))
	if out := strings.TrimSpace(e.ok("wait", id)); out != "137" {
		t.Errorf("kill -9 of init: status %s", out)
	}
	if out := e.ok("top", "base"); strings.Contains(out, "777") || !strings.Contains(out, "sleep 1000") {
		t.Errorf("in the shared namespace:\n%s", out)
	}
}

// running says whether a process has arguments that contain a text.
func running(text string) bool {
	for _, p := range list("/proc") {
		if b, err := os.ReadFile("/proc/" + p + "/cmdline"); err == nil && strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}

// With a terminal: it is the command's, with job control, as without init.
func TestInitTerminal(t *testing.T) {
	e := withBusybox(t)
	sh(t, e.dir, "cp -a /bin/bash busybox/bin/ && cd busybox && for f in $(ldd /bin/bash | grep -o '/[^ ]*'); do mkdir -p .${f%/*} && cp $f .$f; done")
	e.ok("import", "./busybox", "bash")
	socket := "lct-init-" + fmt.Sprint(os.Getpid())
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("tmux", append([]string{"-L", socket, "-f", "/dev/null"}, args...)...)
		cmd.Env = e.command().Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-x", "100", "-y", "30", binary+" run -it --rm --init bash bash --norc; echo status=$?; sleep 100")
	defer exec.Command("tmux", "-L", socket, "kill-server").Run()
	shows := func(text string) {
		t.Helper()
		eventually(t, "the terminal shows "+text, func() bool { return strings.Contains(tmux("capture-pane", "-p"), text) })
	}
	say := func(keys ...string) { t.Helper(); tmux(append([]string{"send-keys"}, keys...)...) }
	shows("bash-")
	say("cat /proc/1/comm; sleep 77", "Enter")
	shows("layerctl-init")
	say("C-z")
	shows("Stopped")
	say("echo job=$(jobs | grep -c sleep); fg", "Enter")
	shows("job=1")
	say("C-c")
	say("echo status=$?x; trap 'echo size $(stty size)' WINCH", "Enter")
	shows("status=130x")
	tmux("resize-window", "-x", "90", "-y", "25")
	shows("size 25 90")
	say("exit 6", "Enter")
	shows("status=6")
}
