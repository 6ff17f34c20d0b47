package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is generated is what systemd reads: systemd-analyze finds nothing to say, whatever the store's path is.
func TestGenerateSystemd(t *testing.T) {
	e := withBusybox(t)
	e.busybox("plain")
	verify := func(e *env, flags []string, args ...string) (unit string) {
		t.Helper()
		cmd := e.command(append(append(flags, "generate", "systemd", "--files"), args...)...)
		cmd.Dir = e.dir
		r := e.finish(cmd)
		if r.code != 0 {
			t.Fatalf("%q: %+v", args, r)
		}
		path := strings.TrimSpace(r.stdout)
		// It looks for what the unit names, in the places of the host's units and beside it.
		if out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput(); err != nil || len(out) > 0 {
			b, _ := os.ReadFile(path)
			t.Errorf("%q: systemd-analyze: %v: %s\n%s", args, err, out, b)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(path)
		return string(b)
	}
	make := func(name string, args ...string) string {
		t.Helper()
		e.ok(append([]string{"create", "--name", name}, args...)...)
		return strings.TrimSpace(e.ok("inspect", "--format", "{{.ID}}", name))
	}
	id := make("web", "--stop-timeout", "40", "busybox", "true")
	make("own", "--restart", "on-failure:3", "--network", "host", "--stop-signal", "USR1", "--stop-timeout", "-1", "busybox", "true")

	program := binary + " --root " + e.root + " --run-root " + e.runRoot
	want := map[string][]string{
		"web": {"Description=Container web\n", "ExecStart=" + program + " start " + id + "\n", "ExecStop=" + program + " stop " + id + "\n",
			"Restart=on-failure\n", "SuccessExitStatus=143\n", "TimeoutStopSec=70\n", "RequiresMountsFor=" + e.root + "\n", "WantedBy=multi-user.target\n"},
		"own": {"Restart=no\n", "SuccessExitStatus=138\n", "TimeoutStopSec=infinity\n", "After=network-online.target\n"},
	}
	for name, texts := range want {
		unit := verify(e, nil, name)
		for _, text := range texts {
			if !strings.Contains(unit, text) {
				t.Errorf("%s: no %q in\n%s", name, text, unit)
			}
		}
	}
	if out := e.ok("generate", "systemd", "-n", "web"); !strings.Contains(out, " start web\n") || !strings.Contains(out, "system/container-web.service") {
		t.Errorf("-n: %s", out)
	}
	if out := e.ok("generate", "systemd", "--restart-policy", "always", "web"); !strings.Contains(out, "\nRestart=always\n") {
		t.Errorf("--restart-policy always: %s", out)
	}
	if names, _ := filepath.Glob(filepath.Join(e.dir, "*.service")); len(names) > 0 {
		t.Errorf("without -f it wrote %q", names)
	}
	e.ok("create", "--name", "other", "--pid", "container:web", "--ipc", "container:web", "busybox", "true")
	if out := e.ok("generate", "systemd", "-n", "other"); strings.Count(out, "Wants=container-web.service\nAfter=container-web.service\n") != 1 {
		t.Errorf("of a container in another's namespaces: %s", out)
	}
	e.fails(1, []string{"--new", "not supported"}, "generate", "systemd", "--new", "web")
	e.fails(1, []string{"restart policy", "sometimes", "on-failure"}, "generate", "systemd", "--restart-policy", "sometimes", "web")
	e.fails(1, []string{"its monitor starts it again", "on-failure:3"}, "generate", "systemd", "--restart-policy", "always", "own")
	e.fails(1, []string{"nobody", "no such container"}, "generate", "systemd", "nobody")

	// What the unit does, done as systemd does it: a service that lives as long as its container, and ends as SuccessExitStatus says.
	e.ok("create", "--name", "long", "--init", "busybox", "sleep", "1000")
	exec1 := func(key string) *exec.Cmd {
		t.Helper()
		_, line, _ := strings.Cut(e.ok("generate", "systemd", "-n", "long"), "\n"+key+"=")
		line, _, _ = strings.Cut(line, "\n")
		return exec.Command("sh", "-c", "exec "+line)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	if r := e.finish(exec1("ExecStart")); r.code != 0 {
		t.Fatalf("ExecStart: %+v", r)
	}
	// systemd takes the one process of the service that has become its child for the main one (systemd.service(5), GuessMainPID=).
	var monitors []int
	for _, pid := range strings.Fields(sh(t, e.dir, fmt.Sprintf("cat /proc/%d/task/*/children", os.Getpid()))) {
		if b, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.HasPrefix(string(b), "layerctl") {
			n, _ := strconv.Atoi(pid)
			monitors = append(monitors, n)
		}
	}
	if len(monitors) != 1 {
		t.Fatalf("start left %d processes behind", len(monitors))
	}
	for _, stop := range []string{"ExecStop", "ExecStopPost"} {
		if r := e.finish(exec1(stop)); r.code != 0 {
			t.Errorf("%s: %+v", stop, r)
		}
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(monitors[0], &status, 0, nil); err != nil || status.ExitStatus() != 143 {
		t.Errorf("the service ended with %d, %v", status.ExitStatus(), err)
	}

	// A path of which systemd would read half, or something else.
	odd := filepath.Join(e.dir, `od d%i $HOME 'x' "y" \z`)
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	oddEnv := *e
	oddEnv.root, oddEnv.runRoot = odd, odd+"/run"
	oddEnv.ok("run", "--name", "odd", "--rootfs", "plain", "true")
	quoted := strings.NewReplacer("%", "%%", "$", "$$", `"`, `\"`, `\`, `\\`).Replace(odd)
	if unit := verify(&oddEnv, nil, "-n", "odd"); !strings.Contains(unit, ` start odd`) || !strings.Contains(unit, ` --root "`+quoted+`" `) {
		t.Errorf("the odd store's unit:\n%s", unit)
	}
	oddEnv.ok("rm", "odd")
}
