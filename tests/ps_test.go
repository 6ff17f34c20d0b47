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

// A container that runs heeds the restart policy that it is given; and the others are shown when one's record is damaged.
func TestUpdate(t *testing.T) {
	e := withBusybox(t)
	id := strings.TrimSpace(e.ok("run", "-d", "--name", "again", "busybox", "sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; rm /go; exit 3"))
	if got := e.ok("update", "--restart", "on-failure:2", "again"); got != "again\n" {
		t.Errorf("update prints %q", got)
	}
	look := func() string {
		return strings.TrimSpace(e.ok("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.RestartCount}} {{.State.Running}}", "again"))
	}
	end := func() { e.ok("exec", "again", "touch", "/go") }
	end()
	eventually(t, "it is started again", func() bool { return look() == "on-failure:2 1 true" })
	e.ok("update", "--restart", "no", "again")
	eventually(t, "it runs", func() bool { return e.ok("ps", "-q", "-f", "status=running") != "" })
	end()
	eventually(t, "it ends", func() bool { return look() == "no:0 1 false" })
	if got := e.ok("ps", "-a", "--format", "{{.Status}}"); !strings.HasPrefix(got, "Exited (3)") {
		t.Errorf("in the end: %q", got)
	}
	e.ok("run", "-d", "--rm", "--name", "once", "busybox", "sleep", "1000")
	e.fails(1, []string{"once", "removed when it ends"}, "update", "--restart", "always", "once")

	// Damage to one record.
	record := filepath.Join(e.root, "containers", id, "config.json")
	whole, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if r := e.run("ps", "-a", "--format", "{{.Names}}"); r.code != 1 || r.stdout != "once\n" || !strings.Contains(r.stderr, "damaged") || !errorForm.MatchString(r.stderr) {
		t.Errorf("ps with a damaged record: %+v", r)
	}
	if err := os.WriteFile(record, whole, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What ps shows, in which order, of which containers, in Docker's words.
func TestPs(t *testing.T) {
	e := withBusybox(t)
	e.ok("config", "-c", "LABEL tier=front", "busybox", "app")
	e.ok("run", "--name", "grown", "app", "touch", "/new")
	e.ok("commit", "grown", "onapp")
	e.ok("run", "--name", "first", "-l", "n=1", "busybox", "sh", "-c", "head -c 3000 /dev/zero > /f; ln /f /g; mkdir /d")
	e.run("run", "--name", "failed", "-l", "n=2", "-l", "note=two\nlines", "app", "sh", "-c", "exit 3")
	e.ok("run", "--name", "above", "onapp", "true")
	e.ok("run", "--name", "plain", "--rootfs", "busybox", "sh", "-c", "echo a long command that is cut; echo 12345 > /n")
	live, _ := e.begun("run", "--name", "live", "--network", "host", "busybox", "sh", "-c", "echo up; exec sleep 1000")
	defer func() {
		e.ok("rm", "-f", "live")
		live.Wait()
	}()
	names := func(args ...string) string {
		t.Helper()
		return strings.Join(strings.Fields(e.ok(append([]string{"ps", "--format", "{{.Names}}"}, args...)...)), " ")
	}
	eventually(t, "the live one is running", func() bool { return names("-f", "status=running") == "live" }) // its own "up" may come first
	e.ok("create", "--name", "ready", "busybox", "true")
	if got := e.ok("ps", "-f", "status=created", "--format", "{{.Names}} {{.State}} {{.Status}}"); got != "ready created Created\n" {
		t.Errorf("one that was never started: %q", got)
	}
	e.ok("rm", "ready")
	e.ok("pause", "live")
	if got := e.ok("ps", "-f", "network=host", "--format", "{{.State}} {{.Status}}"); !strings.HasPrefix(got, "paused Up ") || !strings.HasSuffix(got, " (Paused)\n") {
		t.Errorf("one that is paused: %q", got)
	}
	e.ok("unpause", "live")
	app := strings.TrimSpace(e.ok("inspect", "--format", "{{.Id}}", "app"))
	for _, row := range []struct {
		args []string
		want string
	}{
		{nil, "live"},
		{[]string{"-a"}, "live plain above failed first grown"},
		{[]string{"-l"}, "live"},
		{[]string{"-n", "3"}, "live plain above"},
		{[]string{"-n", "0"}, "live"},
		{[]string{"-n", "2", "-f", "label=n"}, "failed first"},
		{[]string{"-a", "-f", "exited=3"}, "failed"},
		{[]string{"-f", "exited=3"}, ""},
		{[]string{"-f", "status=exited", "-f", "label=n=1"}, "first"},
		{[]string{"-a", "-f", "label=tier=front"}, "above failed grown"},
		{[]string{"-a", "-f", "before=failed"}, "first grown"},
		{[]string{"-a", "-f", "since=failed"}, "live plain above"},
		{[]string{"-a", "-f", "since=first", "-f", "before=live"}, "plain above failed"},
		{[]string{"-a", "-f", "ancestor=onapp"}, "above"},
		{[]string{"-a", "-f", "ancestor=app"}, "live above failed first grown"}, // config made it of the same layers as busybox
		{[]string{"-a", "-f", "ancestor=" + app[:19], "-f", "label=tier"}, "above failed grown"},
		{[]string{"-a", "-f", "ancestor=nothing"}, ""},
		{[]string{"-a", "-f", "network=host"}, "live"},
		{[]string{"-a", "-f", "name=^f"}, "failed first"},
	} {
		if got := names(row.args...); got != row.want {
			t.Errorf("ps %q: %q, want %q", row.args, got, row.want)
		}
	}
	e.fails(1, []string{"before=nobody", "no such container"}, "ps", "-f", "before=nobody")
	e.fails(1, []string{"volume=x", "not supported"}, "ps", "-f", "volume=x")
	e.fails(2, []string{"color=red", "want id, name"}, "ps", "-f", "color=red")
	if got := e.ok("ps", "-a", "-f", "name=failed", "--format", `{{.Label "n"}} {{.Labels}}`); got != "2 n=2,note=two\nlines,tier=front\n" {
		t.Errorf("labels: %q", got)
	}
	if got := e.ok("ps", "-a", "-f", "name=failed", "--format", `table {{.Names}}\t{{.Label "com.example.note"}}\t{{.Label "note"}}`); got != "NAMES    NOTE   NOTE\nfailed          two lines\n" {
		t.Errorf("a table: %q", got)
	}
	if got := e.ok("ps", "-a", "-f", "name=(grown|first|plain)", "--format", "{{.Size}}"); !strings.HasPrefix(got, "6B\n3kB (virtual ") || !strings.Contains(got, "\n0B (virtual ") {
		t.Errorf("sizes: %q", got)
	}
	lines := strings.Split(e.ok("ps", "-as"), "\n")
	if !strings.HasPrefix(lines[0], "CONTAINER ID   IMAGE ") || !strings.HasSuffix(lines[0], "PORTS   NAMES    SIZE") || !strings.Contains(lines[2], `"sh -c 'echo a long…"`) && !strings.Contains(lines[2], `"sh -c echo a long c…"`) {
		t.Errorf("a table:\n%s\n%s", lines[0], lines[2])
	}
	var row map[string]any
	fromJSON(t, e.ok("ps", "-l", "--format", "json"), &row)
	if _, has := row["Size"]; has || row["State"] != "running" || !strings.HasPrefix(row["Status"].(string), "Up ") || row["Networks"] != "host" {
		t.Errorf("as JSON: %v", row)
	}
	if ids := strings.Fields(e.ok("ps", "-aq")); len(ids) != 6 || len(ids[0]) != 12 {
		t.Errorf("IDs: %q", ids)
	}
	e.ok("rmi", "-f", "onapp")
	if got := names("-a", "-f", "ancestor=onapp"); got != "above" {
		t.Errorf("an image that has gone is the ancestor of %q", got)
	}
}
