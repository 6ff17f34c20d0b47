package diff

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What Patch writes turns one tree into the other: git and patch do it, but for what a patch does not carry.
func TestPatch(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `mkdir -p a/etc a/bin; seq 100 > a/etc/numbers; echo gone > a/etc/gone; printf 'no newline' > a/etc/end; ln -s numbers a/etc/link
		echo '#!' > a/bin/run; printf 'x\000y' > a/bin/binary; echo x > 'a/with space'; echo t > a/tofile; seq 5000 > a/moved; : > a/empty; echo q > "a/q\"uote"; echo same > a/same
		head -c 9000000 /dev/zero | tr '\0' l > a/large
		cp -a a b; cd b
		sed -i 's/^50$/fifty/; 3d; $a last' etc/numbers; rm etc/gone; printf 'no newline, still' > etc/end; ln -sfn gone etc/link; chmod 755 bin/run
		printf 'x\000z' > bin/binary; echo y > 'with space'; rm tofile; ln -s nowhere tofile; mkdir sub; mv moved sub/new-name; echo n > new; : > empty2; rm empty; echo r > "q\"uote"; echo l >> large
		printf 'tab\there' > "$(printf 'tab\tname')"; touch -d 2001-01-01 same; chown 5 same`)
	a, b := Dir(filepath.Join(dir, "a")), Dir(filepath.Join(dir, "b"))
	for _, moves := range []bool{false, true} {
		var patch bytes.Buffer
		for c, err := range Compare(context.Background(), a, b, Options{Moves: moves}) {
			if err == nil {
				err = Patch(&patch, &c, a, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		text := patch.String()
		for _, line := range []string{"Binary files a/bin/binary and b/bin/binary differ\n", "Binary files a/large and b/large differ\n", "\\ No newline at end of file\n", "new mode 100755\n", "+fifty\n", "deleted file mode 120000\n"} {
			if !strings.Contains(text, line) {
				t.Errorf("the patch has no %q:\n%s", line, text)
			}
		}
		if strings.Contains(text, "same") {
			t.Errorf("the patch speaks of a file whose content is the same:\n%s", text)
		}
		if moves != strings.Contains(text, "rename from moved\nrename to sub/new-name\n") {
			t.Errorf("moves %v:\n%s", moves, text)
		}
		// What cannot be patched is left out.
		var parts []string
		for _, part := range strings.SplitAfter(strings.ReplaceAll(text, "\ndiff --git", "\n\x00diff --git"), "\x00") {
			if part = strings.TrimSuffix(part, "\x00"); !strings.Contains(part, "Binary files") {
				parts = append(parts, part)
			}
		}
		for _, tool := range []string{"git apply -", "patch -s -f -p1"} {
			sh(t, dir, "rm -rf c; cp -a a c; git init -q c 2>/dev/null")
			cmd := exec.Command("sh", "-ec", tool)
			cmd.Dir = filepath.Join(dir, "c")
			cmd.Stdin = strings.NewReader(strings.Join(parts, ""))
			if tool != "git apply -" {
				sh(t, dir, "rm c/empty")
				cmd.Stdin = strings.NewReader(strings.Join(slices.DeleteFunc(slices.Clone(parts), func(p string) bool { return strings.Contains(p, "b/empty\n") }), ""))
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s\n%s", tool, err, out, strings.Join(parts, ""))
			}
			sh(t, dir, "rm -rf c/.git")
			for _, line := range lines(t, Dir(filepath.Join(dir, "c")), b, Options{NoTimes: true}) {
				switch line {
				case "C /bin/binary content", "C /large content,size", "C /same owner":
				default:
					t.Errorf("%s (moves %v) leaves %s", tool, moves, line)
				}
			}
		}
	}
}
