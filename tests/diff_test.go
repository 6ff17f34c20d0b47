package tests

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// podmanEnv is a podman with a store of its own that runs where rlimits cannot be raised and cgroups are hybrid.
func podmanEnv(t testing.TB, e *env) string {
	t.Helper()
	sh(t, e.dir, `cat > containers.conf <<X
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
X
echo '{"default":[{"type":"insecureAcceptAnything"}]}' > policy.json
mkdir -p pod/tmp`)
	t.Cleanup(func() {
		sh(t, e.dir, "for m in $(findmnt -rn -o TARGET | grep ^$PWD/p | sort -r); do umount -l $m; done; rm -rf pod pr; for d in /sys/fs/cgroup/*/libpod_parent /sys/fs/cgroup/*/machine.slice; do [ ! -d $d ] || find $d -depth -type d -exec rmdir {} + 2>/dev/null || true; done")
	})
	return fmt.Sprintf("env CONTAINERS_CONF=%[1]s/containers.conf podman --root %[1]s/pod/root --runroot %[1]s/pr --tmpdir %[1]s/pod/tmp --storage-driver overlay --storage-opt overlay.mountopt=nodev", e.dir)
}

// operations are done in a container of each; want is what layerctl's diff prints. podman says what podman prints instead, and why
// that is not what docker documents.
var operations = []struct{ name, script, want, podman string }{
	{"nothing", "true", "", ""},
	{"read", "cat /etc/one /etc/sub/three > /dev/null", "", ""},
	{"add", "echo x > /etc/new", "C /etc|A /etc/new", ""},
	{"append", "echo x >> /etc/sub/three", "C /etc/sub/three", ""},
	{"delete", "rm /etc/one", "C /etc|D /etc/one", ""},
	{"delete a tree", "rm -r /etc/sub", "C /etc|D /etc/sub", ""},
	{"remove a directory and make it again", "rm -r /etc/sub; mkdir /etc/sub; echo n > /etc/sub/n", "C /etc|C /etc/sub|A /etc/sub/n|D /etc/sub/three", "podman prints D for a directory that is there"},
	{"rename", "mv /etc/one /etc/uno", "C /etc|D /etc/one|A /etc/uno", ""},
	{"rename a directory", "mv /etc/sub /etc/bus", "C /etc|A /etc/bus|A /etc/bus/three|D /etc/sub", ""},
	{"mode", "chmod 600 /etc/sub/three", "C /etc/sub/three", ""},
	{"mode of a directory", "chmod 700 /srv", "C /srv", ""},
	{"owner", "chown 1000:1000 /srv/www", "C /srv/www", "podman shows /srv, which did not change"},
	{"link", "ln -s /etc/one /srv/l", "C /srv|A /srv/l", ""},
	{"hard link", "ln /etc/one /etc/uno", "C /etc|C /etc/one|A /etc/uno", ""},
	{"file to directory", "rm /etc/one; mkdir /etc/one; echo n > /etc/one/n", "C /etc|C /etc/one|A /etc/one/n", "podman fails: it looks for the new file below the old one"},
	{"directory to file", "rm -r /etc/sub; echo n > /etc/sub", "C /etc|C /etc/sub", ""},
	{"new tree", "mkdir -p /opt/a/b; echo n > /opt/a/b/f", "A /opt|A /opt/a|A /opt/a/b|A /opt/a/b/f", ""},
	{"fifo", "mkfifo /srv/p", "C /srv|A /srv/p", ""},
	{"add and delete", "echo x > /srv/x; rm /srv/x", "C /srv", ""},
}

func sortedLines(s string) []string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return lines
}

// stubs are the files that podman makes for its own mounts and shows as the container's changes.
func stub(line string) bool {
	switch line {
	case "C /etc", "A /etc/hosts", "A /etc/hostname", "A /etc/resolv.conf", "A /etc/mtab", "A /run", "A /run/.containerenv", "A /run/secrets",
		"A /proc", "A /sys", "A /dev", "A /dev/pts", "A /dev/shm", "C /run", "A /var/run":
		return true
	}
	return false
}

func TestDiff(t *testing.T) {
	e := withBusybox(t)
	podman := podmanEnv(t, e)
	// The same tree for podman; the stubs that it would make are there, so that it shows fewer of its own.
	sh(t, e.dir, "tar -C busybox -c . | "+podman+" import -q - busybox")
	for i, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			name := fmt.Sprintf("op%d", i)
			e.ok("run", "--name", name, "busybox", "sh", "-c", op.script)
			var want []string
			if op.want != "" {
				want = strings.Split(op.want, "|")
			}
			got := strings.Split(strings.TrimSpace(e.ok("diff", name)), "\n")
			got = slices.DeleteFunc(got, func(l string) bool { return l == "" })
			if !slices.Equal(got, want) {
				t.Errorf("layerctl: %q\nwant      %q", got, want)
			}
			if json := e.ok("diff", "--format", "json", name); strings.Count(json, "\n") != len(want) {
				t.Errorf("JSON: %s", json)
			}
			theirs := sortedLines(sh(t, e.dir, podman+" run --name "+name+" --network none busybox sh -c '"+op.script+"' >/dev/null 2>&1; "+podman+" diff "+name+" 2>/dev/null || echo '! podman diff failed'"))
			theirs = slices.DeleteFunc(theirs, stub)
			ours := slices.DeleteFunc(sortedLines(strings.Join(want, "\n")), stub)
			if same := slices.Equal(theirs, ours); same != (op.podman == "") {
				t.Errorf("podman: %q\nours    %q\n(known difference: %q)", theirs, ours, op.podman)
			}
			e.ok("rm", name)
		})
	}
	e.ok("run", "--name", "untouched", "busybox", "true")
	upper := strings.TrimSpace(e.ok("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "untouched"))
	if names := list(upper); len(names) > 0 || !strings.HasPrefix(upper, filepath.Join(e.root, "snapshots")) {
		t.Errorf("a container that wrote nothing has %q in its upper %s", names, upper)
	}
}
