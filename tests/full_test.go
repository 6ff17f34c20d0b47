package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk that is full, to different degrees of bytes or of inodes, fails what needs space with a clear error, names nothing that is not
// whole, lets everything be removed, and has its space back.
func TestDisksThatFill(t *testing.T) {
	d := newDisk(t, "ext4", "64M", "-N 600")
	reg := d.sources(t)
	two, other := reg.addr+"/two:latest", reg.addr+"/other:latest"
	d.ok("import", "tree", "busybox")
	d.ok("tag", "busybox", "second")
	d.ok("pull", "-q", two)
	d.ok("run", "--name", "old", "busybox", "sh", "-c", "echo > /x")
	commands := []struct {
		args   string
		always bool // must work on the fullest disk
	}{
		{"pull -q " + other, false},
		{"import tree2 new", false},
		{"load -q -i archived.tar", false},
		{"tag busybox third", false},
		{"run --rm busybox true", false},
		{"run --name new busybox true", false},
		{"commit old second", false},
		{"rmi second", true},
		{"rmi " + two, true},
		{"rm old", true},
		{"prune -f -a", true},
	}
	var wg sync.WaitGroup
	turn := make(chan bool, 2)
	var mu sync.Mutex
	failed := map[string]int{}
	for _, left := range []string{"0 KiB", "8 KiB", "200 KiB", "1500 KiB", "0 inodes", "4 inodes", "30 inodes"} {
		for i, c := range commands {
			turn <- true
			wg.Go(func() {
				defer func() { <-turn }()
				// One after the other, where each sees a copy of the same disk.
				mu.Lock()
				full := d.fork(t, fmt.Sprintf("full%d.%s", i, strings.ReplaceAll(left, " ", "")))
				mu.Unlock()
				if full.fill(t, left, c.args, c.always) {
					mu.Lock()
					failed[left]++
					mu.Unlock()
				}
				full.drop(t)
			})
		}
	}
	wg.Wait()
	for _, left := range []string{"0 KiB", "8 KiB", "0 inodes"} {
		if failed[left] < 4 {
			t.Errorf("with %s left only %d commands failed: was it full?", left, failed[left])
		}
	}
	t.Logf("commands that failed: %v", failed)
}

var fullForm = regexp.MustCompile(`(?m)^layerctl: [^\n]*no space left on device[^\n]*\nhint: [^\n]*prune[^\n]*\n$`)

// fill fills the disk but for left, and gives it a command. It says whether that failed.
func (d *disk) fill(t *testing.T, left, args string, always bool) (failed bool) {
	what := left + " left: " + args
	ballast := filepath.Join(d.mount, "ballast")
	if err := os.Mkdir(ballast, 0o700); err != nil {
		t.Error(err)
		return false
	}
	number, unit, _ := strings.Cut(left, " ")
	n, _ := strconv.Atoi(number)
	var st unix.Statfs_t
	sync := func() {
		sh(t, d.dir, "sync -f "+d.mount)
		if err := unix.Statfs(d.mount, &st); err != nil {
			t.Error(err)
		}
	}
	sync()
	if unit == "inodes" {
		for i := range int(st.Ffree) - n {
			if err := os.WriteFile(filepath.Join(ballast, fmt.Sprint(i)), nil, 0o600); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	} else {
		f, err := os.Create(filepath.Join(ballast, "file"))
		if err != nil {
			t.Error(err)
			return false
		}
		for range 20 { // a file's own map takes blocks, too
			sync()
			more := int64(st.Bavail)*st.Bsize - int64(n)<<10
			info, err := f.Stat()
			if err != nil || more <= 0 {
				break
			}
			for ; more > 0 && unix.Fallocate(int(f.Fd()), 0, info.Size(), more) != nil; more -= 4096 {
			}
		}
		f.Close()
	}
	sync()
	r := d.run(strings.Fields(args)...)
	if failed = r.code != 0; failed {
		if always {
			t.Errorf("%s: status %d: %s", what, r.code, r.stderr)
		} else if !fullForm.MatchString(r.stderr) || strings.HasPrefix(args, "run") != (r.code == 125) {
			t.Errorf("%s: status %d, or not one clear line and a hint:\n%s", what, r.code, r.stderr)
		}
	}
	// Looking works on a full disk, and what is there is whole.
	for _, look := range []string{"images", "ps -a", "check --full", "df"} {
		if r := d.run(strings.Fields(look)...); r.code != 0 {
			t.Errorf("%s, then %s: status %d: %s%s", what, look, r.code, r.stdout, r.stderr)
		}
	}
	sh(t, d.dir, "rm -r "+ballast)
	for _, id := range strings.Fields(d.run("images", "-q", "--no-trunc").stdout) {
		if r := d.run("run", "--rm", id, "true"); r.code != 0 {
			t.Errorf("%s, then run %s: status %d: %s", what, id, r.code, r.stderr)
		}
	}
	if strings.HasPrefix(args, "commit") {
		if r := d.run("diff", "old"); r.stdout != "A /x\n" {
			t.Errorf("%s: the container has changed %q: %s", what, r.stdout, r.stderr)
		}
	}
	if failed {
		// A container whose end could not be recorded was made.
		if r := d.run(strings.Fields(args)...); r.code != 0 && !strings.Contains(r.stderr, "container new: container") {
			t.Errorf("%s: again, with space: status %d: %s", what, r.code, r.stderr)
		}
	}
	if ids := strings.Fields(d.run("ps", "-aq").stdout); len(ids) > 0 {
		d.run(append([]string{"rm", "-f"}, ids...)...)
	}
	d.run("prune", "-f", "-a")
	d.waitForReaper()
	if names := list(filepath.Join(d.root, "snapshots/trees")); !slices.Equal(names, []string{"init"}) && len(names) > 0 {
		t.Errorf("%s: the trees %q are left", what, names)
	}
	for _, dir := range []string{"snapshots/staging", "snapshots/trash", "snapshots/active", "snapshots/chains", "snapshots/children", "images/blobs/sha256", "images/ingest", "images/names", "containers/names"} {
		if names := list(filepath.Join(d.root, dir)); len(names) > 0 {
			t.Errorf("%s: %s holds %q", what, dir, names)
		}
	}
	if kib, _ := strconv.Atoi(strings.Fields(sh(t, d.dir, "du -sk "+d.root))[0]); kib > 400 {
		t.Errorf("%s: %d KiB are left in the empty store", what, kib)
	}
	return failed
}
