package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const namespaces = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done"

// Of the namespaces that a container may share it has the named one, and the others are its own.
func TestSharedNamespaces(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("other", "--hostname", "otherhost")
	others := strings.Fields(e.ok("exec", "other", "sh", "-c", namespaces))
	var hosts []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		id, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, id)
	}
	for n, flag := range map[int]string{1: "--ipc", 3: "--network", 4: "--pid", 5: "--uts"} {
		for mode, of := range map[string][]string{"host": hosts, "container:other": others} {
			got := strings.Fields(e.ok("run", "--rm", flag, mode, "busybox", "sh", "-c", namespaces))
			for i := range got {
				if (got[i] == of[i]) != (i == n) {
					t.Errorf("%s %s: namespaces %q; those of %s are %q", flag, mode, got, mode, of)
				}
			}
			for _, way := range [][]string{{"run", "--name", "second", flag, mode}, {"run", "-d", "--name", "second", flag, mode}, {"create", "--name", "second", flag, mode}} {
				e.ok(append(way, "busybox", "sh", "-c", namespaces)...)
				if way[0] == "create" {
					e.ok("start", "-a", "second")
				}
				e.ok("wait", "second")
				if out := e.ok("logs", "second"); strings.Fields(out)[n] != of[n] {
					t.Errorf("%q: namespaces %q; those of %s are %q", way, out, mode, of)
				}
				e.ok("rm", "second")
			}
		}
	}

	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		flags, command, want string
	}{
		{"--uts host", "hostname; cat /etc/hostname", name + "\n" + name + "\n"},
		{"--uts container:other", "hostname; echo $HOSTNAME", "otherhost\notherhost\n"},
		{"--network container:other", "hostname; cat /etc/hostname; grep -c otherhost /etc/hosts; ip -o link | wc -l", "otherhost\notherhost\n1\n1\n"},
		{"--ipc container:other", "echo hello > /dev/shm/file; mount | grep -c ' /dev/shm '", "1\n"},
		{"--pid container:other", "tr '\\0' ' ' < /proc/1/cmdline; test $$ -gt 1 && echo not the first", "sleep 1000 not the first\n"},
		{"--pid container:other --init", "cat /proc/1/comm; test $$ -gt 1 && echo not the first", "sleep\nnot the first\n"},
		{"--pid container:other --network container:other --ipc container:other --uts container:other", "cat /dev/shm/file; cat /proc/1/comm", "hello\nsleep\n"},
	} {
		if got := e.ok(append(append([]string{"run", "--rm"}, strings.Fields(row.flags)...), "busybox", "sh", "-c", row.command)...); got != row.want {
			t.Errorf("%s: %q, want %q", row.flags, got, row.want)
		}
	}
	if out := e.ok("exec", "other", "cat", "/dev/shm/file"); out != "hello\n" {
		t.Errorf("what another container wrote to the shared /dev/shm: %q", out)
	}
	if out := e.ok("exec", "other", "hostname"); out != "otherhost\n" {
		t.Errorf("the host name is %q now", out)
	}
	if out := e.ok("run", "--rm", "--pid", "container:other", "--ipc", "container:other", "--explain", "busybox", "true"); !strings.Contains(out, "nsenter --pid=/proc/") ||
		!strings.Contains(out, "nsenter --ipc=/proc/") || strings.Contains(out, "unshare --pid") {
		t.Errorf("--explain:\n%s", out)
	}
}

func TestSharedRefused(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "over", "busybox", "true")
	e.ok("create", "--name", "never", "busybox", "true")
	for _, flag := range []string{"--pid", "--ipc", "--uts", "--network"} {
		word := strings.TrimPrefix(flag, "--")
		e.fails(125, []string{word + " namespace", "container nobody", "no such container"}, "run", flag, "container:nobody", "busybox", "true")
		e.fails(125, []string{"join the " + word + " namespace", "not running (exited)"}, "run", "--rm", flag, "container:over", "busybox", "true")
		e.fails(125, []string{"join the " + word + " namespace", "not running (created)"}, "run", "--rm", flag, "container:never", "busybox", "true")
		e.fails(125, []string{flag + " wrong"}, "run", "--rm", flag, "wrong", "busybox", "true")
		e.fails(125, []string{flag + " container:"}, "run", "--rm", flag, "container:", "busybox", "true")
		// What is made to share with one that does not run is refused when it is started, each time.
		e.ok("create", "--name", "later", flag, "container:over", "busybox", "true")
		e.fails(1, []string{"later", "join the " + word + " namespace", "not running (exited)"}, "start", "later")
		e.ok("rm", "later")
	}
	for _, flag := range []string{"--uts", "--network"} {
		e.fails(125, []string{"host name mine"}, "run", "--hostname", "mine", flag, "container:over", "busybox", "true")
	}
	e.ok("create", "--name", "gone", "busybox", "true")
	e.ok("create", "--name", "left", "--network", "container:gone", "busybox", "true")
	e.ok("rm", "gone")
	e.fails(1, []string{"join the network namespace", "no such container"}, "start", "left")
}

// The container whose namespaces are shared ends: with its pid namespace all in it end, its others go on being what they were.
func TestSharedEnds(t *testing.T) {
	e := withBusybox(t)
	first := e.sleeper("first")
	inPid, _ := e.begun("run", "--rm", "--name", "inpid", "--pid", "container:first", "busybox", "sh", "-c", "echo up; sleep 1000 & exec sleep 1000")
	inNet, _ := e.begun("run", "--rm", "--name", "innet", "--network", "container:first", "--ipc", "container:first", "--uts", "container:first", "busybox", "sh", "-c",
		"echo up; exec sleep 1000")
	before := e.ok("exec", "innet", "sh", "-c", namespaces)
	first.Process.Kill()
	inPid.Wait()
	if code := inPid.ProcessState.ExitCode(); code != 137 {
		t.Errorf("its pid namespace's first process was killed: status %d", code)
	}
	if after := e.ok("exec", "innet", "sh", "-c", namespaces+"; touch /dev/shm/x; ls /etc/hosts"); after != before+"/etc/hosts\n" {
		t.Errorf("its namespaces were\n%s, and are\n%s", before, after)
	}
	inNet.Process.Kill()
	inNet.Wait()
}

// In a pid namespace that it shares a container has no first process that takes all others with it. They end all the same: with it, with
// rm -f, and after a kill of who watched it.
func TestSharedPidLeavesNothing(t *testing.T) {
	e := withBusybox(t)
	e.sleeper("first")
	script := "echo up; setsid sleep 999 & setsid sh -c 'sleep 999; true' & exec "
	left := func() string {
		return e.ok("exec", "first", "sh", "-c", "ps -o args | grep -c '[s]leep 999'; true")
	}
	for _, mode := range []string{"container:first", "host"} {
		e.ok("run", "--rm", "--pid", mode, "busybox", "sh", "-c", script+"true")
		if n := left(); n != "0\n" {
			t.Errorf("--pid %s: it has ended, and left %s processes", mode, n)
		}
		for _, flags := range [][]string{{"--rm"}, {"--rm", "-t"}, {}} {
			cmd, _ := e.begun(append(append([]string{"run", "--name", "brief", "--pid", mode}, flags...), "busybox", "sh", "-c", script+"sleep 999")...)
			e.ok("rm", "-f", "brief")
			cmd.Wait()
			if n := left(); n != "0\n" {
				t.Errorf("--pid %s %q: it was removed, and left %s processes", mode, flags, n)
			}
		}
		cmd, _ := e.begun("run", "--rm", "--name", "brief", "--pid", mode, "busybox", "sh", "-c", script+"sleep 999")
		if r := e.run("kill", "-s", "TERM", "brief"); r.code != 0 {
			t.Errorf("kill: %+v", r)
		}
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 143 {
			t.Errorf("--pid %s: a process that is no first one does not heed SIGTERM: status %d", mode, cmd.ProcessState.ExitCode())
		}
		cmd, _ = e.begun("run", "--rm", "--name", "brief", "--pid", mode, "busybox", "sh", "-c", script+"sleep 999")
		cmd.Process.Kill()
		cmd.Wait()
		e.ok("ps")
		if n := left(); n != "0\n" {
			t.Errorf("--pid %s: its monitor was killed, ps has looked, and there are %s processes", mode, n)
		}
		if exists(filepath.Join(e.root, "containers/names/brief")) {
			t.Error("it is still there")
		}
	}
}

// Nobody in a shared pid namespace reaches into the command line that starts a container in it, nor writes our program.
func TestSharedPidOutOfReach(t *testing.T) {
	e := withBusybox(t)
	e.probe()
	before := sum(t, binary)
	for _, row := range []struct {
		flags    string
		commands []string
	}{
		{"", []string{"run --rm --pid container:work busybox true", "run --rm --pid container:work -u ann busybox true", "run --rm -t --pid container:work busybox true",
			"run --rm --pid container:work busybox nothing"}},
		{"--pid host", []string{"run --rm --pid host busybox true", "exec work true", "run --rm busybox true"}},
	} {
		seen, held, reached := e.probed(strings.Fields(row.flags), 800*time.Millisecond, row.commands...)
		if reached != "" || held != 0 {
			t.Errorf("%s: the container reached %s and held %d programs of others", row.flags, reached, held)
		}
		if seen == 0 {
			t.Errorf("%s: the probe saw nothing that was not yet the command: it was too slow", row.flags)
		}
	}
	_, held, reached := e.probed(nil, 800*time.Millisecond, "run --rm --pid container:work probe /proc/self/exe version", "run --rm --pid container:work probe script",
		"run --rm -t --pid container:work probe ours version", "run --rm --init --pid container:work busybox true")
	if strings.Contains(reached, "WRITABLE") || sum(t, binary) != before {
		t.Error("the container opened our program for writing")
	}
	if held == 0 {
		t.Error("the probe held nothing that it could have written: it was too slow")
	}
}
