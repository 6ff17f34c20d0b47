package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
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
	made := strings.TrimSpace(e.ok("create", "--cidfile", "created", "--env-file", env, "-l", "own=2", "app", "true"))
	if b, err := os.ReadFile(filepath.Join(e.dir, "created")); err != nil || string(b) != made || show(made, `{{index .Config.Labels "own"}}`) != "2" {
		t.Errorf("create: the ID file has %q, %v; the container is %s", b, err, made)
	}
	// The file tells who was removed, too, and the explanation of a run makes none.
	e.ok("run", "--rm", "--cidfile", "rm", "app", "true")
	e.ok("run", "--explain", "--cidfile", "explained", "app", "true")
	if !exists(filepath.Join(e.dir, "rm")) || exists(filepath.Join(e.dir, "explained")) {
		t.Error("ID files are not where they should be")
	}
}

// The same steps leave containers of which inspect and ps say the same as podman's.
func TestInspectAsPodman(t *testing.T) {
	e := withBusybox(t)
	podman := podmanEnv(t, e)
	sh(t, e.dir, "tar -C busybox -c . | "+podman+" import -q - busybox")
	defer sh(t, e.dir, podman+" rm -f -t 0 -a")
	// Podman's containers have a network unless they are told so; a first process of ours heeds no signal that it has no handler for.
	steps := `create --network none --name made -l a=b -l c= --stop-timeout 3 --restart on-failure:2 -e X=1 -w /etc busybox sh -c 'echo hi'
create --network none --name term -it --entrypoint /bin/sh busybox -c true
run --network none --name zero busybox true
run --network none --name three -u 1000 busybox sh -c 'exit 3'
run --network none --name self busybox sh -c 'kill -9 $$; sleep 1; exit 4'
run -d --network none --name live busybox sleep 1000
run -d --network none --name still busybox sleep 1000
pause still
run -d --network none --name dead busybox sleep 1000
kill dead
wait dead
run -d --network none --name ended busybox sleep 1000
stop -t 0 ended
run -d --network none --name again busybox sh -c 'sleep 0.1; exit 5'
wait again
start again
wait again
run -d --network none --name count --restart on-failure:2 busybox false
wait count
run --network none --name old busybox true
rename old fresh
run --network none --rm --name gone busybox true
`
	var ours, theirs strings.Builder
	for step := range strings.Lines(steps) {
		theirs.WriteString(podman + " " + strings.TrimSpace(step) + " || true\n")
		ours.WriteString(binary + " " + strings.TrimSpace(step) + " || true\n")
	}
	r := e.finish(exec.Command("bash", "-c", "cd "+e.dir+"; ("+theirs.String()+") >podman.out 2>podman.err & export LAYERCTL_ROOT="+e.root+" LAYERCTL_RUN_ROOT="+e.runRoot+"; "+ours.String()+" wait"))
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	names := []string{"made", "term", "zero", "three", "self", "live", "still", "dead", "ended", "again", "count", "fresh"}
	var want, got []map[string]any
	fromJSON(t, sh(t, e.dir, podman+" inspect "+strings.Join(names, " ")), &want)
	fromJSON(t, e.ok(append([]string{"container", "inspect"}, names...)...), &got)
	at := func(m map[string]any, path string) any {
		var v any = m
		for _, key := range strings.Split(path, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return "(missing)"
			}
			if v, ok = m[key]; !ok {
				return "(missing)"
			}
		}
		if s, ok := v.(string); ok && strings.HasSuffix(path, "edAt") {
			return strings.HasPrefix(s, "0001-01-01T00:00:00Z") // whether it ever was
		}
		if n, ok := v.(float64); ok && path == "State.Pid" {
			return n != 0
		}
		return v
	}
	for i, name := range names {
		for _, path := range strings.Fields(`Name Path Args RestartCount ExecIDs State.Status State.Running State.Paused State.Restarting State.OOMKilled State.Dead State.ExitCode
			State.Error State.Pid State.StartedAt State.FinishedAt HostConfig.RestartPolicy HostConfig.NetworkMode HostConfig.AutoRemove Config.Tty Config.OpenStdin
			Config.Cmd Config.WorkingDir Config.Labels Config.StopTimeout Config.User`) {
			a, b := at(got[i], path), at(want[i], path)
			switch { // where podman's are not Docker's
			case path == "Config.Labels" && b == nil:
				b = map[string]any{}
			case path == "HostConfig.RestartPolicy" && b.(map[string]any)["Name"] == "":
				b.(map[string]any)["Name"] = "no"
			case path == "State.Running" && name == "still":
				b = true
			case path == "Args" && reflect.DeepEqual(b, []any{want[i]["Path"]}): // of a command without arguments
				b = []any{}
			}
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s: %s is %v, podman's %v", name, path, a, b)
			}
		}
	}
	// Podman's list is no list of Docker's fields; what it shares with that is this.
	var theirList []struct {
		Names    []string
		State    string
		ExitCode int
		Labels   map[string]string
		Command  []string
	}
	fromJSON(t, sh(t, e.dir, podman+" ps -a --format json"), &theirList)
	wantLines := map[string]string{}
	for _, c := range theirList {
		var labels []string
		for k, v := range c.Labels {
			labels = append(labels, k+"="+v)
		}
		slices.Sort(labels)
		if c.Names[0] == "term" { // of which podman does not show the entrypoint
			c.Command = append([]string{"/bin/sh"}, c.Command...)
		}
		status := map[string]string{"created": "Created", "running": "Up", "paused": "Up (Paused)", "exited": fmt.Sprintf("Exited (%d)", c.ExitCode)}[c.State]
		wantLines[c.Names[0]] = fmt.Sprintf("%s %s %q %s", c.State, status, strings.Join(c.Command, " "), strings.Join(labels, ","))
	}
	gotLines := map[string]string{}
	for dec := json.NewDecoder(strings.NewReader(e.ok("ps", "-a", "--no-trunc", "--format", "json"))); dec.More(); {
		var c struct{ Names, State, Status, Command, Labels string }
		if err := dec.Decode(&c); err != nil {
			t.Fatal(err)
		}
		since := regexp.MustCompile(` (\d+ (second|minute)s?|Less than a second|About a minute)( ago)?`)
		gotLines[c.Names] = fmt.Sprintf("%s %s %s %s", c.State, since.ReplaceAllString(c.Status, ""), c.Command, c.Labels)
	}
	if len(gotLines) != len(names) || !reflect.DeepEqual(gotLines, wantLines) {
		t.Errorf("ps: %q\npodman: %q", gotLines, wantLines)
	}
	sh(t, e.dir, podman+" unpause still")
	e.ok("unpause", "still")
}

// Everything that there is under "container" is there without that word, too, but for ls and prune, and does the same.
func TestContainerCommands(t *testing.T) {
	e := withBusybox(t)
	id := strings.TrimSpace(e.ok("container", "create", "--name", "one", "busybox", "sh", "-c", "echo hi; exit 3"))
	if r := e.run("container", "start", "-a", "one"); r.code != 3 || r.stdout != "hi\n" {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"ls", "-aq", "--no-trunc"}, {"list", "-aq", "--no-trunc"}, {"ps", "-aq", "--no-trunc"}, {"inspect", "--format", "{{.Id}}", "one"}} {
		if got := strings.TrimSpace(e.ok(append([]string{"container"}, args...)...)); got != id {
			t.Errorf("container %q: %q", args, got)
		}
	}
	if r := e.run("container", "run", "--rm", "busybox", "sh", "-c", "exit 9"); r.code != 9 {
		t.Errorf("container run: %+v", r)
	}
	if got := e.ok("container", "logs", "one"); got != "hi\n" {
		t.Errorf("container logs: %q", got)
	}
	e.fails(1, []string{"busybox", "no such container"}, "container", "inspect", "busybox")
	e.fails(125, []string{"absent"}, "container", "run", "--pull", "never", "absent")
	e.fails(2, []string{"unknown command", "lss"}, "container", "lss")
	if r := e.run("port", "one"); r.code != 0 || r.stdout != "" || !strings.Contains(r.stderr, "publishes no ports") {
		t.Errorf("port: %+v", r)
	}
	e.fails(1, []string{"one", "does not publish 80/tcp"}, "container", "port", "one", "80/tcp")
	e.fails(1, []string{"no such container"}, "port", "nobody")
	e.ok("container", "rename", "one", "two")
	e.ok("container", "rm", "two")
	help := e.ok("container", "--help")
	for _, name := range strings.Fields("attach commit cp create diff exec export inspect kill logs ls pause port prune rename restart rm run start stats stop top unpause update wait") {
		if !regexp.MustCompile(`(?m)^  ` + name + ` `).MatchString(help) {
			t.Errorf("there is no container %s", name)
		}
	}
}
