package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// through runs layerctl by way of another command ("setpriv …").
func (e *env) through(words []string, args ...string) result {
	e.t.Helper()
	inner := e.command(args...)
	cmd := exec.Command(words[0], append(words[1:], inner.Args...)...)
	cmd.Dir, cmd.Env = inner.Dir, inner.Env
	return e.finish(cmd)
}

func TestPrivilege(t *testing.T) {
	e := withBusybox(t)
	open := func(dir string) {
		for ; dir != "/var/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	open(e.dir)
	for _, row := range []struct {
		name, through, args string
		code                int
		texts               []string
	}{
		{"a user's images", "setpriv --reuid 1000 --regid 1000 --clear-groups", "images", 1, []string{"open store", "must be run by root", "hint: ordinary users"}},
		{"a user's run", "setpriv --reuid 1000 --regid 1000 --clear-groups", "run --rm busybox true", 125, []string{"must be run by root", "hint: ordinary users"}},
		{"root of a user namespace", "unshare -Ur", "run --rm busybox true", 125, []string{"host's root", "hint: ordinary users"}},
		{"root without CAP_SYS_ADMIN", "setpriv --bounding-set=-sys_admin --inh-caps=-all", "run --rm busybox true", 125, []string{"operation not permitted", "hint: layerctl needs root"}},
		{"no overlayfs", "strace -f -o /dev/null -e trace=fsopen -e inject=fsopen:error=ENODEV", "run --rm busybox true", 125, []string{"overlayfs unavailable", "hint: overlayfs is needed"}},
		{"no namespaces left", "strace -f -o /dev/null -e trace=clone3 -e inject=clone3:error=ENOSPC", "run --rm busybox true", 125, []string{"no space left on device"}},
	} {
		r := e.through(strings.Fields(row.through), strings.Fields(row.args)...)
		if r.code != row.code || !errorForm.MatchString(r.stderr) {
			t.Errorf("%s: status %d, want %d\n%s", row.name, r.code, row.code, r.stderr)
		}
		for _, text := range row.texts {
			if !strings.Contains(r.stderr, text) {
				t.Errorf("%s: the error does not say %q:\n%s", row.name, text, r.stderr)
			}
		}
	}
}

func TestForeignStores(t *testing.T) {
	e := newEnv(t)
	make := func(name, content string) string {
		path := filepath.Join(e.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := make("file", "x")
	other := filepath.Dir(make("other/letter", "dear"))
	newer := filepath.Dir(make("newer/format", "layerctl 2\n"))
	for _, command := range []string{"images", "ps -a", "info", "import " + other, "run --rm x true", "pull --policy never x", "rmi x", "rm x"} {
		words := strings.Fields(command)
		code := 1
		if words[0] == "run" {
			code = 125
		}
		e.fails(code, []string{"open store " + file, "not a layerctl store", "hint: "}, append([]string{"--root", file}, words...)...)
		e.fails(code, []string{"open store " + other, "not a layerctl store", "hint: "}, append([]string{"--root", other}, words...)...)
		e.fails(code, []string{"open store " + newer, `"layerctl 2"`, "unknown store format", "hint: this store was made by another version"},
			append([]string{"--root", newer}, words...)...)
		e.fails(code, []string{"open store /proc/nothing"}, append([]string{"--root", "/proc/nothing"}, words...)...)
	}
	if names := list(other); len(names) != 1 {
		t.Errorf("a foreign directory was written: %q", names)
	}
	if names := list(newer); len(names) != 1 {
		t.Errorf("a newer store was written: %q", names)
	}
}

// A store may be named from where one stands, also for a container whose monitor stands elsewhere.
func TestRelativeRoot(t *testing.T) {
	e := newEnv(t)
	e.busybox("busybox")
	args := []string{"--root", "store", "--run-root", "run"}
	e.ok(append(args, "import", "busybox")...)
	if got := e.ok(append(args, "run", "--rm", "-t", "busybox", "echo", "there")...); got != "there\r\n" {
		t.Errorf("%q", got)
	}
}

func TestReadOnlyStore(t *testing.T) {
	e := withBusybox(t)
	ro := filepath.Join(e.dir, "ro")
	sh(t, e.dir, "mkdir ro && mount --bind store ro && mount -o remount,bind,ro ro")
	defer sh(t, e.dir, "umount ro")
	for _, row := range []struct {
		code int
		args string
	}{{125, "run --rm busybox true"}, {1, "import busybox x"}, {1, "rmi busybox"}, {1, "tag busybox other"}} {
		e.fails(row.code, []string{"read-only file system"}, append([]string{"--root", ro}, strings.Fields(row.args)...)...)
	}
}

// A disk that is full fails the command, names nothing, and has its space back.
func TestFullDisk(t *testing.T) {
	e := newEnv(t)
	e.busybox("busybox")
	sh(t, e.dir, `mkdir small full && truncate -s 12M disk && mkfs.ext4 -q -O ^has_journal disk && mount -o loop disk small
cp -a busybox/. full/ && for i in $(seq 1 40); do head -c 500000 /dev/urandom > full/$i; done`)
	defer sh(t, e.dir, "umount small")
	root := filepath.Join(e.dir, "small", "store")
	e.ok("--root", root, "import", "busybox")
	used := func() string {
		return strings.Fields(sh(t, e.dir, "sync; df --output=used small | tail -n 1"))[0]
	}
	e.ok("--root", root, "run", "--rm", "busybox", "true") // the first one makes what all share
	before := used()
	e.fails(1, []string{"import full", "no space left on device"}, "--root", root, "import", "full")
	if after := used(); after != before {
		t.Errorf("%s KiB were in use before the import that failed, %s after", before, after)
	}
	if got := e.ok("--root", root, "images", "-q"); strings.Count(got, "\n") != 1 {
		t.Errorf("images: %q", got)
	}
	// The container sees the end of the disk as a program does anywhere; nothing of it stays.
	r := e.run("--root", root, "run", "--rm", "busybox", "sh", "-c", "cat /dev/zero > /big; echo after")
	if r.code != 0 || r.stdout != "after\n" || !strings.Contains(r.stderr, "No space left") {
		t.Errorf("%+v", r)
	}
	if after := used(); after != before {
		t.Errorf("%s KiB were in use before the container, %s after", before, after)
	}
}

func TestInfo(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "--name", "one", "busybox", "true")
	var info struct {
		LayerctlRootDir, Driver, KernelVersion, Architecture string
		Images, Containers, ContainersStopped, NCPU          int
		MemTotal                                             int64
	}
	if err := json.Unmarshal([]byte(e.ok("info", "--format", "json")), &info); err != nil {
		t.Fatal(err)
	}
	if info.LayerctlRootDir != e.root || info.Driver != "overlay" || info.Images != 1 || info.Containers != 1 || info.ContainersStopped != 1 || info.NCPU < 1 || info.MemTotal < 1<<20 {
		t.Errorf("%+v", info)
	}
	if got := e.ok("info", "-f", "{{.Images}} {{.KernelVersion}}"); got != "1 "+strings.TrimSpace(sh(t, e.dir, "uname -r"))+"\n" {
		t.Errorf("%q", got)
	}
	text := e.ok("info")
	for _, want := range []string{"Images: 1\n", "Driver: overlay\n", "Backing Filesystem: ", "Mount Options: "} {
		if !strings.Contains(text, want) {
			t.Errorf("info does not say %q:\n%s", want, text)
		}
	}
}

func TestVersionAndCompletion(t *testing.T) {
	e := newEnv(t)
	if got := e.ok("version", "--format", "{{.Version}}"); got != "test\n" {
		t.Errorf("%q", got)
	}
	if got := e.ok("version"); !strings.HasPrefix(got, "layerctl test\n") {
		t.Errorf("%q", got)
	}
	if got := e.ok("--version"); got != "layerctl test\n" {
		t.Errorf("%q", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := e.ok("completion", shell); !strings.Contains(got, "layerctl") {
			t.Errorf("completion %s: %q", shell, got)
		}
	}
	// The script is one that bash takes, and it completes a command's name.
	got := sh(t, e.dir, "PATH="+filepath.Dir(binary)+`:$PATH
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
__ltrim_colon_completions() { :; }; compopt() { :; }
. <(layerctl completion bash)
COMP_WORDS=(layerctl hist) COMP_CWORD=1 COMP_LINE='layerctl hist' COMP_POINT=13 COMP_TYPE=9
__start_layerctl; echo "${COMPREPLY[@]}"`)
	if !strings.Contains(got, "history") {
		t.Errorf("bash completes hist to %q", got)
	}
	for _, command := range strings.Fields("pull import images inspect history tag rmi run ps diff rm info version completion") {
		if got := e.ok(command, "--help"); !strings.Contains(got, "Usage:") || !strings.Contains(got, "layerctl "+command) {
			t.Errorf("%s --help: %q", command, got)
		}
	}
}
