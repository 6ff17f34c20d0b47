package tests

import (
	"path/filepath"
	"strings"
	"testing"
)

// What export writes of a container, running or not, is what a process in it sees of its own files, and nothing that is mounted in it.
func TestExport(t *testing.T) {
	e := withBusybox(t)
	script := `echo new > /new; rm /etc/one; rm -r /etc/sub; mkdir /etc/sub; echo 4 > /etc/sub/four; ln /new /linked; echo mine > /etc/hosts; touch /tmp/.wh.odd`
	e.ok("run", "--name", "stopped", "busybox", "sh", "-c", script)
	running := e.command("run", "--name", "running", "busybox", "sh", "-c", script+"; mkdir -p /jail/bin; cp /bin/busybox /jail/bin; touch /jail/ready; exec chroot /jail /bin/busybox sleep 1000")
	e.start(running)
	defer running.Wait()
	eventually(t, "it is in its jail", func() bool { return strings.Contains(e.run("diff", "running").stdout, "/jail/ready") })
	want := sh(t, e.dir, `cp -a busybox want; cd want; echo new > new; ln new linked; rm etc/one; rm -r etc/sub; mkdir etc/sub; echo 4 > etc/sub/four; touch tmp/.wh.odd; find . | sort`)
	for _, c := range []string{"stopped", "running"} {
		e.ok("export", c, "-o", c+".tar")
		got := sh(t, e.dir, "mkdir "+c+" && tar -C "+c+" -xf "+c+".tar && cd "+c+" && rm -rf jail && find . | sort")
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", c, got, want)
		}
		sh(t, e.dir, "diff -r --no-dereference want "+c+" && [ "+c+"/new -ef "+c+"/linked ]")
	}
	e.ok("rm", "-f", "running")
	// An image comes out as it went in, and the same container gives the same bytes.
	sh(t, e.dir, binary+" --root store --run-root run export busybox | tar -d -C busybox && "+
		binary+" --root store --run-root run export stopped | cmp - stopped.tar")
	e.fails(1, []string{"no such container or image", "hint: "}, "export", "nothing")
	e.fails(1, []string{"no such file or directory"}, "export", "busybox", "-o", "missing/x.tar")
	e.fails(1, []string{"is a directory"}, "export", "busybox", "-o", "want")
	e.fails(1, []string{"no space left on device"}, "export", "busybox", "-o", "/dev/full")
	if r := e.run("export", "stopped"); r.code != 0 || !strings.HasPrefix(r.stdout[257:], "ustar") {
		t.Errorf("to stdout: status %d, %s", r.code, r.stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(e.dir, ".*")); len(left) > 0 {
		t.Errorf("a failed export left %q", left)
	}
	// A pipe that is closed ends it, quietly.
	if out := sh(t, e.dir, "set +o pipefail; { "+binary+" --root store --run-root run export busybox; } 2>&1 >/dev/null | head -c0; "+
		binary+" --root store --run-root run export busybox 2>err | head -c1 | wc -c; cat err"); strings.TrimSpace(out) != "1" {
		t.Errorf("a closed pipe: %q", out)
	}
	// A terminal is refused.
	if out := sh(t, e.dir, "script -qec '"+binary+" --root store --run-root run export busybox' /dev/null || echo status $?"); !strings.Contains(out, "stdout is a terminal") || !strings.Contains(out, "status 2") {
		t.Errorf("a terminal: %q", out)
	}
}
