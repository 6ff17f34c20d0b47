package tests

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// withTools gives a store an image of busybox with the programs that people run in terminals.
func withTools(t *testing.T) *env {
	t.Helper()
	e := newEnv(t)
	e.busybox("tools")
	sh(t, e.dir, `mkdir -p tools/usr/bin tools/lib/terminfo tools/proc; cp -r /lib/terminfo/x tools/lib/terminfo/
for p in bash vim.tiny less htop; do
	cp "$(command -v $p)" tools/usr/bin/$p
	for lib in $(ldd "$(command -v $p)" | grep -o '/[^ ]*'); do mkdir -p tools/"${lib%/*}"; cp -L "$lib" tools/"$lib"; done
done
rm -f tools/bin/bash tools/bin/less`)
	e.ok("import", "./tools")
	return e
}

// inside gives a console a container with a terminal and bash in it, with a prompt of its own.
func (c *console) inside(args string) {
	c.t.Helper()
	c.line("stty -g > before; clear; " + binary + " run -it -e PS1='in> ' -e PATH=/usr/bin:/bin " + args + " tools bash --norc --noprofile; echo status $?")
	c.until("a prompt in the container", func(s string) bool { return strings.HasPrefix(s, "in>") })
}

// prompt waits for the container's shell: a program that ends throws away what was typed ahead.
func (c *console) prompt() {
	c.t.Helper()
	c.until("a prompt in the container", func(s string) bool { return strings.HasSuffix(s, "in>\n") })
}

// outside waits for the console's own prompt, and sees that the terminal is as it was.
func (c *console) outside() {
	c.t.Helper()
	c.untilSays("status ")
	c.line("clear; stty -g > after; cmp before after && echo the same")
	c.until("the terminal's settings are the same", func(s string) bool { return strings.HasPrefix(s, "the same\n") })
}

// Real programs in a real terminal: their keys, their screens, the window's size; left and come back to, and shared.
func TestProgramsInTerminals(t *testing.T) {
	e := withTools(t)
	c := e.console("")
	c.inside("--name work")

	// vim, in a window that changes, which is left and attached to again.
	c.line("vim.tiny -u NONE /tmp/file")
	c.untilSays("/tmp/file")
	c.keys("i")
	c.tmux("send-keys", "-l", "written in vim")
	c.keys("Enter", "Escape")
	c.until("what was typed", func(s string) bool { return strings.HasPrefix(s, "written in vim\n\n~\n") }) // else it scrolls by the old size
	c.tmux("resize-window", "-x", "100", "-y", "30")
	c.until("vim fills the window", func(s string) bool { return strings.Count(s, "\n~\n")+strings.Count(s, "~\n") > 25 })
	c.keys("C-p", "C-q")
	c.outside()
	if e.state("work") != "running" {
		t.Errorf("detached from it is %s", e.state("work"))
	}
	c.line("clear; " + binary + " attach work; echo status $?")
	c.until("vim's screen is drawn again", func(s string) bool {
		return strings.HasPrefix(s, "written in vim\n") && strings.Count(s, "~\n") > 25
	})
	time.Sleep(200 * time.Millisecond) // to have that done, the window was smaller for a moment
	c.tmux("send-keys", "-l", ":wq")
	c.keys("Enter")
	c.prompt()
	c.line("clear; cat /tmp/file; stty size")
	c.untilSays("written in vim\n\n30 100\n")

	// less and htop.
	c.line("clear; seq 1000 | less")
	c.until("the first screen", func(s string) bool { return strings.HasPrefix(s, "1\n2\n") })
	c.keys("G")
	c.untilSays("\n1000\n")
	c.keys("q")
	c.prompt()
	c.line("clear; htop")
	c.until("htop", func(s string) bool { return strings.Contains(s, "PID") && strings.Contains(s, "F10") })
	c.keys("q")
	c.prompt()

	// Job control.
	c.line("clear; sleep 1000")
	c.until("only a cursor", func(s string) bool { return s == "\n" })
	time.Sleep(100 * time.Millisecond)
	c.keys("C-z")
	c.untilSays("Stopped")
	c.prompt()
	c.line("clear; fg")
	c.until("the job is in the foreground", func(s string) bool { return strings.HasPrefix(s, "sleep 1000\n") })
	c.keys("C-c")
	c.prompt()
	c.line("echo in$?terrupted")
	c.untilSays("in130terrupted")
	c.line("clear; sleep 1000 &")
	c.line("jobs; kill %1; wait; echo waited")
	c.untilSays("waited")

	// Two at once, each of which sees what the other types. One leaves by keys of its own.
	other := e.console("")
	other.line("stty -g > before; clear; " + binary + " attach --detach-keys ctrl-x,x work; echo status $?")
	other.until("a prompt in the container", func(s string) bool { return strings.Contains(s, "in>") })
	other.line("clear; echo from $((40+2))")
	c.untilSays("from 42")
	c.line("echo to $((50+1))")
	other.untilSays("to 51")
	other.keys("C-p", "C-x", "x")
	other.outside()
	c.line("clear; exit 5")
	c.untilSays("status 5")
	c.outside()
}

// terminal runs a command in a terminal of its own, and collects what it shows.
type terminal struct {
	*os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	screen strings.Builder
}

func (e *env) terminal(args ...string) *terminal {
	e.t.Helper()
	term := &terminal{cmd: e.command(args...)}
	f, err := pty.Start(term.cmd)
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	fd, err := syscall.Dup(int(f.Fd()))
	if err == nil {
		err = syscall.SetNonblock(fd, true) // so that it can be closed while somebody reads
	}
	if err != nil {
		e.t.Fatal(err)
	}
	term.File = os.NewFile(uintptr(fd), f.Name())
	e.t.Cleanup(func() { term.Close() })
	go func() {
		for buf := make([]byte, 4096); ; {
			n, err := term.Read(buf)
			term.mu.Lock()
			term.screen.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return term
}

func (e *env) untilShown(term *terminal, text string) {
	e.t.Helper()
	var screen string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		term.mu.Lock()
		screen = term.screen.String()
		term.mu.Unlock()
		if strings.Contains(screen, text) {
			return
		}
	}
	e.t.Fatalf("the terminal never shows %q: %q", text, screen)
}

// A terminal that goes away takes the command line with it, and the container stays for another one.
func TestTerminalGoesAway(t *testing.T) {
	e := withBusybox(t)
	term := e.terminal("run", "-it", "--name", "work", "busybox", "sh")
	term.WriteString("x=kept; echo in$x\n")
	e.untilShown(term, "inkept")
	term.Close()
	term.cmd.Wait()
	time.Sleep(100 * time.Millisecond)
	if e.state("work") != "running" {
		t.Fatalf("it is %s", e.state("work"))
	}
	e.fails(1, []string{"not a TTY"}, "attach", "work")
	term = e.terminal("attach", "work")
	term.WriteString("echo still $x\n")
	e.untilShown(term, "still kept")
	term.WriteString("exit 4\n")
	term.cmd.Wait()
	if code := term.cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("status %d", code)
	}
	e.fails(1, []string{"not running"}, "attach", "work") // input after the exit
	e.fails(125, []string{"not a TTY"}, "start", "-ai", "work")
}

// A container without -t has no terminal to type into, even where its stdin is one.
func TestNoTerminalIsShared(t *testing.T) {
	e := newEnv(t)
	e.busybox("tools")
	sh(t, e.dir, `for f in $(ldd /usr/bin/perl | grep -o '/[^ ]*') /usr/bin/perl; do mkdir -p tools/"${f%/*}"; cp -L "$f" tools/"$f"; done`)
	e.ok("import", "./tools")
	for _, flags := range [][]string{{"--rm"}, {"--name", "kept"}} {
		term := e.terminal(append(append([]string{"run", "-i"}, flags...), "tools", "perl", "-e",
			`open(S, "/proc/self/stat"); @s = split(" ", <S>); $tty = open(T, "+</dev/tty") ? "opened" : "none";
$x = "x"; $r = ioctl(STDIN, 0x5412, $x); print "session $s[5] of terminal $s[6], /dev/tty $tty, TIOCSTI ", $r ? "done" : "refused", "\n"`)...)
		e.untilShown(term, "session 1 of terminal 0, /dev/tty none, TIOCSTI refused")
		term.cmd.Wait()
	}
}

// What goes in and out of a container that is kept, byte for byte and to the last one.
func TestMonitoredStreams(t *testing.T) {
	e := withBusybox(t)
	data := make([]byte, 3<<20)
	rand.Read(data)
	cmd := e.command("run", "-i", "--name", "both", "busybox", "sh", "-c", "tee /dev/stderr; exit 3")
	cmd.Stdin = bytes.NewReader(data)
	if r := e.finish(cmd); r.code != 3 || r.stdout != string(data) || r.stderr != string(data) {
		t.Errorf("binary data: status %d, %d and %d bytes of %d", r.code, len(r.stdout), len(r.stderr), len(data))
	}
	for i := range 10 {
		if r := e.run("run", "busybox", "sh", "-c", "head -c 300001 /dev/zero; head -c 299999 /dev/zero >&2"); r.code != 0 || len(r.stdout) != 300001 || len(r.stderr) != 299999 {
			t.Fatalf("%d: just before the end: status %d, %d and %d bytes", i, r.code, len(r.stdout), len(r.stderr))
		}
	}
	with := "export LAYERCTL_ROOT=" + e.root + " LAYERCTL_RUN_ROOT=" + e.runRoot + "; set +e +o pipefail; L=\"timeout 10 " + binary + "\"; "
	for script, want := range map[string]string{
		"$L run -i busybox cat </dev/null; echo $?":                                                                           "0\n",
		"$L run -i busybox cat <&-; echo $?":                                                                                  "0\n",
		"echo unread | $L run -i busybox true; echo $?":                                                                       "0\n",
		"$L run busybox yes | head -1; echo ${PIPESTATUS[0]}":                                                                 "y\n1\n",
		"yes | $L run -i busybox head -1; echo ${PIPESTATUS[@]}":                                                              "y\n141 0\n",
		"$L run busybox sh -c 'echo o; echo e >&2' 2>&1 >/dev/null":                                                           "e\n",
		"printf 'a\\nb' | $L run -i --rm busybox cat":                                                                         "a\nb",
		"printf 'a\\nb' | $L run -i busybox sh -c 'read x; echo $x; read y; echo $y'":                                         "a\nb\n",
		"$L run -di --name waits busybox sh -c 'read x; echo got $x; exit 6' >/dev/null; echo one | $L attach waits; echo $?": "got one\n6\n",
	} {
		if got := sh(t, e.dir, with+"{ "+script+"; } 2>/dev/null"); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// A client that does not read holds neither the container up nor others, and gets all of it when it reads again.
func TestSlowReader(t *testing.T) {
	e := withBusybox(t)
	e.ok("run", "-d", "--name", "work", "busybox", "sh", "-c", "until [ -e /go ]; do sleep 0.02; done; seq 400000; exit 3")
	var want strings.Builder
	if out, err := exec.Command("seq", "400000").Output(); err != nil {
		t.Fatal(err)
	} else {
		want.Write(out)
	}
	attach := func(name string) *exec.Cmd {
		out, err := os.Create(filepath.Join(e.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := e.command("attach", "work")
		cmd.Stdout = out
		e.start(cmd)
		eventually(t, "it is attached", func() bool { return connected(cmd.Process.Pid) })
		return cmd
	}
	slow, quick := attach("slow"), attach("quick")
	time.Sleep(50 * time.Millisecond)
	slow.Process.Signal(syscall.SIGSTOP)
	sh(t, e.dir, "touch go; "+"LAYERCTL_ROOT="+e.root+" LAYERCTL_RUN_ROOT="+e.runRoot+" "+binary+" cp go work:/go")
	quick.Wait()
	if got := e.state("work"); got != "exited" || quick.ProcessState.ExitCode() != 3 {
		t.Errorf("while one does not read: the container is %s, the other's status %d", got, quick.ProcessState.ExitCode())
	}
	slow.Process.Signal(syscall.SIGCONT)
	slow.Wait()
	if code := slow.ProcessState.ExitCode(); code != 3 {
		t.Errorf("the slow one's status is %d", code)
	}
	for _, name := range []string{"slow", "quick"} {
		if b, err := os.ReadFile(filepath.Join(e.dir, name)); string(b) != want.String() {
			t.Errorf("%s: %d bytes of %d, %v", name, len(b), want.Len(), err)
		}
	}
}

// connected says whether a process has a connection to a container's monitor.
func connected(pid int) bool {
	fds, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
			return true
		}
	}
	return false
}
