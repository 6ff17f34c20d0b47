package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// state is what ps says of a container.
func (e *env) state(name string) string {
	e.t.Helper()
	for line := range strings.Lines(e.ok("ps", "-a", "--format", "{{.Names}} {{.State}}")) {
		if state, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(state)
		}
	}
	return ""
}

// monitorOf is the pid of a container's monitor.
func (e *env) monitorOf(name string) int {
	e.t.Helper()
	id := strings.TrimSpace(e.ok("inspect", "--format", "{{.Id}}", name))
	states, _ := filepath.Glob(filepath.Join(e.runRoot, "containers/*", id, "state.json"))
	if len(states) != 1 {
		e.t.Fatalf("container %s has states %q", name, states)
	}
	b, err := os.ReadFile(states[0])
	var s struct{ Monitor int }
	if err != nil || json.Unmarshal(b, &s) != nil || s.Monitor == 0 {
		e.t.Fatalf("%s: %q, %v", states[0], b, err)
	}
	return s.Monitor
}

// A container is made, started, ended and started again, and what it writes stays.
func TestLife(t *testing.T) {
	e := withBusybox(t)
	id := strings.TrimSpace(e.ok("create", "--name", "work", "-e", "A=1", "busybox", "sh", "-c", "echo $A; echo err >&2; echo run >> /log; exit 3"))
	if len(id) != 64 || e.state("work") != "created" {
		t.Fatalf("create printed %q; ps: %s", id, e.state("work"))
	}
	if r := e.run("start", "-a", "work"); r.code != 3 || r.stdout != "1\n" || r.stderr != "err\n" {
		t.Errorf("start -a: %+v", r)
	}
	if got := e.ok("start", "work"); got != "work\n" {
		t.Errorf("start prints %q", got)
	}
	if got := e.ok("wait", "work"); got != "3\n" {
		t.Errorf("wait prints %q", got)
	}
	if e.state("work") != "exited" || e.ok("cp", "work:/log", "log") != "" {
		t.Error(e.state("work"))
	}
	if b, _ := os.ReadFile(filepath.Join(e.dir, "log")); string(b) != "run\nrun\n" {
		t.Errorf("after two runs /log has %q", b)
	}

	// In the background, and stopped: by the stop signal, or killed when it does not heed it.
	id = strings.TrimSpace(e.ok("run", "-d", "--name", "heeds", "busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.02; done"))
	if got := e.ok("inspect", "--format", "{{.Id}} {{.State.Status}}", "heeds"); got != id+" running\n" {
		t.Errorf("run -d printed %q, inspect says %q", id, got)
	}
	e.fails(1, []string{"running"}, "rm", "heeds")
	if got := e.ok("stop", "heeds"); got != "heeds\n" {
		t.Errorf("stop prints %q", got)
	}
	if got := e.ok("wait", "heeds"); got != "5\n" {
		t.Errorf("a container that heeds its stop signal ends with %q", got)
	}
	e.ok("stop", "heeds") // again: nothing to do
	e.ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.02; done")
	before := time.Now()
	e.ok("stop", "-t", "1", "deaf")
	if took := time.Since(before); took < time.Second || took > 8*time.Second {
		t.Errorf("stop -t 1 took %v", took)
	}
	if got := e.ok("wait", "deaf"); got != "137\n" {
		t.Errorf("a container that was killed ends with %q", got)
	}
	e.ok("restart", "-t", "0", "deaf")
	if e.state("deaf") != "running" {
		t.Errorf("restarted it is %s", e.state("deaf"))
	}
	e.ok("kill", "deaf")
	if got := e.ok("wait", "deaf"); got != "137\n" {
		t.Errorf("kill: %q", got)
	}
	e.fails(1, []string{"not running"}, "kill", "deaf")
	e.fails(2, []string{"NOSIG"}, "kill", "-s", "NOSIG", "deaf")

	// The command line that started it may go.
	cmd, _ := e.begun("run", "--name", "left", "busybox", "sh", "-c", "trap 'exit 7' USR1; echo up; while :; do sleep 0.02; done")
	cmd.Process.Kill()
	cmd.Wait()
	if e.state("left") != "running" {
		t.Errorf("whose command line was killed is %s", e.state("left"))
	}
	e.ok("kill", "-s", "USR1", "left")
	if got := e.ok("wait", "left"); got != "7\n" {
		t.Errorf("kill -s USR1: %q", got)
	}

	// One that removes itself.
	e.ok("run", "-d", "--rm", "--name", "gone", "busybox", "sh", "-c", "sleep 0.5; exit 6")
	if got := e.ok("wait", "gone"); got != "6\n" {
		t.Errorf("wait for a container that is removed: %q", got)
	}
	eventually(t, "it is removed", func() bool { return e.state("gone") == "" })
	fore, _ := e.begun("run", "--rm", "--name", "fore", "busybox", "sh", "-c", "echo up; sleep 0.5; exit 9")
	if got := e.ok("wait", "fore"); got != "9\n" {
		t.Errorf("wait for a container in the foreground: %q", got)
	}
	fore.Wait()
	fore, _ = e.begun("run", "--rm", "--name", "fore", "busybox", "sh", "-c", "echo up; sleep 1000")
	e.fails(1, []string{"foreground of another command"}, "attach", "fore")
	e.ok("stop", "-t", "0", "fore")
	fore.Wait()

	// One that is being started is waited for.
	for range 5 {
		cmd := e.start(e.command("run", "--name", "young", "busybox", "sleep", "1000"))
		eventually(t, "it is there", func() bool { return e.run("inspect", "young").code == 0 })
		e.ok("stop", "-t", "0", "young")
		cmd.Wait()
		if e.state("young") == "running" {
			t.Errorf("stopped while it started it runs")
		}
		e.ok("rm", "young")
	}

	// What cannot be started says so, and stays created.
	e.fails(127, []string{"nosuch"}, "run", "-d", "--name", "cannot", "busybox", "nosuch")
	if got := e.ok("ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}"); !strings.Contains(got, "cannot created Created\n") {
		t.Errorf("that cannot be started is %q", got)
	}
	if got := e.ok("inspect", "--format", "{{.State.ExitCode}}", "cannot"); got != "127\n" {
		t.Errorf("its exit status is %q", got)
	}
	e.fails(1, []string{"cannot", "nosuch"}, "start", "cannot")
	e.fails(1, []string{"nobody", "no such container"}, "start", "nobody")
	e.fails(1, []string{"not running"}, "attach", "cannot")
}

func TestPause(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "work", "busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done")
	count := func() string {
		id := strings.TrimSpace(e.ok("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "work"))
		b, _ := os.ReadFile(filepath.Join(id, "tmp/n"))
		return string(b)
	}
	eventually(t, "it counts", func() bool { return count() != "" })
	if got := e.ok("pause", "work"); got != "work\n" {
		t.Errorf("pause prints %q", got)
	}
	if got := e.ok("ps", "--format", "{{.State}} {{.Status}}"); !strings.HasPrefix(got, "paused ") {
		t.Errorf("paused it is %q", got)
	}
	n := count()
	e.ok("commit", "work", "made") // which stops it, too, and does not let it go on
	time.Sleep(100 * time.Millisecond)
	if m := count(); m != n {
		t.Errorf("paused it counts from %q to %q", n, m)
	}
	e.fails(1, []string{"paused already"}, "pause", "work")
	e.fails(1, []string{"paused"}, "attach", "work")
	e.fails(1, []string{"paused"}, "start", "work")
	e.ok("unpause", "work")
	eventually(t, "it counts again", func() bool { return count() != n })
	e.fails(1, []string{"not paused"}, "unpause", "work")
	for _, end := range [][]string{{"stop", "-t", "1", "work"}, {"kill", "work"}, {"rm", "-f", "work"}} {
		e.ok("pause", "work")
		e.ok(end...)
		if end[0] != "rm" {
			if got := e.ok("wait", "work"); got != "137\n" {
				t.Errorf("%q of a paused container: status %q", end, got)
			}
			e.ok("start", "work")
		}
	}
}

func TestRestartPolicy(t *testing.T) {
	e := withBusybox(t)
	runs := func(name string) int {
		upper := strings.TrimSpace(e.ok("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", name))
		b, _ := os.ReadFile(filepath.Join(upper, "runs"))
		return strings.Count(string(b), "\n")
	}
	e.ok("run", "-d", "--name", "fails", "--restart", "on-failure:2", "busybox", "sh", "-c", "echo >> /runs; exit 4")
	eventually(t, "it has failed for good", func() bool { return e.state("fails") == "exited" })
	if n := runs("fails"); n != 3 {
		t.Errorf("on-failure:2 ran %d times", n)
	}
	if got := e.ok("wait", "fails"); got != "4\n" {
		t.Errorf("it ended with %q", got)
	}
	e.ok("run", "-d", "--name", "good", "--restart", "on-failure", "busybox", "sh", "-c", "echo >> /runs")
	e.ok("wait", "good")
	time.Sleep(300 * time.Millisecond)
	if n := runs("good"); n != 1 || e.state("good") != "exited" {
		t.Errorf("on-failure of one that does not fail ran %d times, and it is %s", n, e.state("good"))
	}
	e.ok("run", "-d", "--name", "always", "--restart", "always", "busybox", "sh", "-c", "echo >> /runs; echo run; exit 1")
	eventually(t, "it has run three times", func() bool { return runs("always") >= 3 })
	eventually(t, "it is between two runs", func() bool { return e.state("always") == "restarting" })
	e.fails(1, []string{"restarting"}, "attach", "always")
	restarts := func() string { return e.ok("inspect", "--format", "{{.RestartCount}}", "always") }
	before := restarts()
	e.ok("start", "always")
	if after := restarts(); after == before {
		t.Errorf("a start between two runs leaves %s runs", after)
	}
	eventually(t, "it is between two runs again", func() bool { return e.state("always") == "restarting" })
	if r := e.run("start", "-a", "always"); r.code != 1 || r.stdout != "run\n" {
		t.Errorf("attached, a start between two runs ends with %d and %q: %s", r.code, r.stdout, r.stderr)
	}
	eventually(t, "it is between two runs again", func() bool { return e.state("always") == "restarting" })
	e.fails(1, []string{"is not running (restarting)"}, "kill", "-s", "USR1", "always")
	e.ok("kill", "always")
	if e.state("always") != "exited" {
		t.Errorf("killed between two runs it is %s", e.state("always"))
	}
	e.ok("start", "always")
	eventually(t, "it is between two runs again", func() bool { return e.state("always") == "restarting" })
	e.ok("stop", "always")
	n := runs("always")
	time.Sleep(500 * time.Millisecond)
	if runs("always") != n || e.state("always") != "exited" {
		t.Errorf("stopped it ran again, and it is %s", e.state("always"))
	}
	e.ok("start", "always")
	eventually(t, "it runs again", func() bool { return runs("always") > n })
	e.ok("rm", "-f", "always")
	e.ok("run", "-d", "--name", "long", "--restart", "unless-stopped", "busybox", "sh", "-c", "echo >> /runs; exec sleep 1000")
	eventually(t, "it runs", func() bool { return runs("long") == 1 })
	e.ok("kill", "long")
	eventually(t, "it has ended", func() bool { return e.state("long") == "exited" })
	if n := runs("long"); n != 1 {
		t.Errorf("killed by its user it ran %d times", n)
	}
}

// Whatever becomes of the monitor, what is told of the container is true, and everything can be cleaned up.
func TestMonitorGone(t *testing.T) {
	e := withBusybox(t)
	long := []string{"run", "-d", "--name", "work", "busybox", "sleep", "1000"}
	e.ok(long...)
	pid := strings.TrimSpace(e.ok("inspect", "--format", "{{.State.Pid}}", "work"))
	syscall.Kill(e.monitorOf("work"), syscall.SIGKILL)
	eventually(t, "it has ended", func() bool { return e.state("work") == "exited" })
	eventually(t, "its process is gone", func() bool {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(b), ") Z ") // whoever adopted it may take his time
	})
	if got := e.ok("inspect", "--format", "{{.State.ExitCode}} {{.State.Error}}", "work"); !strings.HasPrefix(got, "255 its monitor was killed") {
		t.Errorf("its end is told as %q", got)
	}
	e.ok("start", "work")
	if e.state("work") != "running" {
		t.Errorf("started again it is %s", e.state("work"))
	}

	// A monitor that stands still does not keep its container from being ended.
	monitor := e.monitorOf("work")
	syscall.Kill(monitor, syscall.SIGSTOP)
	if e.state("work") != "running" {
		t.Errorf("whose monitor stands still it is %s", e.state("work"))
	}
	e.fails(1, []string{"monitor", "is stopped"}, "attach", "work")
	e.ok("rm", "-f", "work")
	eventually(t, "the monitor is gone", func() bool { return !exists("/proc/" + strconv.Itoa(monitor)) })

	// What says that it runs is damaged, or gone.
	e.ok(long...)
	states, err := filepath.Glob(filepath.Join(e.runRoot, "containers/*/*/state.json"))
	if err != nil || len(states) != 1 {
		t.Fatal(states, err)
	}
	state := states[0]
	for _, damage := range []string{"sed -i 's/\"Pid\":[0-9]*/\"Pid\":1/' ", "truncate -s 40 ", "truncate -s 0 ", "truncate -s 1T ", "rm -rf $FILE; mkdir ", "rm -rf $FILE; mkfifo "} {
		sh(t, e.dir, "FILE="+state+"; "+damage+state)
		if e.state("work") != "running" || e.ok("exec", "work", "echo", "in it") != "in it\n" {
			t.Errorf("after %s its state is %s", damage, e.state("work"))
		}
	}
	sh(t, e.dir, "rm "+filepath.Join(filepath.Dir(state), "attach")+"; rm -rf "+state+"; touch "+state)
	e.ok("rm", "-f", "work")

	// A reboot: nobody runs, and the run root is empty.
	e.ok(long...)
	monitor = e.monitorOf("work")
	sh(t, e.dir, "mv run before")
	syscall.Kill(monitor, syscall.SIGKILL)
	eventually(t, "the monitor is gone", func() bool { return !exists("/proc/" + strconv.Itoa(monitor)) })
	if got := e.ok("ps", "-a", "--format", "{{.State}} {{.Status}}"); !strings.HasPrefix(got, "exited Exited (255)") {
		t.Errorf("after a reboot it is %q", got)
	}
	e.ok("start", "work")
	if e.state("work") != "running" {
		t.Errorf("started after a reboot it is %s", e.state("work"))
	}
	e.ok("rm", "-f", "work")
	sh(t, e.dir, "rm -rf before")
}

// Two at once: one of them does it, and the other finds it done, or says what it found.
func TestRaces(t *testing.T) {
	e := withBusybox(t)
	both := func(a, b []string) (ra, rb result) {
		var wg sync.WaitGroup
		wg.Go(func() { ra = e.finish(e.command(a...)) })
		wg.Go(func() { rb = e.finish(e.command(b...)) })
		wg.Wait()
		return ra, rb
	}
	for i := range 8 {
		name := fmt.Sprintf("c%d", i)
		e.ok("create", "--name", name, "busybox", "sleep", "1000")
		a, b := both([]string{"start", name}, []string{"start", name})
		if a.code != 0 || b.code != 0 || e.state(name) != "running" {
			t.Fatalf("two starts: %+v and %+v; it is %s", a, b, e.state(name))
		}
		if a, b := both([]string{"stop", "-t", "1", name}, []string{"stop", "-t", "0", name}); a.code != 0 || b.code != 0 || e.state(name) != "exited" {
			t.Fatalf("two stops: %+v and %+v; it is %s", a, b, e.state(name))
		}
		a, b = both([]string{"start", name}, []string{"rm", name})
		switch state := e.state(name); {
		case a.code == 0 && b.code != 0 && state == "running":
		case a.code != 0 && b.code == 0 && state == "":
		default:
			t.Fatalf("start against rm: %+v and %+v; it is %q", a, b, state)
		}
		e.run("rm", "-f", name)
	}
}

// stopped waits until a process has stopped at its failpoint, and returns its pid.
func (e *env) stopped() (pid int) {
	e.t.Helper()
	eventually(e.t, "it stops", func() bool {
		for _, dir := range list("/proc") {
			environ, _ := os.ReadFile("/proc/" + dir + "/environ")
			stat, _ := os.ReadFile("/proc/" + dir + "/stat")
			if strings.Contains(string(environ), "LAYERCTL_FAILPOINT_STOP") && strings.Contains(string(environ), e.root) && strings.Contains(string(stat), ") T ") {
				pid, _ = strconv.Atoi(dir)
				return true
			}
		}
		return false
	})
	return pid
}

// Who attaches to a container that is just being started waits until it runs, and says so where it never does.
func TestAttachWhileItStarts(t *testing.T) {
	program := buildWith(t, "layerctl-failpoints", "-tags", "failpoints")
	e := withBusybox(t)
	const runs = "read x; echo got $x; exit 6"
	for _, row := range []struct {
		at, command string
		then        syscall.Signal
		code        int
		shown       string
	}{
		{"start/volatile", runs, syscall.SIGCONT, 6, "got one\n"}, // there is no monitor yet
		{"monitor/opened", runs, syscall.SIGCONT, 6, "got one\n"}, // it does not listen yet to who comes
		{"start/prepared", runs, syscall.SIGCONT, 6, "got one\n"},
		{"start/begun", runs, syscall.SIGCONT, 6, "got one\n"},
		{"monitor/opened", "", syscall.SIGCONT, 1, "not running"}, // there is no such command
		{"start/volatile", runs, syscall.SIGKILL, 1, "not running"},
		{"monitor/opened", runs, syscall.SIGKILL, 1, "not running"},
		{"start/begun", runs, syscall.SIGKILL, 1, "not running"},
	} {
		what := fmt.Sprintf("at %s, then %v", row.at, row.then)
		command := []string{"sh", "-c", row.command}
		if row.command == "" {
			command = []string{"/none"}
		}
		e.ok(append([]string{"create", "-i", "--name", "work", "busybox"}, command...)...)
		e.program = program
		start := e.command("start", "work")
		e.program = ""
		start.Env = append(start.Env, "LAYERCTL_FAILPOINT_STOP="+row.at)
		e.start(start)
		pid := e.stopped()
		attach := e.command("attach", "work")
		attach.Stdin = strings.NewReader("one\n")
		ended := make(chan result, 1)
		go func() { ended <- e.finish(attach) }()
		select {
		case r := <-ended:
			t.Errorf("%s: it does not wait: %+v", what, r)
			ended <- r
		case <-time.After(200 * time.Millisecond):
		}
		if got := e.state("work"); got != "created" {
			t.Errorf("%s: the container is %s", what, got)
		}
		syscall.Kill(pid, row.then)
		start.Wait()
		if r := <-ended; r.code != row.code || !strings.Contains(r.stdout+r.stderr, row.shown) {
			t.Errorf("%s: %+v", what, r)
		}
		e.ok("rm", "-f", "work")
	}
}
