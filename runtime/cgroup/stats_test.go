package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// layouts runs a test in the groups that containers get here, and in those that they get where v1's hierarchies have no v2 tree beside them.
func layouts(t *testing.T, test func(t *testing.T, g *Group)) {
	t.Helper()
	id := fmt.Sprintf("unit-%s-%d", strings.ToLower(t.Name()), os.Getpid())
	t.Run("here", func(t *testing.T) { test(t, made(t, Of(id))) })
	if _, err := os.Lstat(filepath.Join(mountPoint, "freezer", "tasks")); err != nil {
		return // a machine without v1
	}
	g := &Group{}
	for _, h := range []string{"devices", "memory", "cpuacct", "freezer"} {
		g.Dirs = append(g.Dirs, filepath.Join(mountPoint, h, parentName, id))
	}
	t.Run("v1", func(t *testing.T) { test(t, made(t, g)) })
}

// made makes groups, which are gone after the test.
func made(t *testing.T, g *Group) *Group {
	t.Helper()
	if err := g.Make(); err != nil || len(g.Dirs) == 0 {
		t.Fatalf("no control groups to make here (it takes root): %v", err)
	}
	t.Cleanup(func() {
		for _, dir := range g.Dirs {
			os.Remove(filepath.Dir(dir)) // it stays for the next container; one that others use cannot be removed
		}
	})
	t.Cleanup(func() {
		g.Kill()
		for until := time.Now().Add(10 * time.Second); g.Remove() != nil && time.Now().Before(until); {
			g.Wait(until)
			time.Sleep(time.Millisecond)
		}
		if slices.ContainsFunc(g.Dirs, func(dir string) bool { _, err := os.Lstat(dir); return err == nil }) {
			t.Error("groups are left")
		}
	})
	return g
}

// within starts a script in the groups, and waits until it has said something.
func within(t *testing.T, dirs []string, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "for d in "+quoted(dirs)+"; do echo 0 > $d/cgroup.procs || exit 9; done; "+script)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// The groups count what is done in them, and nothing else.
func TestStats(t *testing.T) { layouts(t, testStats) }

func testStats(t *testing.T, g *Group) {
	disk := "" // one that is read without the page cache
	for _, dir := range []string{"/var/tmp", "/"} {
		f, err := os.CreateTemp(dir, "layerctl-stats.")
		if err != nil {
			continue
		}
		f.Write(make([]byte, 4<<20))
		f.Sync()
		f.Close()
		defer os.Remove(f.Name())
		if exec.Command("dd", "if="+f.Name(), "of=/dev/null", "bs=1M", "count=1", "iflag=direct").Run() == nil {
			disk = f.Name()
			break
		}
	}
	none, err := g.Stats()
	if err != nil || none.CPU != 0 || none.Tasks != 0 || none.BlockRead != 0 || none.MemoryLimit < 1<<20 {
		t.Errorf("of groups without processes: %+v, %v", none, err)
	}
	script := "x=$(head -c 20000000 /dev/zero | tr '\\0' x); for i in 1 2 3; do sleep 1000 & done; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; "
	if disk != "" {
		script += "dd if=" + disk + " of=/dev/null bs=1M iflag=direct 2>/dev/null; "
	}
	within(t, g.Dirs, script+"echo up; exec sleep 1000 $x")
	s, err := g.Stats()
	if err != nil || s.Tasks != 4 || s.CPU < 20*time.Millisecond || s.CPU > time.Minute || !s.Time.After(none.Time) {
		t.Errorf("%+v, %v", s, err)
	}
	if dir, _ := g.counting("memory"); dir != "" && (s.Memory < 20000000 || s.Memory > 200000000 || s.MemoryLimit < s.Memory) {
		t.Errorf("memory: %+v", s)
	}
	if disk != "" && (s.BlockRead < 4<<20 || s.BlockRead > 64<<20) {
		t.Errorf("blocks: %+v", s)
	}
	if n := g.OOMKills(); n != 0 {
		t.Errorf("%d processes count as ended for want of memory", n)
	}
	if _, err := Of("not-there").Stats(); !errors.Is(err, ErrNoStats) {
		t.Errorf("of groups that are not there: %v", err)
	}
	if _, err := (&Group{}).Stats(); !errors.Is(err, ErrNoStats) {
		t.Errorf("without groups: %v", err)
	}
}

// What is said of freezing, killing and removing is what these ask for, in both layouts.
func TestExplained(t *testing.T) { layouts(t, testExplained) }

func testExplained(t *testing.T, g *Group) {
	freeze, err := g.ExplainFreeze()
	if err != nil {
		t.Fatal(err)
	}
	within(t, g.Dirs, "echo up; exec sleep 1000")
	defer g.Thaw()
	for _, lines := range [][]string{freeze[:1], g.ExplainThaw(), freeze, g.ExplainThaw(), g.ExplainKill()} {
		if out, err := exec.Command("sh", "-euc", strings.Join(lines, "\n")).CombinedOutput(); err != nil {
			t.Errorf("%q: %v: %s", lines, err, out)
		}
	}
	g.Wait(time.Now().Add(10 * time.Second))
	if !g.Empty() {
		t.Error("processes are left")
	}
	for range 1000 { // the last one may be on its way out
		exec.Command("sh", "-c", strings.Join(g.ExplainRemove(), "; ")).Run()
		if !slices.ContainsFunc(g.Dirs, func(dir string) bool { _, err := os.Lstat(dir); return err == nil }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%q do not remove the groups", g.ExplainRemove())
}

// What the kernel ends because memory has run out is counted.
func TestOOM(t *testing.T) { layouts(t, testOOM) }

func testOOM(t *testing.T, g *Group) {
	dir, v1 := g.counting("memory")
	if dir == "" {
		t.Fatal("nothing counts memory here")
	}
	file := filepath.Join(dir, "memory.max")
	if v1 {
		file = filepath.Join(dir, "memory.limit_in_bytes")
	}
	if err := write(file, "16000000"); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Stats(); err != nil || s.MemoryLimit < 15000000 || s.MemoryLimit > 16000000 {
		t.Errorf("%+v, %v", s, err)
	}
	cmd := within(t, g.Dirs, "echo up; exec tail /dev/zero")
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
	if n := g.OOMKills(); n != 1 {
		t.Errorf("%d processes count as ended for want of memory", n)
	}
}

// What a container made below its groups is ended and goes with them.
func TestGroupsBelow(t *testing.T) { layouts(t, testGroupsBelow) }

func testGroupsBelow(t *testing.T, g *Group) {
	below := filepath.Join(g.last(), "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := within(t, []string{below}, "echo up; exec sleep 1000")
	if pids, err := g.Processes(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("%d, %v; it is %d", pids, err, cmd.Process.Pid)
	}
	if g.Empty() || g.Remove() == nil {
		t.Error("the group counts as empty")
	}
	if err := g.Make(); err == nil {
		t.Error("the group was removed with a process in it")
	}
	os.MkdirAll(g.last(), 0o755)
	if err := g.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait()
}

func TestBlocks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	for _, row := range []struct {
		text        string
		read, write uint64
	}{
		{"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=5 dios=1\n253:1 rbytes=1 wbytes=2 rios=0 wios=0 dbytes=0 dios=0\n254:0 \n", 11, 22},
		{"", 0, 0},
	} {
		if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, w := blocks(file); r != row.read || w != row.write {
			t.Errorf("%q: %d, %d", row.text, r, w)
		}
	}
}
