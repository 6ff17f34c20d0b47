package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// statsLine is a line of `stats --format json`.
type statsLine struct{ Container, ID, Name, CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs string }

func (e *env) stats(args ...string) map[string]statsLine {
	e.t.Helper()
	found := map[string]statsLine{}
	for dec := json.NewDecoder(strings.NewReader(e.ok(append([]string{"stats", "--no-stream", "--format", "json"}, args...)...))); dec.More(); {
		var l statsLine
		if err := dec.Decode(&l); err != nil {
			e.t.Fatal(err)
		}
		found[l.Name] = l
	}
	return found
}

func percent(t testing.TB, s string) float64 {
	f, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil {
		t.Error(err)
	}
	return f
}

// What stats shows is what the containers use.
func TestStats(t *testing.T) {
	e := withBusybox(t)
	const header = "CONTAINER ID   NAME   CPU %   MEM USAGE / LIMIT   MEM %   NET I/O   BLOCK I/O   PIDS\n"
	if out := e.ok("stats", "--no-stream"); out != header {
		t.Errorf("without containers: %q", out)
	}
	// Text out of head is 30 MB of one that holds it; the other one runs all the time.
	holds, _ := e.begun("run", "--name", "holds", "busybox", "sh", "-c", "x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 1000 & sleep 1001 & echo up; wait; echo $x")
	busy, _ := e.begun("run", "--name", "busy", "--network", "host", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; sync; echo up; while :; do :; done")
	e.ok("run", "--name", "ended", "busybox", "true")
	defer func() {
		e.ok("rm", "-f", "holds", "busy", "ended")
		holds.Wait()
		busy.Wait()
	}()
	s := e.stats()
	if len(s) != 2 {
		t.Fatalf("%+v", s)
	}
	if got := s["busy"]; percent(t, got.CPUPerc) < 2 || percent(t, got.CPUPerc) > 110 || got.PIDs != "1" || got.NetIO != "0B / 0B" || got.Container != got.ID || len(got.ID) != 12 ||
		!strings.HasSuffix(got.BlockIO, " / 8.39MB") {
		t.Errorf("%+v", got)
	}
	var used float64
	got := s["holds"]
	if _, err := fmt.Sscanf(got.MemUsage, "%fMiB / ", &used); err != nil || used < 28 || used > 100 || got.PIDs != "3" || percent(t, got.CPUPerc) > 50 || percent(t, got.MemPerc) <= 0 {
		t.Errorf("%+v, %v", got, err)
	}
	total := ""
	for line := range strings.Lines(sh(t, e.dir, "awk '/MemTotal/ {printf \"%.4gGiB\\n%.4gMiB\\n\", $2 / 1048576, $2 / 1024}' /proc/meminfo")) {
		if strings.HasSuffix(got.MemUsage, " / "+strings.TrimSpace(line)) {
			total = line
		}
	}
	if total == "" {
		t.Errorf("the limit of one without a limit is %q", got.MemUsage)
	}
	// What does not run uses nothing.
	idle := statsLine{"ended", "", "ended", "0.00%", "0B / 0B", "0.00%", "0B / 0B", "0B / 0B", "0"}
	for _, args := range [][]string{{"-a", "--no-trunc"}, {"--no-trunc", "ended", "busy", "holds"}} {
		s := e.stats(args...)
		got := s["ended"]
		idle.ID = got.ID
		if args[0] == "-a" {
			idle.Container = got.ID
		} else {
			idle.Container = "ended"
		}
		if len(s) != 3 || got != idle || len(got.ID) != 64 {
			t.Errorf("%q: %+v", args, s)
		}
	}
	if out := e.ok("stats", "--no-stream", "--format", "table {{.Name}}\t{{.PIDs}}", "ended"); out != "NAME    PIDS\nended   0\n" {
		t.Errorf("%q", out)
	}
	// One that cannot be read does not hide the others.
	record := filepath.Join(e.root, "containers", idle.ID, "config.json")
	whole, err := os.ReadFile(record)
	if err == nil {
		err = os.WriteFile(record, whole[:len(whole)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r := e.run("stats", "--no-stream", "--format", "{{.Name}}"); r.code != 1 || r.stdout != "busy\nholds\n" || !strings.Contains(r.stderr, "damaged") || !errorForm.MatchString(r.stderr) {
		t.Errorf("stats with a damaged record: %+v", r)
	}
	if out := e.ok("stats", "--no-stream", "--format", "{{.Container}} {{.Name}} {{.PIDs}}", got.ID[:6], "holds"); out != got.ID[:6]+" holds 3\n" {
		t.Errorf("stats of another with a damaged record: %q", out)
	}
	if r := e.run("ns", "--format", "{{.Name}}"); r.code != 1 || r.stdout != "busy\nholds\n" || !strings.Contains(r.stderr, "damaged") || !errorForm.MatchString(r.stderr) {
		t.Errorf("ns with a damaged record: %+v", r)
	}
	if out := e.ok("ns", "--format", "{{.Name}}", "holds"); out != "holds\n" {
		t.Errorf("ns of another with a damaged record: %q", out)
	}
	if err := os.WriteFile(record, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	e.fails(1, []string{"stats", "container nobody: no such container"}, "stats", "holds", "nobody")
	e.fails(2, []string{"--format"}, "stats", "--no-stream", "--format", "{{.Nope}}")
}

// It goes on until it is interrupted, or what it looks at is gone; on a terminal each look replaces the one before.
func TestStatsStream(t *testing.T) {
	e := withBusybox(t)
	run, _ := e.begun("run", "--rm", "--name", "web", "busybox", "sh", "-c", "echo up; exec sleep 1000")
	stream := func(args ...string) (*exec.Cmd, io.Reader) {
		cmd := e.command(append([]string{"stats", "--format", "{{.Name}} {{.PIDs}}"}, args...)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		return e.start(cmd), out
	}
	named, namedOut := stream("web")
	all, allOut := stream()

	shown := e.command("stats")
	term, err := pty.StartWithSize(shown, &pty.Winsize{Rows: 24, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	seen := ""
	for b := make([]byte, 4096); strings.Count(seen, "\x1b[H") < 3; {
		n, err := term.Read(b)
		if err != nil {
			t.Fatalf("%q, %v", seen, err)
		}
		seen += string(b[:n])
	}
	frames := strings.Split(seen, "\x1b[H")
	if frames[0] != "" || strings.Contains(frames[1], "%\x1b") || !strings.Contains(frames[1], "web    --") || !strings.Contains(frames[2], "web    0.") ||
		!strings.HasSuffix(frames[1], "\x1b[K\r\n\x1b[J") || strings.Count(frames[1], "\n") != 2 {
		t.Errorf("%q", frames)
	}
	for _, out := range []io.Reader{namedOut, allOut} {
		lines := make([]byte, len("web 1\nweb 1\n"))
		if _, err := io.ReadFull(out, lines); err != nil || string(lines) != "web 1\nweb 1\n" {
			t.Errorf("%q, %v", lines, err)
		}
	}
	term.Write([]byte{3})
	shown.Wait()
	if code := shown.ProcessState.ExitCode(); code != 130 {
		t.Errorf("interrupted, it ends with status %d", code)
	}

	e.ok("rm", "-f", "web")
	run.Wait()
	if err := named.Wait(); err != nil {
		t.Errorf("when what it looks at is gone, it ends with %v", err)
	}
	all.Process.Signal(syscall.SIGINT)
	all.Wait()
	if code := all.ProcessState.ExitCode(); code != 130 {
		t.Errorf("interrupted, it ends with status %d", code)
	}
}

// A container that the kernel ended because memory ran out says so.
func TestOutOfMemory(t *testing.T) {
	e := withBusybox(t)
	for _, name := range []string{"limited", "free"} {
		cmd := e.command("run", "-i", "--name", name, "busybox", "sh", "-c", "echo up; read x; [ $x = go ] || exit 137; exec tail /dev/zero")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		eventually(t, name+" runs", func() bool { return e.state(name) == "running" })
		id := strings.TrimSpace(e.ok("inspect", "--format", "{{.Id}}", name))
		word := "leave"
		if name == "limited" {
			word = "go"
			sh(t, e.dir, `cd /sys/fs/cgroup; if [ -e memory ]; then echo 16M > memory/layerctl/`+id+`/memory.limit_in_bytes; else echo 16M > layerctl/`+id+`/memory.max; fi`)
		}
		fmt.Fprintln(in, word)
		cmd.Wait()
		b, err := os.ReadFile(filepath.Join(e.root, "containers", id, "exit.json"))
		if code := cmd.ProcessState.ExitCode(); err != nil || code != 137 || strings.Contains(string(b), `"OOMKilled":true`) != (word == "go") {
			t.Errorf("%s: status %d, %s, %v", name, code, b, err)
		}
	}
	if out := e.ok("events", "--since", "1h", "--until", "0s", "--filter", "event=oom", "--format", "{{.Action}} {{.Actor.Attributes.name}}"); out != "oom limited\n" {
		t.Errorf("events: %q", out)
	}
}

// What stats shows, and that exec and the rest of a container's life work, on a machine whose cgroups are v2 alone.
func TestStatsInV2(t *testing.T) {
	vm := os.Getenv("LAYERCTL_VM")
	if vm == "" {
		t.Skip("LAYERCTL_VM names no ../shared/vm/run-in-vm.sh")
	}
	e := newEnv(t)
	e.busybox("busybox")
	sh(t, e.dir, fmt.Sprintf(`mkdir files; cp %s files/layerctl; mv busybox files/; cat > files/in-vm <<'X'
set -e
export PATH=/share/files:$PATH LAYERCTL_ROOT=/share/store LAYERCTL_RUN_ROOT=/run/layerctl
cd /share/files; layerctl import ./busybox > /dev/null
layerctl run --rm busybox true; find /sys/fs/cgroup/layerctl -mindepth 1 -type d | wc -l
layerctl run --rm --name web busybox sh -c 'x=$(head -c 30000000 /dev/zero | tr "\0" x); dd if=/dev/zero of=/big bs=1M count=4 2> /dev/null; sync; sleep 1000 & while :; do :; done; echo $x' &
until layerctl top web -o pid,comm 2> /dev/null | grep -q sleep; do sleep .1; done
cat /sys/fs/cgroup/layerctl/cgroup.subtree_control
layerctl stats --no-stream --format json web
layerctl ns --format '{{range .Processes}}{{.ContainerPid}} {{end}}' web
layerctl commit web frozen > /dev/null && echo committed
layerctl pause web > /dev/null; cat /sys/fs/cgroup/layerctl/*/cgroup.freeze; layerctl unpause web
layerctl exec web echo in it
layerctl exec -u 65534:7 -w /tmp web sh -c 'echo $(id -u) $(id -g) $(pwd) $(cat /proc/self/cgroup)'
script -qec "layerctl exec -it web sh -c 'tty; exit 5'" /dev/null < /dev/null | tr -d '\r' | sed 's,^.*/dev,/dev,'; echo ${PIPESTATUS[0]}
layerctl run -d --name live --restart always busybox sh -c 'sleep 1000; exit 3' > /dev/null
layerctl pause live > /dev/null; layerctl exec live true 2> /dev/null || echo $?; layerctl unpause live > /dev/null
layerctl update --restart no live; layerctl kill live; layerctl wait live; layerctl rm live
layerctl rm -f web
wait; find /sys/fs/cgroup/layerctl -mindepth 1 -type d | wc -l
layerctl prune -f > /dev/null; [ ! -e /sys/fs/cgroup/layerctl ] && echo clean
X`, binary))
	cmd := exec.Command(vm, "-d", filepath.Join(e.dir, "files"), "--", "bash", "/share/files/in-vm")
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if err != nil || len(lines) != 19 {
		t.Fatalf("%v\n%s", err, b)
	}
	var s statsLine
	fromJSON(t, lines[2], &s)
	lines[2] = ""
	if control := strings.Fields(lines[1]); !slices.Contains(control, "memory") || !slices.Contains(control, "io") {
		t.Errorf("controllers: %q", control)
	}
	lines[1] = ""
	if fields := strings.Fields(lines[3]); len(fields) != 2 || fields[0] != "1" {
		t.Errorf("processes: %q", lines[3])
	}
	lines[3] = ""
	if !reflect.DeepEqual(lines, []string{"0", "", "", "", "committed", "1", "web", "in it", "65534 7 /tmp 0::/",
		"/dev/pts/0", "5", "125", "live", "live", "137", "live", "web", "0", "clean"}) {
		t.Errorf("%q", lines)
	}
	var used, written float64
	if _, err := fmt.Sscanf(s.MemUsage, "%fMiB", &used); err != nil || used < 28 || used > 200 || s.PIDs != "2" || percent(t, s.CPUPerc) < 20 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := fmt.Sscanf(s.BlockIO[strings.Index(s.BlockIO, "/ "):], "/ %fMB", &written); err != nil || written < 4 {
		t.Errorf("%+v, %v", s, err)
	}
}
