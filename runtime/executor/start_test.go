package executor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/plan"
)

// root makes a detached mount of a small root with busybox in it.
func root(t testing.TB) *os.File {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("sh", "-ec", "cd "+dir+"; mkdir bin proc sys dev etc; cp /bin/busybox bin/; for a in sh ls cat id hostname mount stat ip true false sleep touch; do ln -s busybox bin/$a; done; echo x > bin/text; mkdir bin/dir; printf '#!/no/such\n' > bin/lost; chmod 755 bin/lost bin/text").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s (package busybox-static)", err, out)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), dir)
	t.Cleanup(func() { f.Close() })
	return f
}

func spec(args ...string) *specs.Spec {
	return &specs.Spec{
		Hostname: "inside",
		Process:  &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/sbin:/bin"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// run starts a spec's process and returns what it printed.
func run(t testing.TB, s *specs.Spec, vfork bool) (string, Status, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c, err := plan.Compile(plan.Inputs{Spec: s, Root: root(t), CgroupFD: -1, Stdio: [3]int{int(null.Fd()), int(w.Fd()), int(w.Fd())}})
	if err != nil {
		w.Close()
		return "", Status{}, err
	}
	defer c.Close()
	g, err := Load(c.Plan)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(g, vfork)
	w.Close()
	if err != nil {
		return "", Status{}, err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.Wait()
	return string(out), st, err
}

func TestStart(t *testing.T) {
	for _, vfork := range []bool{true, false} {
		out, st, err := run(t, spec("sh", "-c", `
echo pid $$; hostname; cat /proc/self/comm; ls /proc/self/fd | wc -w; ls /dev; ip link show lo | head -1; id
touch /proc/sys/kernel/x 2>/dev/null || echo protected; cat /proc/keys | wc -c; cat /proc/1/cgroup | head -1; ls /sys/firmware | wc -l
grep -c . /proc/self/mounts; cat /proc/self/stat | cut -d' ' -f6; exit 7`), vfork)
		if err != nil {
			t.Fatalf("vfork=%v: %v", vfork, err)
		}
		if st.Code != 7 {
			t.Errorf("status %+v", st)
		}
		for _, want := range []string{"pid 1\n", "inside\n", "mqueue", "protected", "\n0\n", "LOOPBACK,UP", "uid=0"} {
			if !strings.Contains(out, want) {
				t.Errorf("vfork=%v: no %q in\n%s", vfork, want, out)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	for _, row := range []struct {
		command, text string
		is            error
	}{
		{"nothing-of-that-name", "no such file", ErrNotFound},
		{"/bin/nothing", "no such file", ErrNotFound},
		{"/bin/lost", "no such file", ErrNotFound},
		{"/bin/dir", "permission denied", ErrNotExecutable},
		{"/bin/text", "exec format error", ErrNotExecutable},
	} {
		for _, vfork := range []bool{true, false} {
			_, _, err := run(t, spec(row.command), vfork)
			if !errors.Is(err, row.is) || !strings.Contains(err.Error(), row.text) {
				t.Errorf("%s: %v, want %v about %q", row.command, err, row.is, row.text)
			}
		}
	}
	for cwd, text := range map[string]string{"/bin/text": "not a directory", "/bin/text/below": "not a directory", "/proc/self/nothing": "no such file"} {
		s := spec("true")
		s.Process.Cwd = cwd
		if _, _, err := run(t, s, true); !errors.Is(err, ErrWorkDir) || !strings.Contains(err.Error(), "working directory "+cwd+": "+text) {
			t.Errorf("working directory %s: %v", cwd, err)
		}
	}
	s := spec("true")
	s.Hostname = strings.Repeat("x", 65)
	var step *StepError
	if _, _, err := run(t, s, true); !errors.As(err, &step) || step.Exec || !strings.Contains(err.Error(), "set host name: file name too long (step ") &&
		!strings.Contains(err.Error(), "set host name: invalid argument (step ") {
		t.Errorf("a host name that is too long: %v", err)
	}
}

// A working directory is made where it is missing, in the root and in what is mounted over it.
func TestWorkDir(t *testing.T) {
	for _, vfork := range []bool{true, false} {
		for _, cwd := range []string{"/new", "/new/deep/er", "/dev/shm/new", "/bin/../sbin/", "/"} {
			s := spec("sh", "-c", "pwd; stat -c %a .")
			s.Process.Cwd = cwd
			want := path.Clean(cwd) + "\n755\n"
			if out, _, err := run(t, s, vfork); err != nil || cwd != "/" && out != want || cwd == "/" && !strings.HasPrefix(out, "/\n") {
				t.Errorf("vfork=%v, %s: %q, %v; want %q", vfork, cwd, out, err, want)
			}
		}
	}
}

// What of this process is open when the container starts is reached by no name that the image chooses: not by its working directory,
// not by its command (CVE-2024-21626 was such a descriptor).
func TestDescriptorsLeadNowhere(t *testing.T) {
	var mine []*os.File
	for _, dir := range []string{"/", "/usr/bin", t.TempDir()} {
		for range 4 {
			f, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			mine = append(mine, f)
		}
	}
	highest := int(mine[len(mine)-1].Fd()) + 20 // some are made by the start itself
	for _, vfork := range []bool{true, false} {
		for n := 3; n <= highest; n++ {
			fd := fmt.Sprintf("/proc/self/fd/%d", n)
			s := spec("/bin/sh", "-c", "pwd -P; ls")
			s.Process.Cwd = fd
			if out, _, err := run(t, s, vfork); !errors.Is(err, ErrWorkDir) {
				t.Errorf("vfork=%v: the working directory %s is %q, %v", vfork, fd, out, err)
			}
			for _, below := range []string{"/env", "/usr/bin/env", ""}[:1+n%3] {
				if out, _, err := run(t, spec(fd+below), vfork); !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNotExecutable) {
					t.Errorf("vfork=%v: %s ran: %q, %v", vfork, fd+below, out, err)
				}
			}
		}
	}
}

// The keys of the caller's session are not the container's.
func TestSessionKeyring(t *testing.T) {
	runtime.LockOSThread() // the keyring is a thread's
	if _, err := unix.KeyctlJoinSessionKeyring("layerctl-test"); err != nil {
		t.Fatal(err)
	}
	id, err := unix.AddKey("user", "mine", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
	if err == nil {
		err = unix.KeyctlSetperm(id, 0x3f000000) // everything, and only, for who possesses it
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, vfork := range []bool{true, false} {
		s := spec("cat", "/proc/keys")
		s.Linux.MaskedPaths = nil
		out, _, err := run(t, s, vfork)
		if err != nil || strings.Contains(out, fmt.Sprintf("%08x", id)) {
			t.Errorf("vfork=%v: %v, the container possesses\n%s", vfork, err, out)
		}
	}
}

// The walkers must not mind a runtime that is busy: other goroutines, and the garbage collector.
func TestWhileBusy(t *testing.T) {
	stop := make(chan bool)
	defer close(stop)
	for range 4 {
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = make([]byte, 1<<16)
					runtime.Gosched()
				}
			}
		}()
	}
	for i := range 40 {
		if out, st, err := run(t, spec("sh", "-c", "echo ok; exit 3"), i%2 == 0); err != nil || st.Code != 3 || out != "ok\n" {
			t.Fatalf("%d: %q %+v %v", i, out, st, err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	for name, vfork := range map[string]bool{"vfork": true, "fork": false} {
		b.Run(name, func(b *testing.B) {
			dir := root(b)
			null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer null.Close()
			for b.Loop() {
				fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
				if err != nil {
					b.Fatal(err)
				}
				f := os.NewFile(uintptr(fd), "root")
				c, err := plan.Compile(plan.Inputs{Spec: spec("true"), Root: f, CgroupFD: -1, Stdio: [3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}})
				if err != nil {
					b.Fatal(err)
				}
				g, err := Load(c.Plan)
				if err != nil {
					b.Fatal(err)
				}
				p, err := Start(g, vfork)
				if err != nil {
					b.Fatal(err)
				}
				p.Wait()
				c.Close()
				f.Close()
			}
		})
	}
}

// host starts a process that another one may enter, and returns its pidfd.
func host(t *testing.T, s *specs.Spec) (p *Process, in io.WriteCloser) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c, err := plan.Compile(plan.Inputs{Spec: s, Root: root(t), CgroupFD: -1, Stdio: [3]int{int(r.Fd()), int(null.Fd()), int(null.Fd())}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g, err := Load(c.Plan)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = Start(g, true); err != nil {
		t.Fatal(err)
	}
	return p, w
}

// enter runs a command in the namespaces of a process.
func enter(t *testing.T, p *Process, args ...string) (string, Status, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := &specs.Spec{Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/sbin:/bin"}}, Linux: &specs.Linux{}}
	c, err := plan.Compile(plan.Inputs{Spec: s, Enter: p.PidFD, CgroupFD: -1, Stdio: [3]int{int(w.Fd()), int(w.Fd()), int(w.Fd())}, PDeathSig: unix.SIGKILL})
	if err != nil {
		w.Close()
		return "", Status{}, err
	}
	defer c.Close()
	g, err := Load(c.Plan)
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // it dies with the thread
	defer runtime.UnlockOSThread()
	q, err := Start(g, true)
	w.Close()
	if err != nil {
		return "", Status{}, err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	st, err := q.Wait()
	return string(out), st, err
}

func TestEnter(t *testing.T) {
	p, in := host(t, spec("sh", "-c", "read x"))
	defer in.Close()
	ids := func(pid string) string {
		var list []string
		for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
			id, err := os.Readlink("/proc/" + pid + "/ns/" + ns)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, id)
		}
		return strings.Join(list, "\n") + "\n"
	}
	before := ids("thread-self")
	out, st, err := enter(t, p, "sh", "-c", "for n in cgroup ipc mnt net pid uts; do stat -c %N /proc/self/ns/$n | cut -d\"'\" -f4; done; exit 4")
	if err != nil || st.Code != 4 || out != ids(fmt.Sprint(p.Pid)) {
		t.Errorf("status %+v, %v; its namespaces are\n%swant\n%s", st, err, out, ids(fmt.Sprint(p.Pid)))
	}
	if out, _, err := enter(t, p, "sh", "-c", "hostname; cat /proc/1/comm; ls -A / | head -1; ls /proc/self/fd | wc -w; test $$ -gt 1 && echo another"); err != nil || out != "inside\nsh\nbin\n4\nanother\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, _, err := enter(t, p, "nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a command that is not there: %v", err)
	}
	if after := ids("thread-self"); after != before {
		t.Errorf("this thread is in\n%s, and was in\n%s", after, before)
	}
	// What this thread makes is in its own pid namespace again.
	if b, err := exec.Command("readlink", "/proc/self/ns/pid").Output(); err != nil || !strings.Contains(before, strings.TrimSpace(string(b))) {
		t.Errorf("a child is in pid namespace %s, %v", b, err)
	}
	in.Close()
	unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	if _, _, err := enter(t, p, "true"); !errors.Is(err, ErrEnded) && !errors.Is(err, unix.ESRCH) {
		t.Errorf("the namespaces of one that has ended: %v", err)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestJoinedNamespaces(t *testing.T) {
	p, in := host(t, spec("sh", "-c", "read x"))
	defer in.Close()
	defer p.Wait()
	defer in.Close()
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.UTSNamespace, specs.IPCNamespace, specs.NetworkNamespace, specs.CgroupNamespace} {
		file := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net"}[kind]
		if file == "" {
			file = string(kind)
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", p.Pid, file)
		want, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		s := spec("sh", "-c", "stat -c %N /proc/self/ns/"+file)
		s.Hostname = "another"
		for i, n := range s.Linux.Namespaces {
			if n.Type == kind {
				s.Linux.Namespaces[i].Path = path
			}
		}
		if out, _, err := run(t, s, true); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, it is in %q, want %s", kind, err, out, want)
		}
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Path != "" {
				s.Linux.Namespaces[i].Path = "/proc/self/ns/user"
			}
		}
		if _, _, err := run(t, s, true); err == nil || !strings.Contains(err.Error(), "it is no "+string(kind)+" namespace") {
			t.Errorf("%s: a namespace of another kind: %v", kind, err)
		}
	}
	if out, _, err := enter(t, p, "hostname"); err != nil || out != "inside\n" {
		t.Errorf("the host name of who was joined is %q now, %v", out, err)
	}
}
