package initproc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Init is given to a process that does for it what the start plan does: a child that runs the command, its pidfd at 0, all signals blocked.
func TestMain(m *testing.M) {
	if program := os.Getenv("INITPROC_TEST"); program != "" {
		fmt.Fprintln(os.Stderr, becomeInit(strings.Fields(program), os.Args[1]))
		os.Exit(125)
	}
	os.Exit(m.Run())
}

func becomeInit(program []string, script string) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	pidFD := -1
	_, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: os.Environ(),
		Sys: &syscall.SysProcAttr{PidFD: &pidFD, Setsid: true}})
	if err == nil {
		err = unix.Dup3(pidFD, 0, 0)
	}
	if err != nil {
		return err
	}
	every := ^uint64(0)
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&every)), 0, 8, 0, 0); errno != 0 {
		return errno
	}
	return unix.Exec(program[0], program, []string{"PATH=/bin:/usr/bin"})
}

// machines are how the programs of all machines are run here.
func machines(t *testing.T) map[string]string {
	all := map[string]string{}
	for _, name := range []string{"amd64", "arm64"} {
		b, err := os.ReadFile("init_" + name)
		file := filepath.Join(t.TempDir(), "init")
		if err == nil {
			err = os.WriteFile(file, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		all[name] = file
		if name != runtime.GOARCH {
			emulator, err := exec.LookPath(map[string]string{"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}[name])
			if err != nil {
				t.Fatalf("%v (package qemu-user; hack/deps.sh test installs it)", err)
			}
			all[name] = emulator + " " + file
		}
	}
	return all
}

// start runs a script below init. It returns when the script has said that it is up, by a line, and init is init.
func start(t *testing.T, program, script string) (cmd *exec.Cmd, rest func() string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], script)
	cmd.Env = append(os.Environ(), "INITPROC_TEST="+program)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	line := make([]byte, 3)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "up\n" {
		t.Fatalf("%q, %v", line, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid)); err != nil || string(comm) == Name+"\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("init did not begin")
		}
	}
	return cmd, func() string {
		defer r.Close()
		b, _ := io.ReadAll(r)
		return string(b)
	}
}

func TestStatus(t *testing.T) {
	for name, program := range machines(t) {
		for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143, "ulimit -c 0; kill -SEGV $$": 139} {
			cmd, rest := start(t, program, "echo up; "+script)
			out := rest()
			if cmd.Wait(); cmd.ProcessState.ExitCode() != want || out != "" {
				t.Errorf("%s: %s: %v, want %d; %s", name, script, cmd.ProcessState, want, out)
			}
		}
	}
}

// Each signal that reaches init reaches the command; two at once, too, and what init would stop or end by.
func TestSignals(t *testing.T) {
	for name, program := range machines(t) {
		cmd, rest := start(t, program, `for s in HUP INT QUIT USR1 USR2 TERM TSTP TTIN TTOU WINCH ALRM; do trap "echo $s" $s; done
trap 'exit 3' PIPE; echo up; for i in $(seq 500); do sleep 0.02; done`)
		for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGALRM} {
			cmd.Process.Signal(sig)
			time.Sleep(10 * time.Millisecond)
		}
		cmd.Process.Signal(unix.SIGUSR2)
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Process.Signal(unix.SIGCHLD)
		time.Sleep(100 * time.Millisecond)
		cmd.Process.Signal(unix.SIGPIPE)
		out := rest()
		cmd.Wait()
		for _, want := range strings.Fields("HUP INT QUIT USR1 USR2 TERM TSTP TTIN TTOU WINCH ALRM") {
			if strings.Count(out, want+"\n") != 1 {
				t.Errorf("%s: %s reached the command %d times", name, want, strings.Count(out, want+"\n"))
			}
		}
		if cmd.ProcessState.ExitCode() != 3 {
			t.Errorf("%s: %v, want status 3; %s", name, cmd.ProcessState, out)
		}
	}
}

// What the command leaves behind is reaped: many at once, and one that ends when the command does.
func TestOrphans(t *testing.T) {
	for name, program := range machines(t) {
		cmd, rest := start(t, program, `echo up; for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 & sleep 0.0$i & exit); done; exec sleep 0.6`)
		pid := cmd.Process.Pid
		children := func() string {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
			if err != nil {
				t.Fatal(err)
			}
			return string(bytes.TrimSpace(b))
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if list := strings.Fields(children()); len(list) == 1 {
				if comm, _ := os.ReadFile("/proc/" + list[0] + "/comm"); string(comm) == "sleep\n" {
					break
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: init's children are %s", name, children())
			}
		}
		rest()
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("%s: %v", name, cmd.ProcessState)
		}
	}
}

// The file cannot be written to or grown by whoever gets at it, and can be executed by anybody.
func TestMemory(t *testing.T) {
	f, err := Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if b, err := os.ReadFile(path); err != nil || string(b) != program {
		t.Errorf("it holds %d bytes, %v", len(b), err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be written to")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("it can be cut")
	}
	if w, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("opened again it can be written to")
		}
		w.Close()
	}
	if info, err := f.Stat(); err != nil || info.Mode().Perm()&0o111 != 0o111 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// What is committed is what the source compiles to. Other compilers than Debian 12's make other, equally good code.
func TestCommitted(t *testing.T) {
	const version = "12.2.0"
	for _, gcc := range []string{"x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc"} {
		out, err := exec.Command(gcc, "-dumpfullversion").Output()
		if err != nil {
			t.Fatalf("%s: %v (packages gcc and gcc-aarch64-linux-gnu; hack/deps.sh test installs them)", gcc, err)
		}
		if got := strings.TrimSpace(string(out)); got != version {
			t.Fatalf("%s is version %s, and init was compiled with %s", gcc, got, version)
		}
	}
	dir := t.TempDir()
	if out, err := exec.Command("../../hack/init.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("hack/init.sh: %v\n%s", err, out)
	}
	for _, name := range []string{"init_amd64", "init_arm64"} {
		made, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if committed, err := os.ReadFile(name); err != nil || !bytes.Equal(made, committed) {
			t.Errorf("%s is not what hack/init.sh makes of init.c (%v)", name, err)
		}
	}
}
