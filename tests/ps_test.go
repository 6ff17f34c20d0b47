package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A container is renamed whether it runs or not, and everything goes on under the new name.
func TestRename(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "other", "busybox", "true")
	for _, flags := range [][]string{{"--name", "one"}, {"--name", "one", "--rm"}, {"--name", "one", "--rm", "-t"}} {
		cmd, out := e.begun(append(append([]string{"run"}, flags...), "busybox", "sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")...)
		e.fails(1, []string{"rename container one", "has that name"}, "rename", "one", "other")
		if got := e.ok("rename", "one", "two"); got != "" {
			t.Errorf("rename prints %q", got)
		}
		e.fails(1, []string{"one", "no such container"}, "rename", "one", "three")
		if got := e.ok("ps", "--format", "{{.Names}} {{.State}}"); got != "two running\n" {
			t.Errorf("%q: ps shows %q", flags, got)
		}
		e.ok("run", "--rm", "--name", "one", "busybox", "true") // the name is free
		cmd.Process.Signal(syscall.SIGTERM)
		buf := make([]byte, 100)
		for _, err := out.Read(buf); err == nil; _, err = out.Read(buf) {
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 7 {
			t.Errorf("%q: status %d", flags, code)
		}
		if len(flags) == 2 {
			if got := e.ok("inspect", "--format", "{{.Name}} {{.State.ExitCode}}", "two"); got != "two 7\n" {
				t.Errorf("after its end: %q", got)
			}
			e.ok("rm", "two")
		}
		e.ok("ps", "-a")
		if got := list(filepath.Join(e.root, "containers/names")); len(got) != 1 {
			t.Errorf("%q: the names %q are left", flags, got)
		}
	}
	for _, name := range []string{"", "x", "a b", "_x", "a/b", "..", "\x1b[31mred", strings.Repeat("x", 201), "größe"} {
		e.fails(1, []string{"container name", "want 2 to 200"}, "rename", "other", name)
	}
	e.fails(1, []string{"that is its name"}, "rename", "other", "other")
	e.fails(2, []string{"rename", "got 1 arguments"}, "rename", "other")
	e.fails(1, []string{"nobody", "no such container"}, "rename", "nobody", "x1")
	e.fails(2, []string{"--restart"}, "update", "other")
	e.fails(2, []string{"restart policy", "sometimes"}, "update", "--restart", "sometimes", "other")
	if r := e.run("update", "--restart", "no", "nobody", "other"); r.code != 1 || r.stdout != "other\n" || !strings.Contains(r.stderr, "no such container") {
		t.Errorf("update of two: %+v", r)
	}
	// The copy of the record follows, so that a lost one comes back under the new name.
	e.ok("rename", "other", "renamed")
	record, _ := filepath.Glob(filepath.Join(e.root, "containers", "*", "config.json"))
	if err := os.WriteFile(record[0], []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.ok("check", "--repair")
	if got := e.ok("ps", "-a", "--format", "{{.Names}}"); got != "renamed\n" {
		t.Errorf("after a repair: %q", got)
	}
}
