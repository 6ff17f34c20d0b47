package executor

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/initproc"
	"github.com/layerctl/layerctl/runtime/plan"
)

// startInit starts a spec's command below init, and returns a reader of what it prints.
func startInit(t *testing.T, s *specs.Spec, vfork bool) (*Process, *os.File, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	program, err := initproc.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	c, err := plan.Compile(plan.Inputs{Spec: s, Root: root(t), CgroupFD: -1, Stdio: [3]int{int(null.Fd()), int(w.Fd()), int(w.Fd())}, Init: program})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g, err := Load(c.Plan)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(g, vfork)
	return p, r, err
}

// The command is a child of init, has a session of its own, no descriptor and no blocked signal of init's. In the host's pid namespace, too.
func TestInit(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, vfork := range []bool{true, false} {
			if shared && vfork {
				continue // never where anybody else is in the pid namespace
			}
			s := spec("sh", "-c", `ls -l /proc/$PPID/exe; sleep 0.1; cat /proc/$PPID/comm; [ $PPID = 1 ] && echo first; ls /proc/self/fd | wc -w; [ $(cut -d' ' -f6 /proc/self/stat) = $$ ] && echo leader
grep SigBlk /proc/self/status; sh -c 'sh -c "sleep 0.1; exec cat /proc/self/stat" & echo gone'; sleep 0.3; kill -9 $$`)
			if shared {
				s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
			}
			s.Process.Env = []string{"PATH=/bin"}
			p, r, err := startInit(t, s, vfork)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			out := string(b)
			st, err := p.Wait()
			if err != nil || st.Code != 137 || st.Signal != 0 {
				t.Errorf("shared=%v vfork=%v: %+v, %v", shared, vfork, st, err)
			}
			for _, want := range []string{"/memfd:layerctl-init (deleted)\n", "\nlayerctl-init\n", "\n4\nleader\n", "SigBlk:\t0000000000000000\n", "gone\n"} {
				if !strings.Contains(out, want) {
					t.Errorf("shared=%v vfork=%v: no %q in\n%s", shared, vfork, want, out)
				}
			}
			if strings.Contains(out, "first") == shared {
				t.Errorf("shared=%v vfork=%v: init is process 1 where it should not, or is not where it should\n%s", shared, vfork, out)
			}
			// proc(5): the fourth field is the parent.
			_, orphan, _ := strings.Cut(out, "(cat) S ")
			if orphan == "" {
				_, orphan, _ = strings.Cut(out, "(cat) R ")
			}
			parent, _, _ := strings.Cut(orphan, " ")
			if shared && parent == "1" || !shared && parent != "1" {
				t.Errorf("shared=%v vfork=%v: the orphan's parent is %q\n%s", shared, vfork, parent, out)
			}
		}
	}
}

// A command that cannot be run is told as without init, and leaves no process.
func TestInitErrors(t *testing.T) {
	for _, vfork := range []bool{true, false} {
		for command, is := range map[string]error{"nothing": ErrNotFound, "/bin/lost": ErrNotFound, "/bin/dir": ErrNotExecutable, "/bin/text": ErrNotExecutable} {
			_, _, err := startInit(t, spec(command), vfork)
			var step *StepError
			if !errors.Is(err, is) || !errors.As(err, &step) || step.Name != "run "+command || !step.Exec {
				t.Errorf("vfork=%v: %s: %v, want %v", vfork, command, err, is)
			}
		}
		// The second process is not ours, but that of who ended.
		if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("vfork=%v: a child is left: %v", vfork, err)
		}
	}
}
