package tests

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shutdown ends a filesystem as a power cut does: what is not on the device is lost, and nothing goes there any more.
func shutdown(t testing.TB, mount string) {
	t.Helper()
	const ioctl, noLogFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one
	f, err := os.Open(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), uint(ioctl), noLogFlush); err != nil {
		t.Fatalf("shut down %s: %v", mount, err)
	}
}

// restart is the machine coming up again after shutdown.
func (d *disk) restart(t testing.TB) {
	t.Helper()
	d.detach(t)
	// Somebody's mount namespace may hold the filesystem that was shut down, so the same device would be that again.
	sh(t, d.dir, fmt.Sprintf("cp --sparse=always %s %s.again && mv %s.again %s && rm -rf %s", d.file, d.file, d.file, d.file, d.runRoot))
	d.attach(t)
}

// A device that fails ends what is under way with a clear error, and names nothing that is not whole.
func TestFailingDevice(t *testing.T) {
	d := newDisk(t, "ext4", "200M", "")
	reg := d.sources(t)
	other := reg.addr + "/other:latest"
	d.ok("import", "tree", "busybox")
	d.ok("import", "tree2", "gone")
	d.ok("run", "--name", "old", "busybox", "sh", "-c", "echo > /x")
	writers := []string{"pull -q " + other, "import tree2 new", "load -q -i archived.tar", "tag busybox third", "run --rm busybox true",
		"run --name new busybox true", "rmi gone", "rm old", "prune -f -a"}
	form := regexp.MustCompile(`^(layerctl: [^\n]*(input/output error|read-only file system|exec format error)[^\n]*\nhint: [^\n]*\n)+$`)

	done := regexp.MustCompile(`container new: container|no such (image|container)`) // it had come to what counts

	// Everything fails from the beginning, or from somewhere in the middle: nothing reaches the device any more.
	for i, args := range writers {
		for j, after := range []time.Duration{0, 15 * time.Millisecond} {
			sh(t, d.dir, "sync -f "+d.mount)
			cut := d.fork(t, fmt.Sprintf("failing%d.%d", i, j))
			what := fmt.Sprintf("%s, with a device that fails after %v", args, after)
			var r result
			if after == 0 {
				shutdown(t, cut.mount)
				r = cut.run(strings.Fields(args)...)
			} else {
				ended := make(chan bool)
				go func() {
					r = cut.run(strings.Fields(args)...)
					close(ended)
				}()
				time.Sleep(after)
				shutdown(t, cut.mount)
				<-ended
			}
			if (r.code != 0 || after == 0) && (!form.MatchString(r.stderr) || (r.code == 125 || r.code == 126) != strings.HasPrefix(args, "run")) {
				t.Errorf("%s: status %d, or not a clear line and a hint:\n%s", what, r.code, r.stderr)
			}
			cut.restart(t)
			if c := cut.run("check", "--full"); c.code != 0 {
				t.Errorf("%s: check: status %d: %s%s", what, c.code, c.stdout, c.stderr)
			}
			if a := cut.run(strings.Fields(args)...); a.code != 0 && r.code != 0 && !done.MatchString(a.stderr) {
				t.Errorf("%s: again, when it works: status %d: %s", what, a.code, a.stderr)
			}
			cut.drop(t)
		}
	}

	// A store that cannot be written can be looked at.
	before := map[string]string{}
	ago := regexp.MustCompile(`(Less than a second|About an? \S+|\S+ \S+) ago`)
	timeless := func(s string) string { return strings.Join(strings.Fields(ago.ReplaceAllString(s, "")), " ") } // time goes on meanwhile
	readers := []string{"images", "ps -a", "inspect busybox", "history busybox", "info", "check --full", "df", "diff old"}
	for _, args := range readers {
		before[args] = timeless(d.ok(strings.Fields(args)...))
	}
	sh(t, d.dir, "mount -o remount,ro "+d.mount)
	defer sh(t, d.dir, "mount -o remount,rw "+d.mount)
	for _, args := range readers {
		if r := d.run(strings.Fields(args)...); r.code != 0 || timeless(r.stdout) != before[args] {
			t.Errorf("%s of a read-only store: status %d: %s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	for _, args := range writers {
		if r := d.run(strings.Fields(args)...); r.code == 0 || !form.MatchString(r.stderr) {
			t.Errorf("%s in a read-only store: status %d, or not a clear line and a hint:\n%s", args, r.code, r.stderr)
		}
	}
}
