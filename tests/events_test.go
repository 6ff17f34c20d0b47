package tests

import (
	"bufio"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventsSince are the events of a store since a time, in a form.
func (e *env) eventsSince(since time.Time, format string, filters ...string) string {
	e.t.Helper()
	args := []string{"events", "--since", fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()), "--until", "0s", "--format", format}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	return e.ok(args...)
}

func TestImageEvents(t *testing.T) {
	begun := time.Now()
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", smallLayer)
	e := withBusybox(t)
	app := reg.addr + "/app:latest"
	follower := e.command("events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}{{.Actor.Attributes.none}}")
	out, err := follower.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.start(follower)
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	// It has begun when it tells of something.
	eventually(t, "somebody follows", func() bool {
		e.ok("tag", "busybox", "seen:1")
		select {
		case line := <-lines:
			return line == "image tag localhost/seen:1"
		default:
			return false
		}
	})
	e.ok("pull", app)
	e.ok("tag", app, "other:1")
	e.ok("save", "-o", filepath.Join(e.dir, "a.tar"), "other:1")
	e.ok("tag", app, reg.addr+"/again:2")
	e.ok("push", reg.addr+"/again:2")
	e.ok("rmi", app, "other:1", reg.addr+"/again:2")
	e.ok("load", "-i", filepath.Join(e.dir, "a.tar"))
	e.ok("config", "-c", "CMD x", "busybox", "made:1")
	e.fails(1, nil, "rmi", "nothing:1") // is no event
	e.ok("prune", "-af")
	want := []string{"pull " + app, "tag localhost/other:1", "save localhost/other:1", "tag " + reg.addr + "/again:2", "push " + reg.addr + "/again:2",
		"untag " + app, "untag localhost/other:1", "untag " + reg.addr + "/again:2", "delete ", "load localhost/other:1", "tag localhost/made:1"}
	for i := 0; i < len(want); {
		select {
		case line := <-lines:
			if line == "image tag localhost/seen:1" && i == 0 {
				continue
			}
			if line != "image "+want[i] {
				t.Fatalf("event %d is %q, want %q", i, line, want[i])
			}
			i++
		case <-time.After(20 * time.Second):
			t.Fatalf("there was no event %q", want[i])
		}
	}
	pruned := map[string]bool{}
	for range 6 {
		select {
		case line := <-lines:
			pruned[strings.TrimPrefix(line, "image ")] = true
		case <-time.After(20 * time.Second):
			t.Fatalf("of the prune there are %v", pruned)
		}
	}
	for _, what := range []string{"untag localhost/busybox:latest", "untag localhost/seen:1", "untag localhost/made:1", "untag localhost/other:1", "delete "} {
		if !pruned[what] {
			t.Errorf("the prune is not told as %q: %v", what, pruned)
		}
	}
	follower.Process.Signal(syscall.SIGINT)
	follower.Wait()
	if code := follower.ProcessState.ExitCode(); code != 130 {
		t.Errorf("events that was interrupted ended with status %d", code)
	}

	// The past, in Docker's forms, and what filters leave of it.
	all := e.eventsSince(begun, "")
	if !regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) image import sha256:[0-9a-f]{64} \(name=localhost/busybox:latest\)\n`).MatchString(all) {
		t.Errorf("the events are\n%s", all)
	}
	var first struct {
		Status, ID, Type, Action, Scope string
		Actor                           struct {
			ID         string
			Attributes map[string]string
		}
		Time, TimeNano int64
	}
	fromJSON(t, strings.SplitAfter(e.eventsSince(begun, "json"), "\n")[0], &first)
	if first.Type != "image" || first.Action != "import" || first.Actor.Attributes["name"] != "localhost/busybox:latest" || first.Actor.ID != first.ID ||
		first.Status != "import" || first.Scope != "local" || first.Time != first.TimeNano/1e9 || first.TimeNano < begun.UnixNano() {
		t.Errorf("the first event is %+v", first)
	}
	for filters, want := range map[string]string{
		"event=push|event=pull":            "pull push",
		"event=push|image=" + app:          "",
		"image=" + reg.addr + "/again":     "tag push untag",
		"image=other:1|event=save":         "save",
		"image=" + first.ID[:16]:           "import tag",
		"type=container":                   "",
		"label=name=localhost/made:1":      "tag untag",
		"container=busybox":                "",
		"label=nothing|type=image":         "",
		"event=load|event=save|type=image": "save load",
	} {
		got := strings.Fields(e.eventsSince(begun, "{{.Action}}", strings.Split(filters, "|")...))
		seen := map[string]bool{}
		var order []string
		for _, action := range got {
			if !seen[action] {
				order = append(order, action)
			}
			seen[action] = true
		}
		if strings.HasPrefix(filters, "image="+first.ID[:16]) {
			order = order[:min(2, len(order))]
		}
		if s := strings.Join(order, " "); s != want {
			t.Errorf("--filter %s leaves %q, want %q", filters, s, want)
		}
	}
	if got := e.eventsSince(time.Now(), "{{.Action}}"); got != "" {
		t.Errorf("since now there were %q", got)
	}
	e.fails(2, []string{"--filter", "only container, image"}, "events", "--filter", "daemon=x")
	e.fails(2, []string{"want KEY=VALUE"}, "events", "--filter", "event")
	e.fails(2, []string{"container and image"}, "events", "--filter", "type=network")
	e.fails(2, []string{"--since"}, "events", "--since", "yesterday")
	e.fails(2, []string{"--format"}, "events", "--format", "{{")
	e.fails(2, []string{"no arguments"}, "events", "busybox")
}

// What happens to a container is told in Docker's words and order.
func TestContainerEvents(t *testing.T) {
	e := withBusybox(t)
	begun := time.Now()
	e.ok("run", "-d", "--name", "work", "--label", "tier=a b", "--stop-signal", "USR2", "busybox", "sh", "-c",
		"trap 'exit 3' USR2; trap : USR1; echo ready; while :; do sleep 0.01; done")
	eventually(t, "it is ready", func() bool { return e.ok("logs", "work") == "ready\n" })
	e.ok("pause", "work")
	e.ok("unpause", "work")
	e.ok("exec", "work", "true")
	e.ok("kill", "-s", "USR1", "work")
	e.ok("rename", "work", "job")
	e.ok("update", "--restart", "on-failure", "job")
	e.ok("stop", "job")
	e.ok("start", "job")
	e.ok("commit", "job", "made")
	e.ok("kill", "job")
	e.ok("wait", "job")
	e.ok("rm", "job")
	if r := e.run("run", "--rm", "--name", "short", "busybox", "sh", "-c", "exit 4"); r.code != 4 {
		t.Errorf("%+v", r)
	}
	// Its remover is killed, and whoever comes next removes the rest.
	e.ok("create", "--name", "left", "busybox", "true")
	sh(t, e.root, `for f in containers/*/config.json; do mv $f ${f%/*}/removed.json; done`)
	e.ok("ps", "-a")
	got := e.eventsSince(begun, `{{.Action}}{{range $k, $v := .Actor.Attributes}}{{if not (or (eq $k "image" "execDuration" "execID" "comment" "imageID"))}} {{$k}}={{$v}}{{end}}{{end}}`, "type=container")
	want := `create name=work tier=a b
start name=work tier=a b
pause name=work tier=a b
unpause name=work tier=a b
exec_create name=work tier=a b
exec_start name=work tier=a b
exec_die exitCode=0 name=work tier=a b
kill name=work signal=10 tier=a b
rename name=job oldName=work tier=a b
update name=job tier=a b
kill name=job signal=12 tier=a b
die exitCode=3 name=job tier=a b
stop name=job tier=a b
start name=job tier=a b
commit imageRef=localhost/made:latest name=job tier=a b
kill name=job signal=9 tier=a b
die exitCode=137 name=job tier=a b
destroy name=job tier=a b
create name=short
start name=short
die exitCode=4 name=short
destroy name=short
create name=left
destroy name=left
`
	if got != want {
		t.Errorf("the events are\n%s\nwant\n%s", got, want)
	}
	if got := e.eventsSince(begun, "{{.Action}}", "container=short", "event=start", "event=die"); got != "start\ndie\n" {
		t.Errorf("of one container: %q", got)
	}
	if got := e.eventsSince(begun, "{{.Action}}", "label=tier=a b", "image=busybox", "event=destroy"); got != "destroy\n" {
		t.Errorf("by label and image: %q", got)
	}
	if line := e.eventsSince(begun, "", "event=rename"); !strings.HasSuffix(line, " (image=localhost/busybox:latest, name=job, oldName=work, tier=a b)\n") {
		t.Errorf("a line is %q", line)
	}
}
