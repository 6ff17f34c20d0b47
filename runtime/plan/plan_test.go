package plan

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func sample() *Plan {
	p := &Plan{Flags: unix.CLONE_NEWNS, CgroupFD: -1}
	first := p.add(Step{Name: "open", Shell: "cd /", Call: unix.SYS_OPENAT, Args: []Arg{Int(unix.AT_FDCWD), Str("/some/path"), Int(0)}})
	p.add(Step{Name: "use it", Shell: "# nothing", Call: unix.SYS_FCHDIR, Args: []Arg{Result(first)}, OK: []unix.Errno{unix.ENOENT}, Needs: first})
	p.add(Step{Name: "hidden", Call: unix.SYS_GETPID})
	p.add(Step{Name: "run true", Shell: "exec true", Op: OpExecAny, Args: []Arg{List([]string{"/bin/true"}), List([]string{"true", "a b"}), List(nil)}})
	return p
}

func TestRelocate(t *testing.T) {
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	// Encoding is pure: two encodings are equal, and hold no address.
	if again, _ := sample().Encode(); !bytes.Equal(b, again) {
		t.Error("two encodings of one plan differ")
	}
	const base = 0x7f0000000000
	moved := slices.Clone(b)
	if err := Relocate(moved, base); err != nil {
		t.Fatal(err)
	}
	text := func(at uint64) string {
		s, _, _ := bytes.Cut(moved[at-base:], []byte{0})
		return string(s)
	}
	arg := func(step, n int) uint64 {
		return binary.LittleEndian.Uint64(moved[8*(HeadWords+StepWords*step+9+n):])
	}
	if got := text(arg(0, 1)); got != "/some/path" {
		t.Errorf("the first step's path is %q", got)
	}
	argv := arg(3, 1) - base
	if got := text(binary.LittleEndian.Uint64(moved[argv+8:])); got != "a b" {
		t.Errorf("the second word of the command is %q", got)
	}
	if end := binary.LittleEndian.Uint64(moved[argv+16:]); end != 0 {
		t.Errorf("the list of arguments ends with %#x", end)
	}

	// The walker reads what Relocate let pass without looking again: nothing may point outside.
	for i := 0; i+8 <= len(b); i += 8 {
		for _, value := range []uint64{0, 1, 7, uint64(len(b)) - 1, uint64(len(b)), 1 << 40, 1<<64 - 1} {
			changed := slices.Clone(b)
			binary.LittleEndian.PutUint64(changed[i:], value)
			if Relocate(changed, base) == nil {
				inside(t, changed, base)
			}
		}
	}
	for n := range len(b) {
		if Relocate(slices.Clone(b[:n]), base) == nil {
			t.Errorf("the first %d bytes alone are taken for a plan", n)
		}
	}
}

// inside checks that every address of a relocated plan lies in it.
func inside(t *testing.T, b []byte, base uint64) {
	t.Helper()
	within := func(at uint64) bool { return at >= base && at < base+uint64(len(b)) }
	for i := range binary.LittleEndian.Uint64(b[24:]) {
		rec := b[8*(HeadWords+StepWords*i):]
		for j := range 6 {
			kind, at := argKind(binary.LittleEndian.Uint64(rec[8*(3+j):])), binary.LittleEndian.Uint64(rec[8*(9+j):])
			if kind == argData && !within(at) {
				t.Fatalf("step %d, argument %d points to %#x", i, j, at)
			}
			if kind != argList {
				continue
			}
			for k := at; ; k += 8 {
				if !within(k) || !within(k+7) {
					t.Fatalf("step %d, argument %d is a list without an end", i, j)
				}
				s := binary.LittleEndian.Uint64(b[k-base:])
				if s == 0 {
					break
				}
				if !within(s) {
					t.Fatalf("step %d, argument %d lists %#x", i, j, s)
				}
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, p := range map[string]*Plan{
		"too many arguments":      {Steps: []Step{{Args: make([]Arg, 7)}}},
		"a need of what comes":    {Steps: []Step{{Needs: 1}}},
		"too many steps":          {Steps: make([]Step, maxSteps+1)},
		"a command line too long": {Steps: []Step{{Op: OpExecAny, Args: []Arg{List([]string{strings.Repeat("x", maxEncoded)})}}}},
	} {
		if _, err := p.Encode(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
