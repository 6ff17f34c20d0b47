package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A process in a frozen group does not go on before it is thawed, in either version's hierarchy, where the machine has it.
func TestFreeze(t *testing.T) {
	tried := 0
	defer func() {
		if tried == 0 {
			t.Error("there is no freezer, or it takes root")
		}
	}()
	for _, row := range []struct {
		name, mark string
		v2         bool
	}{
		{"v1", "/sys/fs/cgroup/freezer/tasks", false},
		{"v2, beside v1", "/sys/fs/cgroup/unified/cgroup.procs", true},
		{"v2", "/sys/fs/cgroup/cgroup.procs", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := os.Lstat(row.mark); err != nil || os.Geteuid() != 0 {
				return // another machine's
			}
			tried++
			dir := filepath.Join(filepath.Dir(row.mark), fmt.Sprintf("layerctl-test-%d", os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(dir)
			counts := filepath.Join(t.TempDir(), "n")
			cmd := exec.Command("sh", "-c", `while :; do echo x >> "$0"; done`, counts)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			if err := write(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
				t.Fatal(err)
			}
			g := &Group{Dirs: []string{dir}, v2: row.v2}
			size := func() int64 {
				info, err := os.Stat(counts)
				if err != nil {
					return 0
				}
				return info.Size()
			}
			grows := func() bool {
				from := size()
				for range 500 {
					if size() > from {
						return true
					}
					time.Sleep(10 * time.Millisecond)
				}
				return false
			}
			if !grows() {
				t.Fatal("the process does nothing")
			}
			for range 3 {
				if err := g.Freeze(context.Background()); err != nil {
					t.Fatal(err)
				}
				from := size()
				time.Sleep(50 * time.Millisecond)
				if now := size(); now != from {
					t.Errorf("frozen, the process goes on: from %d to %d", from, now)
				}
				if err := g.Thaw(); err != nil {
					t.Fatal(err)
				}
				if !grows() {
					t.Error("thawed, the process does not go on")
				}
			}
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			if err := g.Freeze(ended); err == nil {
				g.Thaw() // it was quicker than the look at the context
			} else if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "freeze cgroup") {
				t.Errorf("called off: %v", err)
			}
			if !grows() {
				t.Error("called off, it left the process frozen")
			}
		})
	}
}

func TestNoFreezer(t *testing.T) {
	for _, g := range []*Group{{}, {Dirs: []string{"/sys/fs/cgroup/not-there"}}, {Dirs: []string{"/sys/fs/cgroup/not-there"}, v2: true}} {
		if err := g.Freeze(context.Background()); !errors.Is(err, ErrNoFreezer) {
			t.Errorf("%+v: %v", g, err)
		}
		if err := g.Thaw(); err != nil {
			t.Errorf("%+v: thaw: %v", g, err)
		}
	}
}
