package tests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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
	for _, at := range []string{"exec/prepared", "exec/started", "exec/waited"} {
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
	before := sum(t, binary)
	seen, held, reached := e.probed(nil, 1200*time.Millisecond, "exec work true", "exec -u ann work true", "exec work nothing")
	if reached != "" || held != 0 {
		t.Errorf("the container reached %s and held %d programs of others", reached, held)
	}
	if seen == 0 {
		t.Error("the probe saw nothing that was not yet the command: it was too slow")
	}
	// A command that leads to our program runs that, as a program of the container's; it cannot be written, as long as it runs and after.
	_, held, reached = e.probed(nil, 1200*time.Millisecond, "exec work /proc/self/exe version", "exec work script", "exec work ours version")
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
