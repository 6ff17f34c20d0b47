package tests

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestRunFlags(t *testing.T) {
	e := withBusybox(t)
	os.Setenv("PASSED_ON", "from outside")
	defer os.Unsetenv("PASSED_ON")
	for _, row := range []struct{ args, want string }{
		{"busybox echo hello", "hello\n"},
		{"busybox sh -c pwd", "/\n"},
		{"-w /srv/www busybox pwd", "/srv/www\n"},
		{"-w /made/on/the/way busybox pwd", "/made/on/the/way\n"},
		{"-e A=1 -e PASSED_ON -e NOT_SET busybox sh -c echo~$A,$PASSED_ON,${NOT_SET-unset}", "1,from outside,unset\n"},
		{"-e PATH=/nowhere:/bin busybox env", "PATH=/nowhere:/bin\n"},
		{"-u ann busybox id", "uid=1000(ann) gid=1000(ann) groups=10(wheel),50(staff),1000(ann)\n"},
		{"-u ann:wheel busybox id -g", "10\n"},
		{"-u 1000 busybox sh -c echo~$HOME", "/home/ann\n"},
		{"-u 4711:4712 busybox sh -c id~-u;id~-g", "4711\n4712\n"},
		{"--entrypoint echo busybox a b", "a b\n"},
		{"--hostname box busybox hostname", "box\n"},
		{"--hostname box busybox cat /etc/hostname", "box\n"},
		{"--hostname box busybox grep -c box /etc/hosts", "1\n"},
		{"busybox sh -c echo~$$", "1\n"},
		{"busybox sh -c ip~link~show~lo~>/dev/null&&cat~/sys/class/net/lo/flags", "0x9\n"},
		{"busybox ls /sys/class/net", "lo\n"},
		{"busybox sh -c ls~/proc/[0-9]*/comm~>/tmp/l;wc~-l~</tmp/l", "1\n"},
		{"busybox sh -c cat|wc~-c", "0\n"},
		{"busybox stat -f -c %T /proc /sys /dev/shm /dev/pts /dev/mqueue", "proc\nsysfs\ntmpfs\ndevpts\nUNKNOWN\n"},
		{"busybox sh -c echo~x>/proc/sys/kernel/hostname~||~echo~protected", "protected\n"},
		{"busybox sh -c cat~/proc/keys~/proc/timer_list~2>/dev/null|wc~-c", "0\n"},
		{"busybox sh -c ls~-A~/sys/firmware|wc~-l", "0\n"},
		{"busybox sh -c ulimit~-Sn", "1024\n"},
		{"busybox sh -c umask", "0022\n"},
		{"busybox sh -c dd~if=/dev/zero~of=/dev/null~count=1~2>/dev/null&&head~-c4~/dev/urandom|wc~-c", "4\n"},
		{"busybox cat /etc/resolv.conf", "# The container has no network: there is nobody to ask.\n"},
		{"--network host busybox sh -c test~$(ls~/sys/class/net|wc~-l)~-gt~0&&echo~host", "host\n"},
	} {
		args := []string{"run", "--rm"}
		for _, a := range strings.Fields(row.args) {
			args = append(args, strings.ReplaceAll(a, "~", " "))
		}
		r := e.run(args...)
		if !strings.HasPrefix(r.stdout, row.want) || r.code != 0 {
			t.Errorf("%s: %q, status %d, %s; want %q", row.args, r.stdout, r.code, r.stderr, row.want)
		}
	}
}

// What keeps a container in, as it is seen from inside.
func TestIsolation(t *testing.T) {
	e := withBusybox(t)
	for _, row := range []struct{ script, want string }{
		{"grep Cap /proc/self/status | tr -d '\\t' | tr '\\n' ' '", "CapInh:0000000000000000 CapPrm:00000000a80425fb CapEff:00000000a80425fb CapBnd:00000000a80425fb CapAmb:0000000000000000 "},
		{"ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3 "},
		{"grep SigBlk /proc/self/status | tr -d '\\t'; grep SigIgn /proc/self/status | tr -d '\\t'", "SigBlk:0000000000000000\nSigIgn:0000000000000000\n"},
		{"echo 1 > /proc/sysrq-trigger; echo $?", "1\n"},
		{"mount -t tmpfs none /tmp; echo $?", "1\n"},
		{"mknod /tmp/disk b 254 0 && cat /tmp/disk | head -c1 | wc -c", "0\n"},
		{"cat /proc/self/cgroup | grep -c layerctl", "0\n"},
		{"cut -d' ' -f5 /proc/self/mountinfo | sort | tr '\\n' ' '", "/ /dev /dev/mqueue /dev/pts /dev/shm /etc/hostname /etc/hosts /etc/resolv.conf /proc "},
		{"cut -d' ' -f6 /proc/self/stat", "1\n"}, // its own session
	} {
		got := e.run("run", "--rm", "busybox", "sh", "-c", row.script)
		if !strings.HasPrefix(got.stdout, row.want) {
			t.Errorf("%s: %q %s, want %q", row.script, got.stdout, got.stderr, row.want)
		}
	}
	inside := strings.Fields(e.ok("run", "--rm", "busybox", "sh", "-c", "for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done"))
	for i, n := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup"} {
		if outside, _ := os.Readlink("/proc/self/ns/" + n); i >= len(inside) || inside[i] == outside {
			t.Errorf("the %s namespace is the host's", n)
		}
	}
	user := e.ok("run", "--rm", "-u", "ann", "busybox", "grep", "Cap", "/proc/self/status")
	if strings.Count(user, "0000000000000000") != 4 {
		t.Errorf("an ordinary user has capabilities:\n%s", user)
	}
	// A signal that the caller ignores, as under nohup, is not ignored inside.
	out := sh(t, e.dir, "trap '' HUP; LAYERCTL_ROOT="+e.root+" LAYERCTL_RUN_ROOT="+e.runRoot+" "+binary+" run --rm busybox grep SigIgn /proc/self/status")
	if !strings.Contains(out, "0000000000000000") {
		t.Errorf("under nohup: %s", out)
	}
}

func TestExitStatus(t *testing.T) {
	e := withBusybox(t)
	for _, row := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"busybox", "true"}, 0, ""},
		{[]string{"busybox", "sh", "-c", "exit 42"}, 42, ""},
		{[]string{"busybox", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?"}, 143, ""},
		{[]string{"busybox", "nothing"}, 127, "run nothing: no such file or directory"},
		{[]string{"busybox", "/etc/passwd"}, 126, "run /etc/passwd: permission denied"},
		{[]string{"busybox", "/etc"}, 126, "run /etc: permission denied"},
		{[]string{"-w", "/etc/passwd", "busybox", "true"}, 126, "working directory /etc/passwd: not a directory"},
		{[]string{"-w", "relative", "busybox", "true"}, 125, "not absolute"},
		{[]string{"-u", "nobody-of-that-name", "busybox", "true"}, 125, "no such user"},
		{[]string{"-u", "root:nogroup", "busybox", "true"}, 125, "no such group"},
		{[]string{"busybox"}, 125, "no command"},
		{[]string{"--name", "not/valid", "busybox", "true"}, 125, "container name"},
		{[]string{"--network", "bridge", "busybox", "true"}, 125, "--network bridge: not supported"},
		{[]string{"-p", "80:80", "busybox", "true"}, 125, "publish ports"},
		{[]string{"--no-such-flag", "busybox", "true"}, 125, "unknown flag: --no-such-flag"},
		{[]string{"--rootfs", "/nowhere", "true"}, 125, "root directory /nowhere: no such file"},
		{[]string{"--rootfs", "/etc/passwd", "true"}, 125, "not a directory"},
		{[]string{"--pull", "never", "nothing-here", "true"}, 125, "no such image"},
		{[]string{"127.0.0.1:1/nothing-here", "true"}, 125, "connection refused"},
		{nil, 125, "no image"},
	} {
		args := append([]string{"run", "--rm"}, row.args...)
		if row.text != "" {
			e.fails(row.code, []string{row.text}, args...)
		} else if r := e.run(args...); r.code != row.code {
			t.Errorf("%q: status %d %s, want %d", args, r.code, r.stderr, row.code)
		}
	}
	e.ok("run", "--name", "taken", "busybox", "true")
	e.fails(125, []string{"taken", "has that name", "hint: "}, "run", "--name", "taken", "busybox", "true")
	e.fails(1, []string{"no such container", "hint: "}, "rm", "nothing")
	e.fails(1, []string{"no such container"}, "diff", "nothing")
	e.fails(1, []string{"no such image, container, layer or snapshot"}, "inspect", "nothing")
	e.fails(2, []string{"unknown command", "did you mean"}, "pul", "x")
	e.fails(2, []string{"want one reference", "usage: "}, "pull")
	e.fails(2, []string{"--format"}, "images", "--format", "{{.Nothing}}")
	e.fails(2, []string{"--format"}, "images", "--format", "{{")
}

func TestStreams(t *testing.T) {
	e := withBusybox(t)
	cmd := e.command("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2")
	data := strings.Repeat("binary \x00\xff\r\n", 100000)
	cmd.Stdin = strings.NewReader(data)
	if r := e.finish(cmd); r.stdout != data || r.stderr != "err\n" {
		t.Errorf("%d bytes came back of %d, stderr %q", len(r.stdout), len(data), r.stderr)
	}
	cmd = e.command("run", "--rm", "busybox", "cat")
	cmd.Stdin = strings.NewReader("unread")
	if r := e.finish(cmd); r.stdout != "" || r.code != 0 {
		t.Errorf("without -i: %+v", r)
	}
	// Output to a pipe that nobody reads any more ends the command, not layerctl's manners.
	out := sh(t, e.dir, "LAYERCTL_ROOT="+e.root+" LAYERCTL_RUN_ROOT="+e.runRoot+" "+binary+" run --rm busybox yes 2>/dev/null | head -1 || true")
	if out != "y\n" {
		t.Errorf("a closed pipe: %q", out)
	}
	e.fails(125, []string{"not a TTY"}, "run", "-it", "--rm", "busybox", "true")
}

func TestSignals(t *testing.T) {
	e := withBusybox(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		cmd := e.command("run", "--rm", "busybox", "sh", "-c", "trap 'echo got; exit 9' TERM INT HUP USR1; echo ready; while :; do sleep 0.05; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		ready := make([]byte, 6)
		if _, err := io.ReadFull(out, ready); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(sig)
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		if string(rest) != "got\n" || cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("%v: %q, status %d", sig, rest, cmd.ProcessState.ExitCode())
		}
	}
	// A first process that has no handler is ended by the third interrupt.
	cmd := e.start(e.command("run", "--rm", "busybox", "sleep", "1000"))
	eventually(t, "it runs", func() bool { return strings.Contains(e.ok("ps"), "sleep") })
	for range 3 {
		cmd.Process.Signal(syscall.SIGINT)
		time.Sleep(50 * time.Millisecond)
	}
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 137 {
		t.Errorf("three interrupts: status %d", got)
	}
}

func TestTerminal(t *testing.T) {
	e := withBusybox(t)
	cmd := e.command("run", "-it", "--name", "term", "busybox", "sh")
	term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	var mu sync.Mutex
	var screen strings.Builder
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := term.Read(buf)
			mu.Lock()
			screen.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	expect := func(what string) {
		t.Helper()
		eventually(t, fmt.Sprintf("the terminal shows %q", what), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(screen.String(), what)
		})
	}
	expect("# ")
	io.WriteString(term, "stty size; tty; ls -l /dev/console | wc -l\n")
	expect("30 100\r\n/dev/pts/0\r\n1\r\n")
	pty.Setsize(term, &pty.Winsize{Rows: 20, Cols: 66})
	time.Sleep(100 * time.Millisecond)
	io.WriteString(term, "stty size\n")
	expect("20 66")
	if out := e.ok("ps"); !strings.Contains(out, "term") || !strings.Contains(out, "Up ") {
		t.Errorf("ps: %s", out)
	}
	e.fails(1, []string{"running", "hint: "}, "rm", "term")
	io.WriteString(term, "sleep 100\n")
	time.Sleep(200 * time.Millisecond)
	io.WriteString(term, "\x03")
	io.WriteString(term, "echo in$?terrupted\n")
	expect("in130terrupted")
	io.WriteString(term, "exit 6\n")
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 6 {
		t.Errorf("status %d", got)
	}
	if out := e.ok("ps", "-a"); !strings.Contains(out, "Exited (6)") {
		t.Errorf("ps -a: %s", out)
	}
	r := e.run("run", "-t", "--rm", "busybox", "sh", "-c", "tty; for i in $(seq 5000); do echo line $i; done; exit 3")
	if r.code != 3 || !strings.HasPrefix(r.stdout, "/dev/pts/0\r\n") || !strings.HasSuffix(r.stdout, "line 5000\r\n") {
		t.Errorf("-t without -i: status %d, %d bytes, %s", r.code, len(r.stdout), r.stderr)
	}
	e.fails(127, []string{"run nothing: no such file"}, "run", "-t", "--rm", "busybox", "nothing")
	// The caller goes, the container goes on; its end is on record.
	cmd = e.command("run", "-t", "--name", "alone", "busybox", "sh", "-c", "sleep 1; exit 8")
	e.start(cmd)
	eventually(t, "it runs", func() bool { return strings.Contains(e.ok("ps"), "alone") })
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "its end is recorded", func() bool { return strings.Contains(e.ok("ps", "-a"), "Exited (8)") })
}

// A plain directory is run over and not written, whatever the container does.
func TestRootFS(t *testing.T) {
	e := newEnv(t)
	dir := e.busybox("tree")
	list := "find . -printf '%P %y %m %U %G %s %T@ %C@ %l\\n' | sort"
	before := sh(t, dir, list)
	if got := e.ok("run", "--name", "over", "--rootfs", "./tree", "sh", "-c", "rm -r /etc/sub; echo x > /etc/one; chmod 700 /srv; rm /bin/ls; cat /etc/one"); got != "x\n" {
		t.Errorf("printed %q", got)
	}
	if after := sh(t, dir, list); after != before {
		t.Error("the directory was written")
	}
	if got, want := e.ok("diff", "over"), "C /bin\nD /bin/ls\nC /etc\nC /etc/one\nD /etc/sub\nC /srv\n"; got != want {
		t.Errorf("diff: %q, want %q", got, want)
	}
	if out := e.ok("ps", "-a"); !strings.Contains(out, dir) {
		t.Errorf("ps -a does not name the directory:\n%s", out)
	}
}

// The explanation is of what would be done, and nothing is done.
func TestExplain(t *testing.T) {
	e := newEnv(t)
	e.busybox("tree")
	out := e.ok("run", "--rm", "--rootfs", "./tree", "--explain", "echo", "a b")
	for _, want := range []string{"mount -t overlay", "lowerdir=" + filepath.Join(e.dir, "tree"), "unshare --pid --fork --mount --uts --ipc --net",
		"/sys/fs/cgroup/devices/layerctl/", "mount -t proc", "mknod -m 666 ROOT/dev/null c 1 3", "mkdir ROOT/dev/pts\n", "pivot_root . .", "hostname ", "ip link set lo up", "exec echo 'a b'"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if out := e.ok("ps", "-aq"); out != "" {
		t.Errorf("a container is left: %s", out)
	}
}

func TestManyAtOnce(t *testing.T) {
	e := withBusybox(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			args := []string{"run", "--rm", "busybox", "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}
			if i%4 == 0 {
				args = append([]string{"run", "--name", fmt.Sprintf("c%d", i)}, args[2:]...)
			}
			if r := e.run(args...); r.code != i || r.stdout != fmt.Sprintln(i) {
				t.Errorf("%d: %+v", i, r)
			}
		})
	}
	wg.Wait()
	if got := len(strings.Fields(e.ok("ps", "-aq"))); got != 5 {
		t.Errorf("%d containers, want 5", got)
	}
}

// kill -9 of the command line at any moment: a container that it runs in the foreground and would remove goes with it, any other stays as
// it is, and the next command finds a consistent store.
func TestKilled(t *testing.T) {
	e := withBusybox(t)
	for i := range 60 {
		name := fmt.Sprintf("k%d", i)
		args := []string{"run", "--name", name, "busybox", "sleep", "1000"}
		if i%2 == 0 {
			args = []string{"run", "--rm", "--name", name, "busybox", "sleep", "1000"}
		}
		cmd := e.start(e.command(args...))
		time.Sleep(time.Duration(i) * 500 * time.Microsecond) // from before its first directory to well after its start
		cmd.Process.Kill()
		cmd.Wait()
		if state := e.state(name); i%2 == 0 && state == "running" {
			t.Fatalf("%d: it is still %s", i, state)
		}
	}
	for _, id := range strings.Fields(e.ok("ps", "-aq")) {
		e.ok("rm", "-f", id)
	}
	// What a kill left half made is nobody's: prune takes it away.
	e.ok("prune", "-a", "-f")
	if out := e.ok("images", "-q") + e.ok("ps", "-aq"); out != "" {
		t.Errorf("prune -a left %s", out)
	}
}
