package tests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// logOf is the file of a container's log.
func (e *env) logOf(name string) string {
	e.t.Helper()
	return filepath.Join(e.root, "containers", strings.TrimSpace(e.ok("inspect", "--format", "{{.Id}}", name)), "log")
}

// output is what a command has printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// follow starts logs -f.
func (e *env) follow(args ...string) (*exec.Cmd, *output) {
	e.t.Helper()
	out := &output{}
	cmd := e.command(append([]string{"logs", "-f"}, args...)...)
	cmd.Stdout = out
	return e.start(cmd), out
}

func TestLogs(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "both", "busybox", "sh", "-c", `echo one; sleep 0.1; echo oops >&2; sleep 0.1; printf '\0\377\r\n'; sleep 0.1; printf 'two\nlast words'`)
	const out, errs = "one\n\x00\xff\r\ntwo\nlast words", "oops\n"
	if r := e.run("logs", "both"); r.stdout != out || r.stderr != errs || r.code != 0 {
		t.Errorf("logs: %+v", r)
	}
	// On disk it is CRI's form.
	b, err := os.ReadFile(e.logOf("both"))
	if err != nil {
		t.Fatal(err)
	}
	const at = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z `
	if !regexp.MustCompile(`^` + at + `stdout F one\n` + at + `stderr F oops\n` + at + "stdout F \x00(?s:.)\r\n" + at + `stdout F two\n` + at + `stdout P last words\n$`).Match(b) {
		t.Errorf("the log is\n%q", b)
	}
	lines := strings.Split(string(b), "\n")
	time0, time2 := lines[0][:30], lines[2][:30]
	for args, want := range map[string]string{
		"--tail 1":                               "last words",
		"-n 2":                                   "two\nlast words",
		"--tail 4":                               "\x00\xff\r\ntwo\nlast words" + errs,
		"--tail 0":                               "",
		"--tail -1":                              out + errs,
		"--tail all":                             out + errs,
		"--tail 99999":                           out + errs,
		"--since " + time2:                       "\x00\xff\r\ntwo\nlast words",
		"--until " + time0:                       "one\n",
		"--since " + time2 + " --tail 1":         "last words",
		"--until " + time2 + " -n 1":             "\x00\xff\r\n",
		"--since 1h":                             out + errs,
		"--since 0s":                             "",
		"--until 1h":                             "",
		"--since " + time0 + " --until " + time0: "one\n",
		"-f":                                     out + errs, // it has ended
		"-f -n 1":                                "last words",
		"-t -n 1":                                lines[4][:30] + " last words",
		"-t --until " + time0:                    time0 + " one\n",
	} {
		if r := e.run(append([]string{"logs"}, append(strings.Fields(args), "both")...)...); r.stdout+r.stderr != want || r.code != 0 {
			t.Errorf("logs %s: %+v, want %q", args, r, want)
		}
	}
	e.fails(2, []string{"--tail few"}, "logs", "--tail", "few", "both")
	e.fails(2, []string{"--since soon"}, "logs", "--since", "soon", "both")
	e.fails(1, []string{"--details", "not supported"}, "logs", "--details", "both")
	e.fails(1, []string{"no such container"}, "logs", "nobody")
	e.fails(2, []string{"want a container"}, "logs", "both", "both")

	// The next run's output comes behind that of the first.
	e.ok("start", "-a", "both")
	if r := e.run("logs", "both"); r.stdout != out+out || r.stderr != errs+errs {
		t.Errorf("logs of two runs: %+v", r)
	}

	// What is no record is shown as it is, and hides nothing else.
	log := e.logOf("both")
	sh(t, e.dir, `printf 'garbage\n' | dd of=`+log+` conv=notrunc bs=1 seek=0 status=none && truncate -s -4 `+log)
	if r := e.run("logs", "--tail", "1", "both"); r.stdout != "last wo" || r.code != 0 {
		t.Errorf("logs of a truncated log: %+v", r)
	}
	if r := e.run("logs", "both"); !strings.HasPrefix(r.stdout, "garbage\n") || !strings.HasSuffix(r.stdout, "last wo") || r.stderr != errs+errs || r.code != 0 {
		t.Errorf("logs of a garbled log: %+v", r)
	}
	e.ok("start", "-a", "both")
	if got := e.run("logs", "-n", "2", "both").stdout; got != "two\nlast words" {
		t.Errorf("after half a record the next run's end is %q", got)
	}

	// Those that have none.
	e.ok("run", "--name", "none", "--log-driver", "none", "busybox", "echo", "x")
	e.fails(1, []string{"keeps no log", "--log-driver none"}, "logs", "none")
	e.fails(125, []string{"--log-driver json-file", "not supported"}, "run", "--log-driver", "json-file", "busybox", "true")
	e.ok("create", "--name", "fresh", "busybox", "true")
	if r := e.run("logs", "-f", "fresh"); r != (result{}) {
		t.Errorf("logs -f of a container that was never started: %+v", r)
	}
	cmd, _ := e.begun("run", "--rm", "--name", "front", "busybox", "sh", "-c", "echo up; sleep 100")
	e.fails(1, []string{"keeps no log", "run --rm"}, "logs", "front")
	e.ok("rm", "-f", "front")
	cmd.Wait()
}

// logs -f goes on until the container ends, through restarts and rotations, and whatever becomes of the monitor.
func TestLogsFollow(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "asks", "busybox", "sh", "-c", `printf 'name: '; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo ann; echo end >&2`)
	cmd, out := e.follow("asks")
	eventually(t, "a prompt without a newline is seen", func() bool { return out.String() == "name: " })
	e.ok("cp", "busybox/etc/one", "asks:/tmp/go")
	if err := cmd.Wait(); err != nil || out.String() != "name: ann\n" {
		t.Errorf("logs -f: %q, %v", out, err)
	}

	e.ok("run", "-d", "--name", "much", "--log-opt", "max-size=100k", "--log-opt", "max-file=50", "--restart", "on-failure:1", "busybox",
		"sh", "-c", "seq 50000; exit 1")
	cmd, out = e.follow("much")
	err := cmd.Wait()
	want := sh(t, e.dir, "seq 50000; seq 50000")
	if err != nil || out.String() != want {
		t.Errorf("logs -f of two runs, through rotations: %d bytes, want %d; %v", len(out.String()), len(want), err)
	}
	if got := e.ok("logs", "much"); got != want {
		t.Errorf("logs of two runs, through rotations: %d bytes, want %d", len(got), len(want))
	}
	files, _ := filepath.Glob(e.logOf("much") + "*")
	if len(files) < 40 || len(files) > 50 {
		t.Errorf("there are %d files", len(files))
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 100<<10 {
			t.Errorf("%s: %v, %v", f, info.Size(), err)
		}
	}

	e.ok("run", "-d", "--name", "killed", "busybox", "sh", "-c", "echo begun; sleep 1000")
	cmd, out = e.follow("killed")
	eventually(t, "it is followed", func() bool { return out.String() == "begun\n" })
	syscall.Kill(e.monitorOf("killed"), syscall.SIGKILL)
	if err := cmd.Wait(); err != nil {
		t.Errorf("logs -f of a container whose monitor was killed: %v", err)
	}
	if got := e.ok("logs", "killed"); got != "begun\n" {
		t.Errorf("then its log is %q", got)
	}

	// A container that goes with its log is shown to the end.
	e.ok("run", "-d", "--rm", "--name", "gone", "busybox", "sh", "-c", "echo begun; sleep 0.5; seq 1000")
	cmd, out = e.follow("gone")
	if err := cmd.Wait(); err != nil || out.String() != "begun\n"+sh(t, e.dir, "seq 1000") {
		t.Errorf("logs -f of a container that is removed at its end: %d bytes, %v", len(out.String()), err)
	}

	e.ok("run", "-d", "--name", "long", "busybox", "sh", "-c", "echo begun; sleep 1000")
	cmd, out = e.follow("long")
	eventually(t, "it is followed", func() bool { return out.String() == "begun\n" })
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("logs -f that was interrupted ended with status %d", code)
	}
	if r := e.run("logs", "-f", "--until", "-0.2s", "long"); r.code != 0 {
		t.Errorf("logs -f --until: %+v", r)
	}
}

// A full disk stops no container; its log says what is missing.
func TestLogsFullDisk(t *testing.T) {
	d := newDisk(t, "ext4", "24M", "")
	d.busybox("busybox")
	d.ok("import", "./busybox")
	d.ok("run", "-d", "--name", "work", "busybox", "sh", "-c",
		`trap 'seq 100000; touch /dev/shm/$((n+=1))' USR1; trap 'echo end; exit 7' TERM; echo ready; while :; do sleep 0.02; done`)
	eventually(t, "it is ready", func() bool { return d.ok("logs", "work") == "ready\n" })
	pid := strings.TrimSpace(d.ok("inspect", "--format", "{{.State.Pid}}", "work"))
	round := 0
	more := func() {
		t.Helper()
		round++
		d.ok("kill", "-s", "USR1", "work")
		eventually(t, "it has printed", func() bool { return exists("/proc/" + pid + "/root/dev/shm/" + strconv.Itoa(round)) })
	}
	sh(t, d.dir, "sync -f mnt; dd if=/dev/zero of=mnt/ballast bs=64k status=none || dd if=/dev/zero of=mnt/ballast oflag=append conv=notrunc bs=1k status=none || true")
	var st unix.Statfs_t
	if err := unix.Statfs(d.mount, &st); err != nil || st.Bavail > 8 {
		t.Fatalf("%d blocks are free: %v", st.Bavail, err)
	}
	more()
	more()
	if err := os.Remove(filepath.Join(d.mount, "ballast")); err != nil {
		t.Fatal(err)
	}
	missing := regexp.MustCompile(`(?m)^layerctl: (\d+) bytes of output are missing here: no space left on device$`)
	var r result
	eventually(t, "the log is written again", func() bool {
		more()
		r = d.run("logs", "work")
		return r.code == 0 && missing.MatchString(r.stderr) && strings.HasSuffix(r.stdout, "99999\n100000\n")
	})
	d.ok("kill", "-s", "TERM", "work")
	if got := d.ok("wait", "work"); got != "7\n" {
		t.Errorf("it ended with status %q", got)
	}
	r = d.run("logs", "work")
	total := len(r.stdout)
	for _, m := range missing.FindAllStringSubmatch(r.stderr, -1) {
		n, _ := strconv.Atoi(m[1])
		total += n
	}
	if want := len("ready\nend\n") + round*len(sh(t, d.dir, "seq 100000")); total != want || !strings.HasSuffix(r.stdout, "100000\nend\n") {
		t.Errorf("what was printed and what is said to be missing are %d bytes, want %d", total, want)
	}
	t.Logf("%d rounds, %s", round, fmt.Sprint(missing.FindAllString(r.stderr, -1)))
}

// A monitor that is killed while its log is rotated leaves a log that is read, and gone on with.
func TestLogsRotationKilled(t *testing.T) {
	e := withBusybox(t)
	e.program = buildWith(t, "layerctl-failpoints", "-tags", "failpoints")
	kept := func(name, printed string) string {
		got := e.ok("logs", name)
		if !strings.Contains(printed, got) || len(got) < 100 {
			t.Errorf("%s: the log has %d bytes which were not printed so: %.300q", name, len(got), got)
		}
		return got
	}
	for _, at := range []string{"log/made", "log/renamed", "log/renamed:3"} {
		name := strings.NewReplacer("/", "-", ":", "-").Replace(at)
		cmd := e.command("run", "-d", "--name", name, "--log-opt", "max-size=5k", "--log-opt", "max-file=3", "busybox", "sh", "-c", "sleep 0.2; seq 1000; sleep 1000")
		cmd.Env = append(cmd.Env, "LAYERCTL_FAILPOINT="+at)
		if r := e.finish(cmd); r.code != 0 {
			t.Fatalf("%s: %+v", at, r)
		}
		eventually(t, "its monitor was killed", func() bool { return e.state(name) == "exited" })
		numbers := sh(t, e.dir, "seq 1000")
		first := kept(name, numbers)
		if at != "log/renamed:3" && !strings.HasPrefix(first, "1\n2\n") {
			t.Errorf("%s: the log begins with %.20q", at, first)
		}
		follower, out := e.follow(name)
		if err := follower.Wait(); err != nil || out.String() != first {
			t.Errorf("%s: logs -f: %v, %d bytes, want %d", at, err, len(out.String()), len(first))
		}
		e.ok("start", name)
		eventually(t, "the next run is logged", func() bool { return strings.HasSuffix(e.ok("logs", name), "\n1000\n") })
		kept(name, first+numbers)
		e.ok("rm", "-f", name)
	}
}
