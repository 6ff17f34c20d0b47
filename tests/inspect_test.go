package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What run is told of a container's life is in its record, in inspect's words, and goes into what is committed of it.
func TestLifeFlags(t *testing.T) {
	e := withBusybox(t)
	e.ok("config", "-c", "LABEL from=image both=image", "-c", "STOPSIGNAL SIGQUIT", "-c", "ENV A=image B=image C=image", "busybox", "app")
	file := func(name, text string) string {
		path := filepath.Join(e.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := file("env", "# variables\nA=file\nB=file\nE2E_PASSED\nE2E_NOT\n")
	marks := file("marks", "both=file\nalone\n")
	cmd := e.command("run", "--name", "one", "--env-file", env, "-e", "B=flag", "--label-file", marks, "-l", "own=1", "--label", "alone=2", "--stop-signal", "rtmin+3",
		"--stop-timeout", "-1", "--cidfile", "cid", "--restart", "no", "--log-driver", "none", "app", "sh", "-c", "echo $A $B $C $E2E_PASSED ${E2E_NOT-unset}")
	cmd.Env = append(cmd.Env, "E2E_PASSED=caller")
	if r := e.finish(cmd); r.code != 0 || r.stdout != "file flag image caller unset\n" {
		t.Errorf("%+v", r)
	}
	id := strings.TrimSpace(e.ok("ps", "-aq", "--no-trunc"))
	if b, err := os.ReadFile(filepath.Join(e.dir, "cid")); err != nil || string(b) != id {
		t.Errorf("the ID file has %q, %v; the container is %s", b, err, id)
	}
	show := func(name, format string) string {
		t.Helper()
		return strings.TrimSpace(e.ok("inspect", "--format", format, name))
	}
	if got := show("one", "{{json .Config.Labels}} {{.Config.StopSignal}} {{.Config.StopTimeout}}"); got != `{"alone":"2","both":"file","from":"image","own":"1"} SIGRTMIN+3 -1` {
		t.Error(got)
	}
	e.ok("commit", "one", "made")
	if got := show("made", "{{json .Config.Labels}} {{.Config.StopSignal}}"); got != `{"alone":"2","both":"file","from":"image","own":"1"} SIGRTMIN+3` {
		t.Error(got)
	}
	e.ok("run", "--name", "two", "app", "true")
	if got := show("two", "{{json .Config.Labels}} {{.Config.StopSignal}} {{.Config.StopTimeout}}"); got != `{"both":"image","from":"image"} SIGQUIT 10` {
		t.Error(got)
	}
	if out := e.ok("container", "prune", "-f", "--filter", "label=own=1"); !strings.Contains(out, id) {
		t.Errorf("a prune by label: %q", out)
	}
	if got := e.ok("ps", "-a", "--format", "{{.Names}}"); got != "two\n" {
		t.Errorf("after it there are %q", got)
	}

	// What cannot be is refused, and leaves nothing.
	for _, row := range []struct {
		says []string
		args []string
	}{
		{[]string{"cid", "is there already"}, []string{"--cidfile", "cid"}},
		{[]string{"no such file"}, []string{"--cidfile", "not/there"}},
		{[]string{"no/env", "no such file"}, []string{"--env-file", "no/env"}},
		{[]string{`signal "FOO"`}, []string{"--cidfile", "new", "--stop-signal", "FOO"}},
		{[]string{"stop timeout -2"}, []string{"--stop-timeout", "-2"}},
		{[]string{"stop-timeout", "want a number"}, []string{"--stop-timeout", "1s"}},
		{[]string{"restart policy", "sometimes"}, []string{"--restart", "sometimes"}},
		{[]string{"--restart always", "--rm"}, []string{"--restart", "always"}},
		{[]string{"--log-driver syslog", "not supported"}, []string{"--log-driver", "syslog"}},
		{[]string{"label", "KEY=VALUE"}, []string{"-l", "=x"}},
	} {
		e.fails(125, row.says, append(append([]string{"run", "--rm"}, row.args...), "app", "true")...)
	}
	if exists(filepath.Join(e.dir, "new")) {
		t.Error("a run that failed leaves its ID file")
	}
	// The file tells who was removed, too, and the explanation of a run makes none.
	e.ok("run", "--rm", "--cidfile", "rm", "app", "true")
	e.ok("run", "--explain", "--cidfile", "explained", "app", "true")
	if !exists(filepath.Join(e.dir, "rm")) || exists(filepath.Join(e.dir, "explained")) {
		t.Error("ID files are not where they should be")
	}
}
