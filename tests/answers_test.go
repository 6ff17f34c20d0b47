package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Arguments, variables and directories are bytes, with and without a monitor in between.
func TestBytes(t *testing.T) {
	e := withBusybox(t)
	dir := e.busybox("odd\xff")
	for _, flags := range [][]string{nil, {"-t"}} {
		args := append(append([]string{"run", "--rm"}, flags...), "-e", "A=\xfe", "-w", "/srv/\xfd", "busybox", "sh", "-c", "printf '%s %s %s' \"$1\" \"$A\" \"$PWD\" | od -An -c", "sh", "z\xff")
		if got := strings.Join(strings.Fields(e.ok(args...)), ""); got != "z377"+"376"+"/srv/375" {
			t.Errorf("%q: %s", flags, got)
		}
		if got := strings.TrimSpace(e.ok(append(append([]string{"run", "--rm"}, flags...), "--rootfs", dir, "cat", "/etc/one")...)); got != "one" {
			t.Errorf("%q: over a directory of an odd name: %q", flags, got)
		}
	}
	e.ok("run", "--name", "odd", "busybox", "sh", "-c", "touch /srv/$1 /srv/plain", "sh", "a\xff")
	if got := e.ok("diff", "--format", "json", "odd"); !strings.Contains(got, `"RawPath":"L3Nydi9h/w=="`) || strings.Count(got, "RawPath") != 1 {
		t.Errorf("diff: %s", got)
	}
}

// Templates have the fields that the JSON shows, and what Docker's have.
func TestTemplates(t *testing.T) {
	e := withBusybox(t)
	e.ok("import", "-c", `CMD ["a","b"]`, "-c", `ENTRYPOINT ["echo"]`, "-c", "ENV A=1 B=2", "-c", "LABEL l=m", "-c", "WORKDIR /srv", "./busybox", "app")
	e.ok("run", "--name", "one", "-e", "B=3", "app", "x")
	for _, row := range []struct{ what, format, want string }{
		{"app", "{{.Id}}", "sha256:"},
		{"app", "{{.Config.Cmd}} {{json .Config.Entrypoint}}", "[a b] [\"echo\"]\n"},
		{"one", "{{.Id}} {{.State.ExitCode}}", strings.TrimSpace(e.ok("ps", "-aq", "--no-trunc")) + " 0\n"},
		{"one", "{{.Config.Cmd}} {{.Config.Entrypoint}} {{.Config.WorkingDir}} {{.Config.Labels.l}} {{.Config.Env}}", "[x] [echo] /srv m [A=1 B=3]\n"},
	} {
		if got := e.ok("inspect", "-f", row.format, row.what); !strings.HasPrefix(got, row.want) {
			t.Errorf("inspect -f %s %s: %q, want %q", row.format, row.what, got, row.want)
		}
	}
	e.fails(2, []string{"--format"}, "inspect", "-f", "{{.Nothing}}", "app")
	for _, row := range []struct{ format, want string }{
		{`table {{.Names}}\t{{.State}}`, "NAMES   STATE\none     exited\n"},
		{`table {{ .Names }}`, "NAMES\none\n"},
		{`table {{upper .Names}} {{truncate .State 3}}`, "NAMES STATE\nONE exi\n"},
		{`{{title .Names}}{{pad .Names 1 2}}|{{truncate .State 2}}`, "One one  |ex\n"},
	} {
		if got := e.ok("ps", "-a", "--format", row.format); got != row.want {
			t.Errorf("ps --format %q: %q, want %q", row.format, got, row.want)
		}
	}
	if got := e.ok("images", "--format", `table {{.CreatedAt}}|{{.Digest}}`); !strings.HasPrefix(got, "CREATED AT|DIGEST\n") {
		t.Errorf("images: %q", got)
	}
	if got := strings.Fields(e.ok("images", "--digests", "busybox")); len(got) < 9 || got[2] != "DIGEST" || got[9] != "<none>" {
		t.Errorf("images --digests: %q", got)
	}
}

// What an image's author wrote does not reach the terminal as commands.
func TestForeignText(t *testing.T) {
	e := withBusybox(t)
	e.ok("import", "-m", "\x1b[2J\x1b]0;title\x07\nline", "./busybox", "loud")
	out := e.ok("history", "loud")
	if strings.ContainsAny(out, "\x1b\x07") || strings.Count(out, "\n") != 2 {
		t.Errorf("history: %q", out)
	}
	var row struct{ Comment string }
	if err := json.Unmarshal([]byte(e.ok("history", "--format", "json", "loud")), &row); err != nil || !strings.Contains(row.Comment, "\x1b[2J") {
		t.Errorf("as data it is as it was: %q, %v", row.Comment, err)
	}
}

// A name's damaged record does not make another image of it.
func TestDamagedRecord(t *testing.T) {
	e := withBusybox(t)
	e.busybox("other")
	if err := os.WriteFile(filepath.Join(e.dir, "other/second"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e.ok("import", "./other", "docker.io/library/zz")
	e.ok("tag", "busybox", "localhost/zz")
	if err := os.Truncate(filepath.Join(e.root, "images/names/localhost%zz:latest.json"), 10); err != nil {
		t.Fatal(err)
	}
	if got := e.ok("run", "--rm", "zz", "sh", "-c", "ls /second 2>/dev/null || echo none"); got != "none\n" {
		t.Errorf("run zz ran another image: %q", got)
	}
}

// An answer that could not be printed is no answer.
func TestFullOutput(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "one", "busybox", "true")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"images"}, {"images", "-q"}, {"ps", "-aq"}, {"history", "-q", "busybox"}, {"import", "./busybox", "again"}, {"--help"},
		{"run", "--help"}, {"completion", "bash"}, {"version"}, {"inspect", "one"}, {"diff", "one", "--format", "x"}} {
		cmd := e.command(args...)
		cmd.Stdout = full
		if r := e.finish(cmd); r.code != 1 && r.code != 125 && args[0] != "diff" || args[0] != "diff" && !strings.Contains(r.stderr, "no space left on device") {
			t.Errorf("%q: status %d, %s", args, r.code, r.stderr)
		}
	}
}

// What cannot be meant is refused, with what was being done and what to do.
func TestRefused(t *testing.T) {
	e := withBusybox(t)
	e.ok("tag", "busybox", "second")
	id := strings.TrimSpace(e.ok("images", "-q", "--no-trunc", "busybox"))
	hex := strings.TrimPrefix(id, "sha256:")
	e.fails(1, []string{"tag busybox", "taken for an image's ID"}, "tag", "busybox", id)
	e.fails(1, []string{"taken for an image's ID"}, "tag", "busybox", hex)
	e.fails(1, []string{"taken for an image's ID"}, "import", "./busybox", "sha256:x")
	e.fails(1, []string{"platform \"foo\""}, "import", "--platform", "foo", "./busybox", "x")
	e.fails(1, []string{"platform \"foo\""}, "pull", "--platform", "foo", "127.0.0.1:1/x")
	e.fails(1, []string{"\"A\" is not NAME=VALUE"}, "import", "-c", "ENV A", "./busybox", "x")
	e.fails(1, []string{"\"nope\" is no signal"}, "import", "-c", "STOPSIGNAL nope", "./busybox", "x")
	for _, good := range []string{"9", "TERM", "SIGRTMIN+3", "sigquit"} {
		e.ok("import", "-c", "STOPSIGNAL "+good, "./busybox", "x")
	}
	e.fails(2, []string{"unknown command \"runn\"", "`layerctl run`?"}, "runn")
	e.fails(2, []string{"unknown command \"nosuch\""}, "help", "nosuch")
	e.fails(2, []string{"unknown command \"nosuch\""}, "completion", "nosuch")
	e.fails(2, []string{"bash: want no arguments"}, "completion", "bash", "extra")
	if got := e.ok("help", "image", "prune"); !strings.Contains(got, "layerctl image prune [flags]") {
		t.Errorf("help image prune: %s", got)
	}
	e.fails(1, []string{"it has the names", "hint: name the one"}, "rmi", hex[:12])
	e.fails(1, []string{"layerctl: diff nosuch: nosuch: no such container, image or layer"}, "diff", "nosuch")
	e.fails(1, []string{"layerctl: rm: container nosuch"}, "rm", "nosuch")
	e.fails(125, []string{"layerctl: run: unknown flag: --nosuch"}, "run", "--nosuch", "busybox")
	reg := startRegistry(t, "")
	e.fails(1, []string{"hint: check the name and the tag"}, "pull", reg.addr+"/nosuch")
}

// prune takes away what a killed start left, also what no list of containers shows.
func TestPruneKilledStart(t *testing.T) {
	e := withBusybox(t)
	for i := range 4 {
		dir := filepath.Join(e.root, "snapshots/active", strings.Repeat("0123456789abcde"+string('0'+rune(i)), 2))
		if err := os.MkdirAll(filepath.Join(dir, "fs"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e.ok("prune", "-f")
	if left := list(filepath.Join(e.root, "snapshots/active")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
