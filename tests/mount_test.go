package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What is mounted on the host stays there, is seen by the container and the other way round, keeps what is below it, and leaves nothing.
func TestMount(t *testing.T) {
	e := withBusybox(t)
	t.Cleanup(func() { e.run("umount", "--all") })
	sh(t, e.dir, "mkdir a b c")
	dir := func(name string) string { return filepath.Join(e.dir, name) }
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	mounts := func() []string {
		return strings.Fields(e.ok("mount", "--format", "{{.Kind}}:{{.Name}}:{{.Path}}"))
	}

	// A stopped container: mounted twice it is one file system, and everything else goes on with it.
	e.ok("run", "--name", "stopped", "busybox", "sh", "-c", "echo 1 > /one; rm /etc/two")
	path := strings.TrimSpace(e.ok("mount", "stopped"))
	if again := strings.TrimSpace(e.ok("mount", "stopped")); again != path || !strings.HasPrefix(path, e.runRoot+"/mounts/") {
		t.Errorf("mounted at %s, and again at %s", path, again)
	}
	e.ok("mount", "stopped", "a")
	write(path+"/two", "2\n")
	if read(dir("a/two")) != "2\n" || read(dir("a/one")) != "1\n" || exists(dir("a/etc/two")) {
		t.Errorf("a stopped container has %q", list(dir("a")))
	}
	sh(t, e.dir, "echo 3 > three")
	e.ok("cp", "three", "stopped:/three")
	e.ok("cp", "stopped:/two", "two")
	if read(path+"/three") != "3\n" || read(dir("two")) != "2\n" {
		t.Errorf("copied into and out of what is mounted: %q, %q", read(path+"/three"), read(dir("two")))
	}
	if got := e.ok("diff", "stopped"); got != "C /etc\nD /etc/two\nA /one\nA /three\nA /two\n" {
		t.Errorf("diff of what is mounted: %q", got)
	}
	e.fails(1, []string{"it is mounted at", "hint: ", "layerctl umount"}, "rm", "stopped")
	e.ok("prune", "-f")
	if got := mounts(); len(got) != 2 || got[0] != "container:stopped:"+path || got[1] != "container:stopped:"+dir("a") {
		t.Errorf("mounted: %q", got)
	}
	e.fails(1, []string{"container ", "is mounted at"}, "mount", "busybox", "a")
	// A process in it keeps it.
	sleep := exec.Command("sleep", "1000")
	sleep.Dir = dir("a")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	e.fails(1, []string{"a process uses it", "hint: `fuser"}, "umount", "a")
	sleep.Process.Kill()
	sleep.Wait()
	for range 2 {
		if got := e.ok("umount", "stopped", "./a"); got != "stopped\n./a\n" {
			t.Errorf("umount says %q", got)
		}
	}
	if exists(path) || len(mounts()) > 0 {
		t.Errorf("unmounted, there is %q, and %s", mounts(), path)
	}
	// By hand, and by rm -f.
	e.ok("mount", "stopped", "a")
	sh(t, e.dir, "umount a")
	e.ok("export", "stopped", "-o", "x.tar")
	path = strings.TrimSpace(e.ok("mount", "stopped"))
	e.ok("mount", "stopped", "b")
	e.ok("rm", "-f", "stopped")
	if exists(path) || len(list(dir("b"))) > 0 {
		t.Error("a removed container is still mounted")
	}

	// A running one: what it has is what is mounted, without what is mounted in it.
	running := e.command("run", "--name", "running", "busybox", "sh", "-c", "echo 1 > /one; while [ ! -e /stop ]; do sleep 0.1; done; cat /two > /three")
	e.start(running)
	eventually(t, "it runs", func() bool { return strings.Contains(e.run("diff", "running").stdout, "/one") })
	e.ok("mount", "running", "a")
	write(dir("a/two"), "2\n")
	write(dir("a/stop"), "")
	if read(dir("a/one")) != "1\n" || exists(dir("a/proc/self")) || exists(dir("a/dev/null")) {
		t.Errorf("a running container has %q, %q", list(dir("a")), list(dir("a/dev")))
	}
	if err := running.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if read(dir("a/three")) != "2\n" {
		t.Errorf("what it wrote last is %q", read(dir("a/three")))
	}
	e.fails(1, []string{"it is mounted at " + dir("a")}, "rm", "running")
	e.ok("umount", "running")
	e.ok("rm", "running")
	// One that goes when it ends goes from there, too, however it ends.
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		leaves := e.command("run", "--rm", "--name", "leaves", "busybox", "sh", "-c", "trap exit TERM; touch /ready; while true; do sleep 0.1; done")
		e.start(leaves)
		eventually(t, "it runs", func() bool { return strings.Contains(e.run("diff", "leaves").stdout, "/ready") })
		path = strings.TrimSpace(e.ok("mount", "leaves"))
		leaves.Process.Signal(signal)
		leaves.Wait()
		e.ok("ps", "-a")
		if exists(path) || len(mounts()) > 0 {
			t.Errorf("%v: its mount stayed: %q", signal, mounts())
		}
	}

	// An image: read-only, kept by its mount.
	e.ok("mount", "busybox", "c")
	if read(dir("c/etc/one")) != "one\n" || sh(t, e.dir, "touch c/x 2>&1 || true") != "touch: cannot touch 'c/x': Read-only file system\n" {
		t.Errorf("an image has %q, and is written", list(dir("c")))
	}
	e.fails(1, []string{"it is mounted at " + dir("c"), "hint: ", "layerctl umount"}, "rmi", "busybox")
	e.ok("prune", "-af")
	e.ok("rmi", "-f", "busybox")
	e.ok("prune", "-af")
	if got := mounts(); len(got) != 1 || got[0] != "image:localhost/busybox:latest:"+dir("c") || read(dir("c/etc/one")) != "one\n" {
		t.Errorf("a mounted image: %q, %q", got, read(dir("c/etc/one")))
	}
	e.ok("check")
	sh(t, e.dir, "umount c") // as a reboot does
	if len(mounts()) > 0 {
		t.Errorf("mounted: %q", mounts())
	}
	e.ok("prune", "-af")
	if left := list(filepath.Join(e.root, "snapshots/active")); len(left) > 0 {
		t.Errorf("an image that was mounted left %q", left)
	}
	if trees := list(filepath.Join(e.root, "snapshots/trees")); len(trees) > 1 {
		t.Errorf("an image that was mounted left the trees %q", trees)
	}
	e.fails(1, []string{"no such container or image", "hint: "}, "mount", "nothing")
	e.fails(1, []string{"no such container, image or directory", "hint: "}, "umount", "nothing")
	e.fails(2, []string{"want"}, "umount")
	e.ok("import", "./busybox")
	e.fails(1, []string{"no such file or directory"}, "mount", "busybox", "missing")
	e.fails(1, []string{"not a directory"}, "mount", "busybox", "three")
	e.fails(1, []string{"it lies in the store"}, "mount", "busybox", filepath.Join(e.root, "images"))
	if left := list(filepath.Join(e.root, "snapshots/active")); len(left) > 0 {
		t.Errorf("mounts that failed left %q", left)
	}
}

// A store that was copied has the names of the first; what is mounted of the one is nothing to the other.
func TestMountOfACopy(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "work", "busybox", "true")
	path := strings.TrimSpace(e.ok("mount", "work"))
	sh(t, e.dir, "cp -a "+e.root+" copied")
	in := func(args string) string {
		r := e.script("LAYERCTL_ROOT=$PWD/copied LAYERCTL_RUN_ROOT=$PWD/copied.run $L " + args)
		if r.code != 0 {
			t.Errorf("in the copy, %s: %+v", args, r)
		}
		return r.stdout
	}
	if got := in("mount --format '{{.Path}}'"); got != "" {
		t.Errorf("the copy shows as mounted %q", got)
	}
	in("start work")
	in("wait work")
	in("commit work new")
	in("umount --all")
	in("rm -f work")
	if err := os.WriteFile(filepath.Join(path, "x"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if got := e.ok("diff", "work"); got != "A /x\n" {
		t.Errorf("the first has changed %q", got)
	}
	e.ok("umount", "work")
}
