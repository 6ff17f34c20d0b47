package tests

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cuts is how often the power goes: LAYERCTL_TEST_CUTS, or 3.
func cuts(t *testing.T) int {
	s := os.Getenv("LAYERCTL_TEST_CUTS")
	if s == "" {
		return 3
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// said is what hack/torture.sh said of images and containers until the power was cut: an ID, "-" for what was removed, "?" for what was
// about to be changed. Containers have their names with a "c " before.
type said map[string]string

func (s said) read(t *testing.T, out string) (lines int) {
	t.Helper()
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(line, "\n") {
			continue // cut in the middle
		}
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "+":
			s[words[1]] = words[2]
		case len(words) == 2 && words[0] == "-":
			s[words[1]] = "-"
		case len(words) == 2 && words[0] == "?":
			s[words[1]] = "?"
		case len(words) == 2 && strings.HasSuffix(words[0], "c"):
			s["c "+words[1]] = strings.TrimSuffix(words[0], "c")
		default:
			t.Errorf("before the cut: %s", line)
		}
		lines++
	}
	return lines
}

// compare holds what is there after a cut against what was said before.
func (s said) compare(t *testing.T, out string) {
	t.Helper()
	here := said{}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "i":
			here[words[1]] = words[2]
		case len(words) == 2 && words[0] == "c":
			here["c "+words[1]] = "+"
		case line != "looked\n":
			t.Errorf("after the cut: %s", line)
		}
	}
	if !strings.HasSuffix(out, "looked\n") {
		t.Errorf("after the cut nobody came to the end of looking: %s", out)
	}
	for name, what := range s {
		got := here[name]
		switch what {
		case "?":
		case "-":
			if got != "" {
				t.Errorf("%s was removed, and is there after the cut (%s)", name, got)
			}
		default:
			if got != what {
				t.Errorf("%s was said to be %s, and is %q after the cut", name, what, got)
			}
		}
	}
	clear(s) // what is there now is whole; what the next round says of it counts
	for name, what := range here {
		if name != "<none>:<none>" {
			s[name] = what
		}
	}
	for n := range 3 {
		for name := range s {
			if strings.HasSuffix(name, fmt.Sprintf("/img%d:latest", n)) {
				delete(s, name) // looking may have pulled it
			}
		}
	}
}

// torture is what both tests need: the directory with the tree, and a registry with three images.
func torture(t *testing.T, e *env) *registry {
	t.Helper()
	reg := startRegistry(t, "")
	for i := range 3 {
		reg.push(fmt.Sprintf("img%d", i), "", "--config.cmd true", smallLayer, fmt.Sprintf("head -c %d000 /dev/urandom > big; mkdir many; for i in $(seq 200); do echo $i > many/$i; done", 1000*i+1))
	}
	sh(t, e.dir, "mkdir -p files/tree && cd files/tree && "+smallLayer+" && seq 100000 > numbers")
	return reg
}

// The power is cut while somebody pulls, imports, runs and removes: what was said is there, what is there is whole, and work goes on.
func TestPowerCut(t *testing.T) {
	d := newDisk(t, "ext4", "500M", "")
	reg := torture(t, d.env)
	script, err := filepath.Abs("../hack/torture.sh")
	if err != nil {
		t.Fatal(err)
	}
	s := said{}
	for i := range cuts(t) {
		cmd := exec.Command(script, "work", binary, d.mount, filepath.Join(d.dir, "files"), reg.addr)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.WaitDelay = 10 * time.Second
		d.start(cmd)
		time.Sleep(2*time.Second + rand.N(3*time.Second))
		syscall.Kill(-cmd.Process.Pid, syscall.SIGSTOP) // what it says from here on is not said any more
		shutdown(t, d.mount)
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		lines := s.read(t, out.String())
		d.restart(t)
		look := exec.Command(script, "look", binary, d.mount, filepath.Join(d.dir, "files"), reg.addr)
		look.Stderr = os.Stderr
		b, err := look.Output()
		if err != nil {
			t.Errorf("looking: %v", err)
		}
		s.compare(t, string(b))
		t.Logf("cut %d after %d lines", i+1, lines)
		if t.Failed() {
			return
		}
	}
}

// The same with a machine of its own, which is killed with all that was in its memory.
func TestPowerCutOfAMachine(t *testing.T) {
	vm := os.Getenv("LAYERCTL_VM")
	if vm == "" {
		t.Skip("LAYERCTL_VM names no ../shared/vm/run-in-vm.sh")
	}
	e := newEnv(t)
	reg := torture(t, e)
	vm, err := filepath.Abs(vm)
	if err != nil {
		t.Fatal(err)
	}
	sh(t, e.dir, fmt.Sprintf(`cp %s files/layerctl; cp /usr/bin/docker-registry /bin/busybox files/; cp %s files/; cp -a %s/data files/registry
printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: /share/files/registry}}\nhttp: {addr: 127.0.0.1:5000}\n' > files/registry.yml
cat > files/in-vm <<'X'
#!/bin/bash
/share/files/docker-registry serve /share/files/registry.yml > /dev/null 2>&1 &
until (exec 3<> /dev/tcp/127.0.0.1/5000) 2> /dev/null; do sleep .1; done
exec /share/files/torture.sh "$1" /share/files/layerctl /data /share/files 127.0.0.1:5000
X
chmod +x files/in-vm`, binary, mustAbs(t, "../hack/torture.sh"), reg.dir))
	s := said{}
	for i := range cuts(t) {
		cut := 8 + 12*rand.Float64()
		args := func(more ...string) *exec.Cmd {
			cmd := exec.Command(vm, append([]string{"-d", filepath.Join(e.dir, "files"), "-k", filepath.Join(e.dir, "disk.img")}, more...)...)
			cmd.Stderr = os.Stderr
			return cmd
		}
		out, err := args("-K", fmt.Sprintf("%.2f", cut), "--", "/share/files/in-vm", "work").Output()
		if code := exitOf(err); code != 137 {
			t.Fatalf("the machine was not cut: status %d: %s", code, out)
		}
		lines := s.read(t, string(out))
		out, err = args("--", "/share/files/in-vm", "look").Output()
		if err != nil {
			t.Errorf("looking: %v", err)
		}
		s.compare(t, string(out))
		t.Logf("cut %d after %.1f s and %d lines", i+1, cut, lines)
		if t.Failed() {
			return
		}
	}
}

func exitOf(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return 0
}

func mustAbs(t testing.TB, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
