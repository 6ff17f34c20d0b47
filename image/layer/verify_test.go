package layer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// verify is what Verify reports, a line each.
func verify(t testing.TB, dir string, content bool) string {
	t.Helper()
	var b strings.Builder
	_, err := Verify(context.Background(), dir, VerifyOptions{Content: content, Scratch: dir}, func(path, problem string) {
		fmt.Fprintf(&b, "%s: %s\n", path, problem)
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const variedTree = `mkdir -p d/sub e; echo hello > d/file; echo other > d.txt; ln d/file d/another; ln -s file d/link; mkfifo e/fifo
mknod e/dev c 1 3; setfattr -n user.note -v text d.txt; echo run > e/run; chown 5:6 e/run; chmod 4755 e/run; head -c 300000 /dev/urandom > e/big
: > e/empty; find . -exec touch -h -d 2024-01-02T03:04:05.25 {} +`

// local makes a layer's tree as import does.
func local(t testing.TB, script string) (dir, id string) {
	t.Helper()
	src := t.TempDir()
	sh(t, src, script)
	_, tar := packID(t, src)
	dir, res := apply(t, bytes.NewReader(tar))
	return dir, res.DiffID
}

func TestVerifyFindsEachDifference(t *testing.T) {
	for _, row := range []struct{ damage, want string }{
		{"true", ""},
		{"printf x | dd of=fs/d/file bs=1 seek=2 conv=notrunc status=none; touch -d 2024-01-02T03:04:05.25 fs/d/file", "d/another: its content is damaged\n"},
		{"echo more >> fs/d/file; touch -d 2024-01-02T03:04:05.25 fs/d/file", "d/another: size 11, was 6\n"},
		{"chmod 644 fs/e/run", "e/run: mode 0644, was 4755\n"},
		{"chmod 700 fs", ".: mode 0700, was 0755\n"},
		{"chown 7:6 fs/e/run; chmod 4755 fs/e/run", "e/run: owner 7:6, was 5:6\n"},
		{"chown -h 7:6 fs/d/link", "d/link: owner 7:6, was 0:0\n"},
		{"touch -d 2025-01-01T00:00:00Z fs/d", "d: time 2025-01-01T00:00:00Z, was 2024-01-02T03:04:05.25Z\n"},
		{"setfattr -n user.note -v changed fs/d.txt", "d.txt: attribute user.note differs\n"},
		{"setfattr -x user.note fs/d.txt", "d.txt: has lost the attribute user.note\n"},
		{"setfattr -n user.extra -v x fs/d.txt", "d.txt: has the attribute user.extra, which is not in the layer\n"},
		{"setfattr -n trusted.overlay.opaque -v y fs/d", "d: hides what is below, and should not\n"},
		{"setfattr -n trusted.overlay.redirect -v /etc fs/d", "d: has overlayfs' attribute trusted.overlay.redirect, which is not in the layer\n"},
		{"ln -sfn elsewhere fs/d/link; touch -h -d 2024-01-02T03:04:05.25 fs/d/link fs/d", `d/link: leads to "elsewhere", was "file"` + "\n"},
		{"rm fs/e/empty; touch -d 2024-01-02T03:04:05.25 fs/e", "e/empty: is missing\n"},
		{"rm -r fs/d; touch -d 2024-01-02T03:04:05.25 fs", "d: is missing\n"},
		{"rm -r fs/d; echo > fs/d; touch -d 2024-01-02T03:04:05.25 fs", "d: is a file, was a directory\n"},
		{"rm -r fs/e", ".: time NOW, was 2024-01-02T03:04:05.25Z\ne: is missing\n"},
		{"mkdir -p fs/d/new/below; touch -d 2024-01-02T03:04:05.25 fs/d", "d/new: is not in the layer\n"},
		{"cp -p fs/d/file x; rm fs/d/file; mv x fs/d/file; touch -d 2024-01-02T03:04:05.25 fs/d", "d/file: is no longer the same file as \"d/another\"\n"},
		{"rm fs/e/dev; mknod fs/e/dev c 1 5; touch -d 2024-01-02T03:04:05.25 fs/e/dev fs/e", "e/dev: device 1:5, was 1:3\ne/dev: mode 0644, was MODE\n"},
		{"rm fs/e/empty; mknod fs/e/empty c 0 0; touch -d 2024-01-02T03:04:05.25 fs/e/empty fs/e", "e/empty: is a whiteout, was a file\n"},
		{"mv fs away", ".: the tree is not there: no such file or directory\n"},
		{"printf x | dd of=index bs=1 seek=60 conv=notrunc status=none", ": index is damaged: malformed layer\n"},
		{"truncate -s -1 index", ": index ends in the middle of a block: malformed layer\n"},
		{"printf x >> index", ": index goes on behind its end: malformed layer\n"},
		{"rm index", ": no such file or directory\n"},
	} {
		dir, _ := local(t, variedTree)
		sh(t, dir, row.damage)
		got := verify(t, dir, true)
		want := row.want
		if strings.Contains(want, "NOW") {
			now, _ := os.Stat(filepath.Join(dir, "fs"))
			want = strings.Replace(want, "NOW", now.ModTime().UTC().Format("2006-01-02T15:04:05.999999999Z07:00"), 1)
		}
		if strings.Contains(want, "MODE") {
			want = strings.Split(want, "e/dev: mode")[0]
			got = strings.Split(got, "e/dev: mode")[0]
		}
		if got != want {
			t.Errorf("%s:\n got %q\nwant %q", row.damage, got, want)
		}
	}
}

// A tree that a layer with whiteouts, links through links and opaque directories was unpacked to is as its index says.
func TestVerifyPulledTree(t *testing.T) {
	dir, res := apply(t, bytes.NewReader(tarOf(t, h('5', "d/", "", ""), h('0', "d/.wh..wh..opq", "", ""), h('0', "d/new", "", "x"),
		h('0', "e/.wh.gone", "", ""), h('2', "l", "d", ""), h('0', "l/through", "", "y"), h('1', "hard", "d/new", ""))))
	if res.Needs == 0 {
		t.Error("the layer leans on nothing")
	}
	if got := verify(t, dir, true); got != "" {
		t.Error(got)
	}
	sh(t, dir, "setfattr -x trusted.overlay.opaque fs/d; rm fs/e/gone; touch -d @0 fs/e")
	if got, want := verify(t, dir, true), "d: no longer hides what is below\ne/gone: is missing\n"; got != want {
		t.Errorf("got %q", got)
	}
}

func TestSalvage(t *testing.T) {
	for _, row := range []struct {
		damage string
		lost   bool
	}{
		{"true", false},
		{"chmod 777 fs/e/run; chown 1:1 fs/d.txt; setfattr -x user.note fs/d.txt; touch fs/d", false},
		{"mv fs/d/file x; mv fs/d.txt fs/d/file; mv x fs/d.txt", false},
		{"rm -r fs/e/fifo fs/e/dev fs/d/link fs/d/another fs/d/sub fs/e/empty; echo new > fs/new; ln -s /etc/passwd fs/e/empty", false},
		{"rm fs/d/file", false}, // its content is under the other name
		{"echo > fs/e/run", true},
		{"rm fs/e/big", true},
	} {
		dir, id := local(t, variedTree)
		sh(t, dir, row.damage)
		var b bytes.Buffer
		err := Salvage(context.Background(), dir, &b)
		if row.lost {
			if err == nil {
				t.Errorf("%s: what is lost was found", row.damage)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.damage, err)
			continue
		}
		if _, res := apply(t, &b); res.DiffID != id {
			t.Errorf("%s: the layer came out as another", row.damage)
		}
	}
	// The order in which a foreign tar has the names of one file does not matter.
	dir, _ := apply(t, bytes.NewReader(tarOf(t, h('0', "z", "", "x"), h('1', "a", "z", ""), h('1', "m/n", "a", ""))))
	id, _ := packID(t, filepath.Join(dir, "fs"))
	var b bytes.Buffer
	if err := Salvage(context.Background(), dir, &b); err != nil {
		t.Fatal(err)
	}
	if _, res := apply(t, &b); res.DiffID != id {
		t.Error("hard links came out in another order")
	}
}
