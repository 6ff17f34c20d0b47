package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What runs in a group is ended, however often it forks, and then the group can be taken away.
func TestEnd(t *testing.T) { layouts(t, testEnd) }

func testEnd(t *testing.T, g *Group) {
	script := "for d in " + quoted(g.Dirs) + "; do echo 0 > $d/cgroup.procs; done; echo; while :; do sleep 1000 & sleep 0.01; done"
	var running []*exec.Cmd
	for range 3 {
		cmd := exec.Command("sh", "-c", script)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it is in
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	if g.Empty() || g.Remove() == nil {
		t.Fatal("the group counts as empty")
	}
	begun := time.Now()
	g.Wait(begun.Add(30 * time.Millisecond))
	if took := time.Since(begun); took < 30*time.Millisecond || took > 5*time.Second {
		t.Errorf("waited %s for what goes on", took)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	g.Wait(begun.Add(time.Minute))
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("waited %s for what was killed", took)
	}
	if !g.Empty() {
		t.Error("processes are left")
	}
	for _, cmd := range running {
		cmd.Wait()
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	for _, dir := range g.Dirs {
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s is left", filepath.Base(dir))
		}
	}
}

func quoted(list []string) (s string) {
	for _, e := range list {
		s += "'" + e + "' "
	}
	return s
}

// Where there is a hierarchy for devices, the group in it allows what deviceRules say and nothing else.
func TestDevices(t *testing.T) { layouts(t, testDevices) }

func testDevices(t *testing.T, g *Group) {
	if !g.LimitsDevices() {
		return // v2 alone
	}
	b, err := os.ReadFile(filepath.Join(g.in("devices"), "devices.list"))
	if err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(strings.TrimSpace(string(b)), "\n"), slices.Clone(deviceRules[:])
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("allowed: %q", got)
	}
}
