package tests

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// shownNamespaces is a line of `ns --format json`.
type shownNamespaces struct {
	ID, Name   string
	Pid        int
	Enter      string
	Namespaces []struct {
		Type       string
		Inode      uint64
		Host       bool
		Containers []string
		Others     []int
		Processes  []int
		Enter      string
	}
	Processes []struct {
		Pid, ContainerPid int
		NSpid             []int
		Command           string
	}
}

func (e *env) namespaces(name string) (n shownNamespaces) {
	e.t.Helper()
	fromJSON(e.t, e.ok("ns", "--no-trunc", "--format", "json", name), &n)
	return n
}

// in finds a container's namespace of a kind that has a process.
func (n shownNamespaces) in(kind string, pid int) int {
	for i, s := range n.Namespaces {
		if s.Type == kind && slices.Contains(s.Processes, pid) {
			return i
		}
	}
	return -1
}

// What ns shows is what lsns shows, told in containers, and what nsenter finds.
func TestNamespaces(t *testing.T) {
	e := withBusybox(t)
	if out := e.ok("ns"); out != "" {
		t.Errorf("without containers ns shows %q", out)
	}
	web, _ := e.begun("run", "--rm", "--name", "web", "busybox", "sh", "-c", "sleep 1001 & sleep 1002 & echo up; wait")
	host, _ := e.begun("run", "--name", "hosted", "--network", "host", "busybox", "sh", "-c", "echo up; sleep 1003; :", "a\x1b[31mb")
	defer func() {
		e.ok("rm", "-f", "web", "hosted")
		web.Wait()
		host.Wait()
		e.fails(1, []string{"ns", "web", "no such container"}, "ns", "web")
	}()
	var n shownNamespaces
	eventually(t, "all of them run what they are to run", func() bool {
		n = e.namespaces("web")
		return len(n.Processes) == 3 && strings.HasPrefix(n.Processes[1].Command, "sleep") && strings.HasPrefix(n.Processes[2].Command, "sleep")
	})
	// lsns has the same namespaces, with as many processes.
	var ls struct {
		Namespaces []struct {
			NS, NProcs, PID int
			Type            string
		}
	}
	fromJSON(t, sh(t, e.dir, fmt.Sprintf("lsns --json -o NS,TYPE,NPROCS,PID -p %d", n.Pid)), &ls)
	if len(ls.Namespaces) != len(n.Namespaces) {
		t.Errorf("ns shows %d namespaces, lsns %d", len(n.Namespaces), len(ls.Namespaces))
	}
	for _, l := range ls.Namespaces {
		i := n.in(l.Type, n.Pid)
		if i < 0 {
			t.Errorf("lsns has a %s namespace", l.Type)
			continue
		}
		s := n.Namespaces[i]
		if s.Inode != uint64(l.NS) || !s.Host && (len(s.Processes) != l.NProcs || s.Processes[0] != l.PID) {
			t.Errorf("ns shows %+v, lsns %+v", s, l)
		}
		if host, err := os.Readlink("/proc/self/ns/" + l.Type); err != nil || s.Host != (host == fmt.Sprintf("%s:[%d]", l.Type, l.NS)) {
			t.Errorf("%+v; ours is %s, %v", s, host, err)
		}
	}

	// What enters it, does. /proc/self is there for who has the pid namespace that its mount has.
	enter := func(command, what string) string { return strings.TrimSpace(sh(t, e.dir, command+" "+what)) }
	for _, s := range n.Namespaces {
		if s.Host {
			if s.Enter != "" {
				t.Errorf("%+v", s)
			}
			continue
		}
		if s.Type != "mnt" {
			if got := enter(s.Enter, "readlink /proc/self/ns/"+s.Type); got != fmt.Sprintf("%s:[%d]", s.Type, s.Inode) {
				t.Errorf("%s enters %s", s.Enter, got)
			}
		} else if got := enter(s.Enter, "cat /etc/motd"); got != "welcome" {
			t.Errorf("%s: /etc/motd is %q", s.Enter, got)
		}
	}
	inside := enter(n.Enter, "ps -o pid,args")
	for _, p := range n.Processes {
		if !strings.Contains("\n"+inside+"\n", fmt.Sprintf("\n%5d %s\n", p.ContainerPid, p.Command)) || !slices.Equal(p.NSpid, []int{p.Pid, p.ContainerPid}) {
			t.Errorf("%+v; the container's ps has:\n%s", p, inside)
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid)); err != nil || strings.Fields(p.Command)[0] != strings.Split(string(b), "\x00")[0] {
			t.Errorf("%+v; the host's is %q, %v", p, b, err)
		}
	}

	// A stranger in one of them, and a process of the container that is elsewhere.
	stranger := exec.Command("nsenter", "-t", strconv.Itoa(n.Pid), "-n", "sleep", "1004")
	away := exec.Command("unshare", "-n", "sh", "-c", `for d in /sys/fs/cgroup/*/layerctl/`+n.ID+` /sys/fs/cgroup/layerctl/`+n.ID+`; do [ ! -d $d ] || echo $$ > $d/cgroup.procs; done; exec sleep 1005`)
	e.start(stranger)
	e.start(away)
	defer func() {
		stranger.Process.Kill()
		stranger.Wait()
		away.Process.Kill()
		away.Wait()
	}()
	eventually(t, "both are there", func() bool {
		n = e.namespaces("web")
		i := n.in("net", n.Pid)
		return len(n.Processes) == 4 && strings.HasPrefix(n.Processes[3].Command, "sleep") && slices.Equal(n.Namespaces[i].Others, []int{stranger.Process.Pid})
	})
	i := n.in("net", away.Process.Pid)
	if i < 0 || i <= n.in("uts", n.Pid) || n.Namespaces[i].Host || n.Namespaces[i].Enter != fmt.Sprintf("nsenter -t %d -n", away.Process.Pid) {
		t.Errorf("of the process that is elsewhere: %+v", n.Namespaces)
	}
	for _, p := range n.Processes {
		if (p.ContainerPid == 0) != (p.Pid == away.Process.Pid) {
			t.Errorf("%+v", p)
		}
	}

	// The host's network is shared, and says so; text out of a container obeys nobody.
	h := e.namespaces("hosted")
	if net := h.Namespaces[h.in("net", h.Pid)]; !net.Host || len(net.Containers) != 0 {
		t.Errorf("%+v", net)
	}
	if user := h.Namespaces[h.in("user", h.Pid)]; !user.Host || !slices.Equal(user.Containers, []string{"web"}) {
		t.Errorf("%+v", user)
	}
	// So do containers that were given each other's.
	e.ok("run", "-d", "--name", "side", "--pid", "container:web", "--network", "container:web", "busybox", "sleep", "1006")
	side := e.namespaces("side")
	for _, kind := range []string{"pid", "net"} {
		s := side.Namespaces[side.in(kind, side.Pid)]
		if s.Host || !slices.Equal(s.Containers, []string{"web"}) || s.Inode != n.Namespaces[n.in(kind, n.Pid)].Inode {
			t.Errorf("%+v", s)
		}
		n := e.namespaces("web")
		if s := n.Namespaces[n.in(kind, n.Pid)]; !slices.Equal(s.Containers, []string{"side"}) || len(n.Processes) != 4 {
			t.Errorf("%+v", n)
		}
	}
	if p := side.Processes; len(p) != 1 || p[0].ContainerPid < 2 || !strings.Contains(enter(n.Enter, "ps -o pid,args"), fmt.Sprintf("\n%5d sleep 1006\n", p[0].ContainerPid)) {
		t.Errorf("%+v", side)
	}
	if out := e.ok("top", "side", "-o", "pid,args"); !slices.Equal(strings.Fields(out), []string{"PID", "COMMAND", strconv.Itoa(side.Pid), "sleep", "1006"}) {
		t.Errorf("top of a container in another one's pid namespace: %q", out)
	}
	e.ok("rm", "-f", "side")
	text := e.ok("ns")
	for _, want := range []string{
		"hosted (" + h.ID[:12] + "): `nsenter -t ", "\n\nweb (" + n.ID[:12] + "): `", fmt.Sprintf("process %d", stranger.Process.Pid),
		fmt.Sprintf("\n%d", h.Pid), "sh -c echo up; sleep 1003; : a\\x1b[31mb\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("ns does not show %q:\n%s", want, text)
		}
	}
	if fields := lineWith(text, "net "); !slices.Equal(fields, []string{"net", fmt.Sprint(h.Namespaces[h.in("net", h.Pid)].Inode), "host", "2", "-"}) {
		t.Errorf("%q in\n%s", fields, text)
	}
	if out := e.ok("ns", "--format", "{{.Name}} {{len .Processes}}", "hosted", "web"); out != "hosted 2\nweb 4\n" {
		t.Errorf("%q", out)
	}
	if r := e.run("ns", "nobody", "hosted"); r.code != 1 || !strings.Contains(r.stdout, "hosted (") || !strings.Contains(r.stderr, "container nobody: no such container") {
		t.Errorf("of one that is not there, and one that is: %+v", r)
	}
}

func lineWith(text, begin string) []string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) {
			return strings.Fields(line)
		}
	}
	return nil
}

// top is the host's ps, of a container's processes only.
func TestTop(t *testing.T) {
	e := withBusybox(t)
	cmd, _ := e.begun("run", "--name", "cc", "busybox", "sh", "-c", "sleep 1006 & echo up; trap 'exit 3' TERM; wait")
	n := e.namespaces("cc")
	pids := []string{strconv.Itoa(n.Processes[0].Pid), strconv.Itoa(n.Processes[1].Pid)}
	rows := func(text string) (rows [][]string) {
		for line := range strings.Lines(text) {
			rows = append(rows, strings.Fields(line))
		}
		return rows
	}
	for _, options := range []string{"", "aux", "-o pid,ppid,user,args", "-e f", "-T", "-o pid m"} {
		of := options
		if of == "" {
			of = "-ef"
		}
		got := rows(e.ok(append([]string{"top", "cc"}, strings.Fields(options)...)...))
		all := rows(sh(t, e.dir, "ps "+of+" -q "+strings.Join(pids, ",")+" 2> /dev/null || ps "+of))
		if len(got) < 3 || !slices.Equal(got[0], all[0]) {
			t.Errorf("top cc %s: %q", options, got)
			continue
		}
		column := slices.Index(all[0], "PID")
		for _, row := range got[1:] {
			// How much it has run, and whether it does now, may have changed in between.
			if len(row) <= column || !slices.ContainsFunc(all, func(r []string) bool {
				return slices.Equal(r, row) || options != "-o pid,ppid,user,args" && len(r) > column && r[column] == row[column] && r[len(r)-1] == row[len(row)-1]
			}) || !slices.Contains(pids, row[column]) && row[column] != "-" {
				t.Errorf("top cc %s shows %q", options, row)
			}
		}
	}
	if text := e.ok("top", "cc"); !strings.HasPrefix(text, "UID") || strings.Count(text, "\n") != 3 || !strings.Contains(text, "sleep 1006\n") {
		t.Errorf("top cc: %q", text)
	}
	e.fails(1, []string{"top cc", "no column PID", "invalid options"}, "top", "cc", "-o", "user,args")
	e.fails(1, []string{"top cc", "a column with blanks comes before"}, "top", "cc", "-eo", "args,pid")
	e.fails(1, []string{"top cc", `"user=PID"`}, "top", "cc", "-o", "user=PID,args")
	e.fails(1, []string{"top cc", "ps", "invalid options"}, "top", "cc", "--no-such-option")
	e.fails(2, []string{"want a container"}, "top")
	e.fails(1, []string{"no such container"}, "top", "nobody")
	e.fails(125, []string{}, "run", "--name", "cc", "busybox", "true")
	without := e.command("top", "cc")
	without.Env = append(without.Env, "PATH=/nonexistent")
	if r := e.finish(without); r.code != 1 || !strings.Contains(r.stderr, "run ps: exec: \"ps\": executable file not found") {
		t.Errorf("without ps: %+v", r)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	e.fails(1, []string{"top", "container cc is not running: it is exited"}, "top", "cc")
	e.fails(1, []string{"ns", "container cc is not running: it is exited"}, "ns", "cc")
}
