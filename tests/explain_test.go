package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// calls are what strace must show for a line of an explanation, one behind the other; none for a comment.
func calls(t testing.TB, line string) (patterns []string) {
	line, _, _ = strings.Cut(line, "  # ")
	words := strings.Fields(line)
	at := func(path string) string { return `"` + regexp.QuoteMeta(path) + `"` }
	fd := func(path string) string { return `\d+<` + regexp.QuoteMeta(path) + `>` }
	switch {
	case len(words) == 0 || words[0] == "#":
		return nil
	case words[0] == ":":
		return []string{`openat\([^,]*, ` + at(words[2]) + `, O_WRONLY\|O_CREAT`}
	case words[0] == "echo":
		// Or the cgroup is gone by then, with the container.
		return []string{`newfstatat\([^,]*, ` + at(words[3]) + `, .*ENOENT|openat\([^,]*, ` + at(words[3]) + `, O_WRONLY(.*ENOENT|(.*\n)*?.*write\(` + fd(words[3]) + `, ` + at(words[1]) + `)`}
	case words[0] == "until":
		read, _, _ := strings.Cut(line, ";")
		return []string{`openat\([^,]*, ` + at(read[strings.LastIndex(read, " ")+1:])}
	case words[0] == "rmdir":
		return []string{`(rmdir\(|unlinkat\([^,]*, )` + at(words[1])}
	case words[0] == "rm" && words[1] == "-rf":
		return []string{`unlinkat\([^,]*, ` + at(words[2]), `unlinkat\([^,]*, ` + at(words[3])}
	case words[0] == "rm" && words[1] == "-r":
		return []string{`unlinkat\(.*` + regexp.QuoteMeta(filepath.Base(strings.TrimSuffix(words[2], "…")))}
	case words[0] == "rm":
		return []string{`unlinkat\([^,]*, ` + at(words[len(words)-1])}
	case words[0] == "mv":
		return []string{`rename[^(]*\([^,]*, ` + at(words[1]) + `, .*"` + regexp.QuoteMeta(strings.TrimSuffix(words[2], "…"))}
	case words[0] == "sync":
		return []string{`fsync\(` + fd(words[1])}
	case words[0] == "kill":
		return []string{`pidfd_send_signal\(\d+<[^>]*>, SIG` + words[2]}
	case words[0] == "timeout":
		return []string{`poll\(\[\{fd=\d+<[^>]*pidfd`}
	case words[0] == "flock":
		how := map[string]string{"-s": "LOCK_SH", "-n": "LOCK_EX"}[words[1]]
		return []string{`flock\(` + fd(words[len(words)-2]) + `, ` + how}
	}
	t.Errorf("nobody knows what %q asks for", line)
	return nil
}

// What --explain says is what is done, in that order; and it does nothing.
func TestExplained(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.02; done")
	e.ok("run", "-d", "--name", "other", "busybox", "sleep", "1000")
	ours := strings.Join(strings.Fields(e.ok("ps", "-aq", "--no-trunc")), "|") // the machine may have others
	files := func() string {
		return sh(t, e.dir, "find store/containers store/snapshots/active store/snapshots/trash run/containers -not -name 'events*' | sort; find /sys/fs/cgroup -type d -path '*layerctl/*' | grep -E '"+ours+"' | sort")
	}
	for _, args := range [][]string{{"pause", "deaf"}, {"unpause", "deaf"}, {"pause", "other"}, {"stop", "-t", "1", "deaf"}, {"rm", "deaf"}, {"rm", "-f", "other"}} {
		before, state := files(), e.ok("ps", "-a", "--format", "{{.Names}} {{.State}}")
		text := e.ok(append([]string{args[0], "--explain"}, args[1:]...)...)
		if now := files(); now != before {
			t.Errorf("%q --explain changed files: %s, before %s", args, now, before)
		}
		if now := e.ok("ps", "-a", "--format", "{{.Names}} {{.State}}"); now != state {
			t.Errorf("%q --explain changed %q into %q", args, state, now)
		}
		trace := filepath.Join(e.dir, "trace")
		strace := append([]string{"-f", "-y", "-s", "512", "-e", "trace=openat,newfstatat,write,unlinkat,rmdir,rename,renameat,renameat2,pidfd_send_signal,flock,fsync,poll,ppoll", "-o", trace, binary}, args...)
		cmd := e.command()
		cmd.Path, cmd.Args = "/usr/bin/strace", append([]string{"strace"}, strace...)
		if r := e.finish(cmd); r.code != 0 {
			t.Fatalf("%q: %+v", args, r)
		}
		b, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		rest, steps := string(b), 0
		for line := range strings.Lines(text) {
			for _, p := range calls(t, line) {
				steps++
				found := regexp.MustCompile(p).FindStringIndex(rest)
				if found == nil {
					t.Fatalf("%q says %q, and strace has no %s behind what came before it:\n%s", args, line, p, b)
				}
				rest = rest[found[1]:]
			}
		}
		if steps < 2 {
			t.Errorf("%q is explained by\n%s", args, text)
		}
	}
}

// The start of a container that is kept, and of a command in it, are explained from their plans.
func TestExplainedStart(t *testing.T) {
	e := withBusybox(t)
	e.ok("create", "--name", "kept", "-w", "/srv", "busybox", "sleep", "1000")
	before := e.ok("inspect", "kept")
	text := e.ok("start", "--explain", "kept")
	for _, want := range []string{"the monitor", "mount -t overlay", "unshare --pid", " && cd /srv\n", "\npivot_root . .", "\nexec sleep 1000\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("start --explain does not say %q:\n%s", want, text)
		}
	}
	if after := e.ok("inspect", "kept"); after != before {
		t.Errorf("start --explain changed %s into %s", before, after)
	}
	e.ok("start", "kept")
	n := e.namespaces("kept")
	text = e.ok("exec", "--explain", "-u", "ann", "kept", "echo", "a b")
	for _, want := range []string{fmt.Sprintf("pidfd_open(%d)", n.Pid), fmt.Sprintf("nsenter --target %d ", n.Pid), "setpriv --reuid 1000", "\nexec echo 'a b'\n", "layerctl/" + n.ID} {
		if !strings.Contains(text, want) {
			t.Errorf("exec --explain does not say %q:\n%s", want, text)
		}
	}
	if text := e.ok("start", "--explain", "kept"); !strings.Contains(text, "runs already") {
		t.Error(text)
	}
	e.fails(1, []string{"running"}, "rm", "--explain", "kept")
	e.fails(1, []string{"not paused"}, "unpause", "--explain", "kept")
	e.ok("stop", "-t", "0", "kept")
	if text := e.ok("stop", "--explain", "kept"); !strings.Contains(text, "does not run") {
		t.Error(text)
	}
	e.fails(1, []string{"not running"}, "pause", "--explain", "kept")
	e.fails(125, []string{"not running"}, "exec", "--explain", "kept", "true")
	e.fails(1, []string{"no such container"}, "stop", "--explain", "nobody")
}
