package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	if path := os.Getenv("LAYERCTL_TEST_DUMP"); path != "" {
		os.Exit(dumpRows(path))
	}
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "these tests make namespaces and mounts: run them as root")
			return 1
		}
		dir, err := os.MkdirTemp("/var/tmp", "lct.")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		scratch = dir
		binary = filepath.Join(dir, "layerctl")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", binary, "../cmd/layerctl")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		for _, name := range []string{"LAYERCTL_ROOT", "LAYERCTL_RUN_ROOT", "SOURCE_DATE_EPOCH"} {
			os.Unsetenv(name)
		}
		defer func() { // the cgroups' parents stay for the next container, until a prune; those that others use cannot be removed
			parents, _ := filepath.Glob("/sys/fs/cgroup/*/layerctl")
			for _, dir := range append(parents, "/sys/fs/cgroup/layerctl") {
				syscall.Rmdir(dir)
			}
		}()
		return m.Run()
	}())
}

var scratch string

// env is a test's own store.
type env struct {
	t       testing.TB
	dir     string // for the test's files
	root    string
	runRoot string
	program string // another build than binary; "" for that

	cgroupsBefore map[string]bool
}

// cgroups are the ones of all containers on this machine.
func cgroups() []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/layerctl/*")
	v2, _ := filepath.Glob("/sys/fs/cgroup/layerctl/*")
	var dirs []string
	for _, d := range append(v1, v2...) {
		if len(filepath.Base(d)) == 64 {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// result is what a command did.
type result struct {
	stdout, stderr string
	code           int
}

func newEnv(t testing.TB) *env {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "t.")
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, dir: dir, root: filepath.Join(dir, "store"), runRoot: filepath.Join(dir, "run"), cgroupsBefore: map[string]bool{}}
	for _, dir := range cgroups() {
		e.cgroupsBefore[dir] = true
	}
	t.Cleanup(func() {
		e.checkLeaks()
		os.RemoveAll(dir)
	})
	return e
}

func (e *env) command(args ...string) *exec.Cmd {
	program := binary
	if e.program != "" {
		program = e.program
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "LAYERCTL_ROOT="+e.root, "LAYERCTL_RUN_ROOT="+e.runRoot)
	return cmd
}

// run runs layerctl and does not judge.
func (e *env) run(args ...string) result { return e.finish(e.command(args...)) }

func (e *env) finish(cmd *exec.Cmd) result {
	e.t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	timer := time.AfterFunc(2*time.Minute, func() {
		if cmd.Process != nil {
			cmd.Process.Signal(syscall.SIGABRT)
		}
	})
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatalf("%q: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs layerctl, which must succeed, and returns what it printed.
func (e *env) ok(args ...string) string {
	e.t.Helper()
	r := e.run(args...)
	if r.code != 0 {
		e.t.Fatalf("layerctl %q: status %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

var errorForm = regexp.MustCompile(`^((pulling|pushing|waiting|trying) .*\n|[0-9a-f]{12}: .*\n)*layerctl: [^\n]+\n(hint: [^\n]+\n)?$`)

// fails runs layerctl, which must fail with a status and one line (and perhaps a hint) that says each of the texts.
func (e *env) fails(code int, texts []string, args ...string) {
	e.t.Helper()
	r := e.run(args...)
	if r.code != code {
		e.t.Errorf("layerctl %q: status %d, want %d\n%s", args, r.code, code, r.stderr)
	}
	if !errorForm.MatchString(r.stderr) {
		e.t.Errorf("layerctl %q: the error is not one line and a hint:\n%s", args, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			e.t.Errorf("layerctl %q: the error does not say %q:\n%s", args, text, r.stderr)
		}
	}
}

// checkLeaks removes the test's containers and then looks for anything that is left of them.
func (e *env) checkLeaks() {
	e.t.Helper()
	if _, err := os.Stat(filepath.Join(e.root, "format")); err != nil {
		return
	}
	if b, err := os.ReadFile(filepath.Join(e.root, "format")); err != nil || string(b) != "layerctl 1\n" {
		return // a test of foreign stores
	}
	for _, id := range strings.Fields(e.ok("ps", "-aq", "--no-trunc")) {
		if r := e.run("rm", "-f", id); r.code != 0 {
			e.t.Errorf("rm -f %s: %s", id, r.stderr)
		}
	}
	e.waitForReaper()
	for _, dir := range []string{"containers/names", "snapshots/staging", "snapshots/trash", "snapshots/active", "images/ingest"} {
		if names := list(filepath.Join(e.root, dir)); len(names) > 0 {
			e.t.Errorf("leaked: %s holds %q", dir, names)
		}
	}
	if names := list(filepath.Join(e.root, "containers")); len(names) > 1 {
		e.t.Errorf("leaked: containers holds %q", names)
	}
	if names, _ := filepath.Glob(filepath.Join(e.runRoot, "containers/*/"+strings.Repeat("[0-9a-f]", 64))); len(names) > 0 {
		e.t.Errorf("leaked: the run root holds %q", names)
	}
	for _, links := range list(filepath.Join(e.root, "snapshots/children")) {
		if names := list(filepath.Join(e.root, "snapshots/children", links)); len(names) > 0 {
			e.t.Errorf("leaked: children/%s holds %q", links, names)
		}
	}
	// Other stores of this machine may have containers, which come and go.
	deadline := time.Now().Add(10 * time.Second)
	for _, dir := range cgroups() {
		for !e.cgroupsBefore[dir] && exists(dir) {
			if time.Now().After(deadline) {
				if who := inCgroup(dir, e.dir); who != "" {
					e.t.Errorf("leaked: cgroup %s, with %s", dir, who)
				}
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// A monitor has said its last word, and may be on its way out.
	left := holders(e.root)
	for ; len(left) > 0 && time.Now().Before(deadline); left = holders(e.root) {
		time.Sleep(50 * time.Millisecond)
	}
	for _, p := range left {
		e.t.Errorf("leaked: %s", p)
	}
}

// inCgroup says who is in a container's cgroup; "" if it is certainly not a container of the test in that directory, and lives.
func inCgroup(dir, of string) string {
	b, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		return ""
	}
	pids := strings.Fields(string(b))
	if len(pids) == 0 {
		return "nobody"
	}
	for _, p := range pids {
		if info, err := os.ReadFile("/proc/" + p + "/mountinfo"); err == nil && bytes.Contains(info, []byte(of)) {
			return "process " + describeProcess("/proc/"+p)
		}
	}
	return "" // every container has files of its store's run root mounted
}

// holders are the processes that have a mount below a directory in their namespace, or a file there open: they outlived their test.
func holders(dir string) []string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		if b, err := os.ReadFile(p + "/mountinfo"); err == nil && bytes.Contains(b, []byte(dir)) {
			found = append(found, "process "+describeProcess(p)+" has a mount in "+dir)
		}
		fds, _ := filepath.Glob(p + "/fd/*")
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, dir) {
				found = append(found, "process "+describeProcess(p)+" has "+target+" open")
			}
		}
	}
	return found
}

// waitForReaper waits until what was removed is deleted, and the process that does it has gone.
func (e *env) waitForReaper() {
	e.t.Helper()
	eventually(e.t, "the trash is empty", func() bool { return len(list(filepath.Join(e.root, "snapshots/trash"))) == 0 })
	eventually(e.t, "the reaper has gone", func() bool {
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			if b, err := os.ReadFile(p); err == nil && string(b) == "layerctl-reaper\x00"+filepath.Join(e.root, "snapshots")+"\x00" {
				return false
			}
		}
		return true
	})
}

func describeProcess(p string) string {
	b, _ := os.ReadFile(p + "/cmdline")
	return filepath.Base(p) + " " + strings.ReplaceAll(string(b), "\x00", " ")
}

func list(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// sh runs a script that makes something for a test.
func sh(t testing.TB, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}

// busybox makes a small root at dir/name: busybox with its applets, and a few users.
func (e *env) busybox(name string) string {
	e.t.Helper()
	dir := filepath.Join(e.dir, name)
	sh(e.t, e.dir, `mkdir -p `+name+` && cd `+name+` && mkdir -p bin etc tmp root home/ann srv/www var/log && chmod 1777 tmp
cp /bin/busybox bin/ && for a in $(./bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox bin/$a; done
printf 'root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n' > etc/passwd
printf 'root:x:0:\nann:x:1000:\nstaff:x:50:ann,bob\nwheel:x:10:ann\n' > etc/group
echo one > etc/one; echo two > etc/two; mkdir etc/sub; echo three > etc/sub/three; ln -s one etc/link; echo welcome > etc/motd
find . -exec touch -h -d 2024-01-02T03:04:05 {} +`)
	return dir
}

// withBusybox gives a store an image named busybox.
func withBusybox(t testing.TB) *env {
	t.Helper()
	e := newEnv(t)
	e.busybox("busybox")
	e.ok("import", "./busybox")
	return e
}

// debian is a real tree, unpacked once a run of the tests.
func debian(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(scratch, "debian")
	if _, err := os.Stat(dir); err != nil {
		sh(t, "..", "hack/tree.sh "+dir)
	}
	return dir
}

// registry is Debian's docker-registry on a free port of loopback, with its own data.
type registry struct {
	t    testing.TB
	addr string
	dir  string
}

func startRegistry(t testing.TB, extra string) *registry {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "registry.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return serveRegistry(t, dir, filepath.Join(dir, "data"), "", extra)
}

// serveRegistry starts a registry over data, which may be another registry's, too. http is added to that part of its configuration.
func serveRegistry(t testing.TB, dir, data, http, extra string) *registry {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s%s}\n%s\n", data, addr, http, extra)
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start docker-registry (hack/deps.sh test installs it): %v", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return &registry{t, addr, dir}
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("docker-registry does not answer: %v\n%s", err, b)
		}
	}
}

// also serves the same images once more, at another address and with other settings.
func (r *registry) also(http, extra string) *registry {
	r.t.Helper()
	dir, err := os.MkdirTemp(scratch, "registry.")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { os.RemoveAll(dir) })
	return serveRegistry(r.t, dir, filepath.Join(r.dir, "data"), http, extra)
}

// requests returns what was asked of the registry since the last call: "GET /v2/x/manifests/t".
func (r *registry) requests() []string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile(`"((?:GET|HEAD|PUT|POST|PATCH) /v2/[^ ]*) HTTP`).FindAllSubmatch(b, -1) {
		list = append(list, string(m[1]))
	}
	n := r.seen()
	r.note(len(list))
	return list[n:]
}

var seenRequests = map[string]int{}

func (r *registry) seen() int  { return seenRequests[r.dir] }
func (r *registry) note(n int) { seenRequests[r.dir] = n }

// push puts an image made by umoci into the registry: layers are scripts, each run in an empty directory whose content is the layer.
func (r *registry) push(name string, skopeo string, configure string, layers ...string) {
	r.t.Helper()
	dir, err := os.MkdirTemp(scratch, "image.")
	if err != nil {
		r.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	script := "umoci init --layout img; umoci new --image img:t\n"
	for i, l := range layers {
		script += fmt.Sprintf("mkdir l%d; (cd l%d; %s\n); tar -C l%d --xattrs -cf l%d.tar .; umoci raw add-layer --image img:t l%d.tar\n", i, i, l, i, i, i)
	}
	script += "umoci config --image img:t " + configure + "\nskopeo copy -q " + skopeo + " --dest-tls-verify=false oci:img:t docker://" + r.addr + "/" + name
	sh(r.t, dir, script)
}

// busyboxLayer is a layer script that makes the small root.
const busyboxLayer = `mkdir -p bin etc srv; cp /bin/busybox bin/; for a in sh cat ls echo pwd id env true sleep uname; do ln -s busybox bin/$a; done; echo one > etc/one; echo two > etc/two; printf 'root:x:0:0::/root:/bin/sh\n' > etc/passwd`

// blob is the file of a blob in the registry's data.
func (r *registry) blob(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return filepath.Join(r.dir, "data/docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
}

// start starts layerctl without waiting for it.
func (e *env) start(cmd *exec.Cmd) *exec.Cmd {
	e.t.Helper()
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	return cmd
}

// eventually waits until something is true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("it did not come to pass that %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// fromJSON reads what a tool said.
func fromJSON(t testing.TB, s string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
}
