package tests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// sleeper starts a container that does nothing, and ends it with the test.
func (e *env) sleeper(name string, flags ...string) *exec.Cmd {
	e.t.Helper()
	cmd, _ := e.begun(append(append([]string{"run", "--rm", "--name", name}, flags...), "busybox", "sh", "-c", "echo up; exec sleep 1000")...)
	e.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
	})
	return cmd
}

func TestExec(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("work", "-e", "A=1", "-e", "B=2", "-w", "/srv", "-u", "ann")
	e.sleeper("root")
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"root", "sh", "-c", "test $$ -gt 1 && cat /proc/1/comm; ls /proc/self/fd | wc -w; umask; pwd; echo $HOME"}, "sleep\n4\n0022\n/\n/root\n"},
		{[]string{"work", "sh", "-c", "echo $A $B $HOME; pwd; id -un; id -G"}, "1 2 /home/ann\n/srv\nann\n1000 10 50\n"},
		{[]string{"-e", "B=3", "-e", "C=4", "-e", "A", "work", "sh", "-c", "echo ${A-none} $B $C"}, "none 3 4\n"},
		{[]string{"-u", "0:50", "-w", "/etc", "work", "sh", "-c", "id -u; id -g; pwd; echo $HOME"}, "0\n50\n/etc\n/root\n"},
		{[]string{"work", "cat"}, ""}, // no -i, no input
		// Its bounds are the container's, and so is what it may do.
		{[]string{"root", "sh", "-c", "grep -h -e CapBnd -e CapEff -e CapInh -e CapPrm -e NoNewPrivs /proc/1/status > /1; grep -h -e CapBnd -e CapEff -e CapInh -e CapPrm -e NoNewPrivs /proc/self/status | cmp - /1 && cat /proc/1/limits > /1 && cmp /1 /proc/self/limits && cmp /proc/1/cgroup /proc/self/cgroup && echo same"}, "same\n"},
		{[]string{"root", "sh", "-c", "for n in cgroup ipc mnt net pid uts user; do test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done; hostname > /1; cmp /1 /etc/hostname"}, ""},
	} {
		if got := e.ok(append([]string{"exec"}, row.args...)...); got != row.want {
			t.Errorf("exec %q: %q, want %q", row.args, got, row.want)
		}
	}

	for args, code := range map[string]int{"exit 7": 7, "kill -9 $$": 137, "kill -15 $$": 143} {
		if r := e.run("exec", "work", "sh", "-c", args); r.code != code || r.stderr != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	e.fails(127, []string{"nothing", "no such file"}, "exec", "work", "nothing")
	e.fails(126, []string{"/etc", "permission denied"}, "exec", "work", "/etc")
	e.fails(126, []string{"working directory /no/where", "no such file"}, "exec", "-w", "/no/where", "work", "true")
	e.fails(125, []string{`user "bob"`, "no such user"}, "exec", "-u", "bob", "work", "true")
	e.fails(125, []string{"not absolute"}, "exec", "-w", "srv", "work", "true")
	e.fails(125, []string{"container nobody: no such container"}, "exec", "nobody", "true")
	e.fails(125, []string{"want a container and a command"}, "exec", "work")
	e.fails(125, []string{"--privileged", "not supported"}, "exec", "--privileged", "work", "true")
	e.fails(125, []string{"unknown flag"}, "exec", "--nosuch", "work", "true")

	cmd := e.command("exec", "-i", "work", "sh", "-c", "cat; echo err >&2")
	data := bytes.Repeat([]byte("\x00\r\n\xff"), 300_000)
	cmd.Stdin = bytes.NewReader(data)
	if r := e.finish(cmd); r.stdout != string(data) || r.stderr != "err\n" || r.code != 0 {
		t.Errorf("%d bytes came back of %d; %q, status %d", len(r.stdout), len(data), r.stderr, r.code)
	}
	e.ok("run", "--name", "over", "busybox", "true")
	e.fails(125, []string{"container over: it is not running (exited)"}, "exec", "over", "true")
}

// Signals to the command line are the command's.
func TestExecSignals(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("work")
	for _, row := range []struct {
		script string
		sig    syscall.Signal
		code   int
	}{
		{"exec sleep 1000", syscall.SIGINT, 130},
		{"exec sleep 1000", syscall.SIGUSR1, 138},
		{"trap 'exit 5' TERM; while :; do sleep 0.05; done", syscall.SIGTERM, 5},
	} {
		cmd, _ := e.begun("exec", "work", "sh", "-c", "echo up; "+row.script)
		time.Sleep(50 * time.Millisecond)
		cmd.Process.Signal(row.sig)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != row.code {
			t.Errorf("%q and %v: status %d, want %d", row.script, row.sig, code, row.code)
		}
	}
	if out := e.ok("exec", "work", "sh", "-c", "ps -o comm | grep -c sleep"); out != "1\n" {
		t.Errorf("%s processes sleep in the container, want its own", out)
	}
}

// The container ends, and whatever was started in it: at any moment of a start.
func TestExecWhileItEnds(t *testing.T) {
	e := withBusybox(t)
	work := e.sleeper("work")
	long, out := e.begun("exec", "work", "sh", "-c", "echo up; exec sleep 1000")
	work.Process.Kill()
	io.Copy(io.Discard, out)
	if long.Wait(); long.ProcessState.ExitCode() != 137 {
		t.Errorf("the container was killed, and its command ended with status %d", long.ProcessState.ExitCode())
	}
	statuses := map[int]int{}
	for i := range 25 {
		name := fmt.Sprintf("brief%d", i)
		work, _ := e.begun("run", "--rm", "--name", name, "busybox", "sh", "-c", "echo up; exec sleep 1000")
		timer := time.AfterFunc(time.Duration(i)*400*time.Microsecond, func() { work.Process.Kill() })
		r := e.run("exec", name, "true")
		statuses[r.code]++
		switch r.code {
		case 0, 137:
			if r.stderr != "" {
				t.Errorf("status %d, and %s", r.code, r.stderr)
			}
		case 125:
			if !strings.Contains(r.stderr, "it has ended") && !strings.Contains(r.stderr, "it is not running") && !strings.Contains(r.stderr, "no such container") {
				t.Errorf("a container that ends: %s", r.stderr)
			}
		default:
			t.Errorf("a container that ends: %+v", r)
		}
		timer.Stop()
		work.Process.Kill()
		work.Wait()
	}
	t.Logf("statuses: %v", statuses)
}

// markedProcesses are the processes of the host whose environment has a value.
func markedProcesses(value string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), value) {
			pids = append(pids, describeProcess(filepath.Dir(f)))
		}
	}
	return pids
}

// kill -9 of the command line, anywhere: what it started is gone, and the container goes on.
func TestExecKilled(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("work")
	mark := "MARK=" + filepath.Base(e.dir)
	for i := range 40 {
		cmd := e.start(e.command("exec", "-e", mark, "work", "sleep", "1000"))
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	e.program = buildWith(t, "layerctl-failpoints", "-tags", "failpoints")
	for _, at := range []string{"exec/recorded", "exec/prepared", "exec/started", "exec/waited"} {
		command := []string{"exec", "-e", mark, "work", "sleep", "1000"}
		if at == "exec/waited" {
			command[len(command)-1] = "0"
		}
		cmd := e.command(command...)
		cmd.Env = append(cmd.Env, "LAYERCTL_FAILPOINT="+at)
		if e.finish(cmd); !killed(cmd) {
			t.Errorf("exec does not come to %s", at)
		}
	}
	// Detached, some of these places are the monitor's: the command line says that it is gone.
	for _, at := range []string{"exec/recorded", "monitor/starting", "exec/monitored", "exec/started"} {
		cmd := e.command("exec", "-d", "-e", mark, "work", "sleep", "1000")
		cmd.Env = append(cmd.Env, "LAYERCTL_FAILPOINT="+at)
		if r := e.finish(cmd); !killed(cmd) && (r.code != 125 || !strings.Contains(r.stderr, "monitor is gone")) {
			t.Errorf("exec -d does not come to %s: %+v", at, r)
		}
	}
	if ids := e.execIDs("work"); len(ids) != 0 {
		t.Errorf("of what was killed there are the records %q", ids)
	}
	eventually(t, "what was started in the container has ended", func() bool { return len(markedProcesses(mark)) == 0 })
	// What has ended is reaped by the host's first process, when it gets round to it.
	eventually(t, "only the container's own process is in it", func() bool {
		return e.ok("exec", "work", "ps", "-o", "comm") == "COMMAND\nsleep\nps\n"
	})
}

// probe makes an image with a program that tries to reach others, and two ways to ours.
func (e *env) probe() {
	e.t.Helper()
	tree := filepath.Join(e.dir, "busybox")
	build := exec.Command("go", "build", "-o", filepath.Join(tree, "bin/probe"), "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		e.t.Fatalf("%v\n%s", err, out)
	}
	sh(e.t, tree, `printf '#!/proc/self/exe version\n' > bin/script; chmod 755 bin/script; ln -s /proc/self/exe bin/ours`)
	e.ok("import", "./busybox", "probe")
}

// probed runs the probe in a container "work", and commands meanwhile, and returns how many processes it saw that were not yet a command,
// how many programs of others it held, and what it reached.
func (e *env) probed(flags []string, most time.Duration, commands ...string) (seen, held int, reached string) {
	e.t.Helper()
	info, err := os.Stat(binary)
	if err != nil {
		e.t.Fatal(err)
	}
	cmd, out := e.begun(append(append([]string{"run", "--rm", "--name", "work", "-e", fmt.Sprint("PROBE_SIZE=", info.Size())}, flags...), "probe", "probe", fmt.Sprint(most.Seconds()))...)
	for until := time.Now().Add(most * 3 / 4); time.Now().Before(until); {
		for _, args := range commands {
			x := e.command(strings.Fields(args)...)
			x.Env = append(x.Env, "PROBE_SECRET=y")
			e.finish(x)
		}
	}
	b, err := io.ReadAll(out)
	if err != nil {
		e.t.Fatal(err)
	}
	cmd.Wait()
	e.t.Logf("%q: %s", commands, b)
	i := strings.LastIndex(string(b), "saw ")
	if n, _ := fmt.Sscanf(string(b[max(0, i):]), "saw %d held %d", &seen, &held); n != 2 {
		e.t.Fatalf("the probe ended with %s", b)
	}
	return seen, held, strings.TrimSpace(string(b[:i]))
}

// From inside, nobody reaches into the command line while it becomes the command, nor writes our program.
func TestExecOutOfReach(t *testing.T) {
	e := withBusybox(t)
	e.probe()
	// It finds what it looks for where it may: a program like ours of the container's own.
	for _, found := range []string{"MEMORY\n", "ENVIRONMENT\n"} {
		if out := e.ok("run", "--rm", "probe", "probe", "0.5", "probe", "sleep"); !strings.Contains(out, found) {
			t.Fatalf("the probe is blind: no %q in %q", found, out)
		}
	}
	if err := os.Chmod(binary, 0o755); err != nil {
		t.Fatal(err)
	}
	before := sum(t, binary)
	seen, held, reached := e.probed(nil, 800*time.Millisecond, "exec work true", "exec -u ann work true", "exec work nothing")
	if reached != "" || held != 0 {
		t.Errorf("the container reached %s and held %d programs of others", reached, held)
	}
	if seen == 0 {
		t.Error("the probe saw nothing that was not yet the command: it was too slow")
	}
	// A command that leads to our program runs that, as a program of the container's; it cannot be written, as long as it runs and after.
	_, held, reached = e.probed(nil, 800*time.Millisecond, "exec work /proc/self/exe version", "exec work script", "exec work ours version")
	if strings.Contains(reached, "WRITABLE") || sum(t, binary) != before {
		t.Error("the container opened our program for writing")
	}
	if held == 0 {
		t.Error("the probe held nothing that it could have written: it was too slow")
	}
}

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// term runs a command in a terminal.
func (e *env) term(args ...string) (*exec.Cmd, *os.File) {
	e.t.Helper()
	cmd := e.command(args...)
	blocking, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		e.t.Fatal(err)
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "terminal")
	e.t.Cleanup(func() { f.Close() })
	return cmd, f
}

// says reads a terminal up to a text.
func says(t testing.TB, f *os.File, text string) {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(20 * time.Second))
	var all []byte
	buf := make([]byte, 4096)
	for !strings.Contains(string(all), text) {
		n, err := f.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			t.Fatalf("the terminal says %q and no %q: %v", all, text, err)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("work")
	in := func(script string) string { return e.ok("exec", "work", "sh", "-c", script) }
	cmd, term := e.term("exec", "-it", "work", "sh", "-c", "tty; stty size; echo $TERM; exit 7")
	out, _ := io.ReadAll(term) // EIO at the end
	cmd.Wait()
	if string(out) != "/dev/pts/0\r\n33 77\r\nxterm\r\n" || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("status %d, %q", cmd.ProcessState.ExitCode(), out)
	}
	// Nothing that was printed just before the end is cut, with and without input.
	if out := e.ok("exec", "-t", "work", "seq", "30000"); strings.Count(out, "\r\n") != 30000 || !strings.HasSuffix(out, "\n30000\r\n") {
		t.Errorf("%d lines of 30000, the end is %q", strings.Count(out, "\n"), out[max(0, len(out)-30):])
	}
	e.fails(125, []string{"not a TTY"}, "exec", "-it", "work", "true")
	e.fails(125, []string{"--detach-keys nosuch"}, "exec", "-it", "--detach-keys", "nosuch", "work", "true")
	for command, code := range map[string]int{"nothing": 127, "/etc": 126} {
		e.fails(code, []string{command}, "exec", "-t", "work", command)
		e.fails(code, []string{command}, "exec", "-d", "work", command)
	}

	// A shell with job control, a window that changes, and a user of the container's.
	cmd, term = e.term("exec", "-it", "-u", "ann", "work", "sh")
	term.WriteString("id -un; stty size; until stty size | grep -q '40 100'; do sleep 0.05; done; echo resi''zed\n")
	says(t, term, "ann\r\n33 77\r\n")
	rc, err := term.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100})
	})
	if err != nil {
		t.Fatal(err)
	}
	says(t, term, "resized\r\n")
	term.WriteString("sleep 500\n")
	eventually(t, "the shell's command runs", func() bool { return in("ps -o args | grep -c '[s]leep 500'; true") == "1\n" })
	term.WriteString("\x03echo status $?\n")
	says(t, term, "status 130")
	term.WriteString("echo gone > /tmp/left; exit 3\n")
	io.Copy(io.Discard, term)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("status %d", cmd.ProcessState.ExitCode())
	}

	// Detached from by its keys it goes on; when its terminal or our program goes away it is hung up.
	for name, leave := range map[string]func(cmd *exec.Cmd, term *os.File){
		"detach": func(_ *exec.Cmd, term *os.File) { term.WriteString("\x10\x11") },
		"close":  func(_ *exec.Cmd, term *os.File) { term.Close() },
		"kill":   func(cmd *exec.Cmd, _ *os.File) { cmd.Process.Kill() },
	} {
		cmd, term := e.term("exec", "-it", "work", "sh", "-c", "echo up; while read x; do echo $x; done; sleep 0.1; echo ended > /tmp/"+name)
		says(t, term, "up")
		leave(cmd, term)
		cmd.Wait()
		if name == "detach" {
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("detached: status %d", code)
			}
			if ids := e.execIDs("work"); len(ids) != 1 {
				t.Errorf("after the detachment there are the commands %q", ids)
			}
			if out := in("ps -o args | grep -c '[w]hile read'; ls /tmp/detach 2>&1; kill $(ps -o pid,args | grep '[w]hile read' | cut -c1-5)"); !strings.HasPrefix(out, "1\n") || !strings.Contains(out, "No such file") {
				t.Errorf("detached from, it is %q", out)
			}
			continue
		}
		eventually(t, name+" ends what has the terminal", func() bool { return in("ps -o args | grep -c '[w]hile read'; true") == "0\n" })
	}
	eventually(t, "no record is left", func() bool { return len(e.execIDs("work")) == 0 })
}

// execIDs are what inspect shows of the commands in a container.
func (e *env) execIDs(name string) []string {
	e.t.Helper()
	var list []struct{ ExecIDs []string }
	fromJSON(e.t, e.ok("inspect", name), &list)
	return list[0].ExecIDs
}

func TestExecDetached(t *testing.T) {
	e := withBusybox(t)
	work := e.sleeper("work")
	if out := e.ok("exec", "-d", "-e", "A=1", "-w", "/tmp", "work", "sh", "-c", "echo $A > one; test -t 0 || echo none >> one; cat >> one; echo out; sleep 0.2; echo done >> one"); out != "" {
		t.Errorf("exec -d printed %q", out)
	}
	if ids := e.execIDs("work"); len(ids) != 1 || len(ids[0]) != 64 {
		t.Errorf("in the container run the commands %q", ids)
	}
	eventually(t, "it has ended", func() bool { return len(e.execIDs("work")) == 0 })
	if out := e.ok("exec", "work", "cat", "/tmp/one"); out != "1\nnone\ndone\n" {
		t.Errorf("%q", out)
	}
	e.ok("exec", "-d", "-t", "work", "sh", "-c", "tty > /tmp/tty; sleep 0.1; seq 100000; echo done > /tmp/tty2")
	eventually(t, "one with a terminal that nobody sees ends", func() bool {
		return e.run("exec", "work", "cat", "/tmp/tty", "/tmp/tty2").stdout == "/dev/pts/0\ndone\n"
	})

	// Its monitor is killed: what it watched is gone. The container ends: so it has.
	mark := "MARK=" + filepath.Base(e.dir)
	e.ok("exec", "-d", "-e", mark, "work", "sleep", "1000")
	for _, p := range monitorsOf(t, e) {
		syscall.Kill(p, syscall.SIGKILL)
	}
	eventually(t, "what a killed monitor watched has ended", func() bool { return len(markedProcesses(mark)) == 0 })
	if ids := e.execIDs("work"); len(ids) != 0 {
		t.Errorf("of commands whose monitor was killed there are %q", ids)
	}
	e.ok("exec", "-d", "-e", mark, "work", "sleep", "1000")
	work.Process.Kill()
	work.Wait()
	eventually(t, "a command ends with its container", func() bool { return len(markedProcesses(mark)) == 0 })
	e.fails(125, []string{"no such container"}, "exec", "-d", "work", "true")
}

// monitorsOf are the monitors of commands in the test's containers.
func monitorsOf(t testing.TB, e *env) (pids []int) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if args := strings.Split(string(b), "\x00"); len(args) > 2 && args[0] == "layerctl-monitor" && args[1] == "exec" && args[2] == e.root {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// A paused container takes no command; one that is paused while a command starts lets it go on later.
func TestExecPaused(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "work", "busybox", "sleep", "1000")
	long, out := e.begun("exec", "work", "sh", "-c", "echo up; sleep 0.3; echo done")
	e.ok("pause", "work")
	for _, flags := range [][]string{{}, {"-t"}, {"-d"}} {
		e.fails(125, []string{"container work", "paused"}, append(append([]string{"exec"}, flags...), "work", "true")...)
	}
	time.Sleep(500 * time.Millisecond)
	if ids := e.execIDs("work"); len(ids) != 1 {
		t.Errorf("while it is paused, the commands in it are %q", ids)
	}
	e.ok("unpause", "work")
	if b, err := io.ReadAll(out); err != nil || string(b) != "\ndone\n" {
		t.Errorf("after the pause: %q, %v", b, err)
	}
	long.Wait()

	for i := range 12 {
		x := e.command("exec", "work", "echo", "through")
		var b bytes.Buffer
		x.Stdout = &b
		e.start(x)
		time.Sleep(time.Duration(i) * time.Millisecond / 2)
		e.ok("pause", "work")
		time.Sleep(20 * time.Millisecond)
		e.ok("unpause", "work")
		x.Wait()
		if code := x.ProcessState.ExitCode(); code == 0 && b.String() != "through\n" || code != 0 && code != 125 {
			t.Errorf("%d: a pause while it starts: status %d, %q", i, code, b.String())
		}
	}
	e.ok("rm", "-f", "work")
}

func TestExecExplained(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("work")
	out := e.ok("exec", "--explain", "-w", "/tmp", "work", "true")
	for _, want := range []string{"nsenter --target ", " --mount", " --net", "cd /tmp", "exec true", "setsid"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "unshare") || strings.Contains(out, "mount -t") {
		t.Errorf("a command in a container makes nothing:\n%s", out)
	}
}

// Whoever runs a command in a container is stopped, with or without a terminal: the container ends all the same, and its commands with it.
func TestExecStopped(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "work", "busybox", "sleep", "1000")
	foreground, _ := e.begun("exec", "work", "sh", "-c", "echo up; exec sleep 1000")
	e.ok("exec", "-d", "work", "sleep", "1000")
	stopped := append(monitorsOf(t, e), foreground.Process.Pid)
	if len(stopped) != 2 {
		t.Fatalf("%d parents of commands", len(stopped))
	}
	for _, pid := range stopped {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	e.ok("stop", "-t", "0", "work")
	if out := e.ok("ps", "-a", "--format", "{{.Status}}"); !strings.HasPrefix(out, "Exited (137)") {
		t.Errorf("after stop the container is %q", out)
	}
	foreground.Wait()
	eventually(t, "no monitor of a command is left", func() bool { return len(monitorsOf(t, e)) == 0 })
}
