package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/snapshot"
)

// Layers that lean on hostile ones below: whatever is a link there, nothing leads out of the merged root, and what comes out is what
// containerd makes when it unpacks one layer upon the other.
func TestHostileSettle(t *testing.T) {
	for _, c := range []struct {
		name  string
		below string // makes the lower tree
		layer []func(*tar.Writer) error
		want  string // the settled tree; its root's attributes are those of the one below
		err   error
		text  string
	}{
		{"a link out", "ln -s ../../.. up", es(h(reg, "up/canary", "", "x")), "canary=x", nil, ""},
		{"a link out, deep", "mkdir -p a/b; ln -s ../../../../.. a/b/up; mkdir etc; chmod 700 etc", es(h(reg, "a/b/up/etc/f", "", "x")), "a/ a/b/ etc/(700) etc/f=x", nil, ""},
		{"an absolute link out of the host's", "ln -s /tmp t", es(h(reg, "t/canary", "", "x")), "t/ t/canary=x", nil, ""}, // nothing is at /tmp in the root
		{"an absolute link", "mkdir tmp; chmod 1777 tmp; ln -s /tmp t", es(h(reg, "t/f", "", "x")), "tmp/(1777) tmp/f=x", nil, ""},
		{"a link to the root", "ln -s / r", es(h(reg, "r/r/f", "", "x")), "f=x", nil, ""},
		{"a link to the root, and a name like it", "ln -s / r; mkdir d", es(h(reg, "r/d/f", "", "x"), h(reg, "r/r", "", "y")), "d/ d/f=x r=y", nil, ""},
		{"a link to itself", "ln -s l l", es(h(reg, "l/f", "", "x")), "l/ l/f=x", nil, ""},
		{"links in a circle", "ln -s b a; ln -s a b", es(h(reg, "a/f", "", "x")), "a/ a/f=x", nil, ""},
		{"a link into /proc", "ln -s /proc/self/root p", es(h(reg, "p/canary", "", "x")), "p/ p/canary=x", nil, ""},
		{"a link to a file", "echo > f; ln -s f l", es(h(reg, "l/g", "", "x")), "l/ l/g=x", nil, ""},
		{"a link through a link", "mkdir -p usr/lib; ln -s usr u; ln -s u/lib lib", es(h(reg, "lib/f", "", "x")), "usr/ usr/lib/ usr/lib/f=x", nil, ""},
		{"a link within what moves", "mkdir -p usr/lib opt/mods; ln -s usr/lib lib; ln -s /opt/mods usr/lib/mods", es(h(reg, "lib/mods/f", "", "x"), h(reg, "lib/g", "", "y")), "opt/ opt/mods/ opt/mods/f=x usr/ usr/lib/ usr/lib/g=y", nil, ""},
		{"a link that lies behind where it leads", "mkdir -p a/m T; ln -s a z; rmdir a/m; ln -s /T a/m", es(h(reg, "z/m/f", "", "x")), "T/ T/f=x a/", nil, ""},
		{"a link from deep to its own parent", "mkdir -p usr; ln -s . usr/lib64; chmod 711 usr", es(h(reg, "usr/lib64/f", "", "x"), h(reg, "usr/lib64/lib64/g", "", "y")), "usr/(711) usr/f=x usr/g=y", nil, ""},
		{"both sides bring a file", "mkdir e; ln -s e l", es(h(reg, "e/f", "", "1"), h(reg, "l/f", "", "2")), "e/ e/f=2", nil, ""},
		{"a file in a directory's place", "mkdir e; ln -s e l", es(h(reg, "e/f/g", "", "1"), h(reg, "l/f", "", "2")), "e/ e/f=2", nil, ""},
		{"a directory in a file's place", "mkdir e; ln -s e l", es(h(reg, "e/f", "", "1"), h(reg, "l/f/g", "", "2")), "e/ e/f/ e/f/g=2", nil, ""},
		{"directories meet: the later one's mode", "mkdir e; ln -s e l", es(h(reg, "e/d/a", "", "1"), with(tar.Header{Typeflag: dirT, Name: "l/d", Mode: 0o700}, "")), "e/ e/d/(700) e/d/a=1", nil, ""},
		{"a hard link whose file moves", "mkdir e; ln -s e l", es(h(reg, "l/f", "", "1"), h(hard, "x", "l/f", "")), "e/ e/f=1 x==e/f", nil, ""},
		{"a hard link whose file is overwritten by a move", "mkdir e; ln -s e l", es(h(reg, "e/f", "", "1"), h(hard, "x", "e/f", ""), h(reg, "l/f", "", "2")), "e/ e/f=2 x=1", nil, ""},
		{"whiteouts move, too", "mkdir e; touch e/f e/g; ln -s e l", es(h(reg, "l/.wh.f", "", ""), h(reg, "l/.wh.nothing", "", "")), "e/ -e/f", nil, ""},
		{"opaque moves, too", "mkdir e; touch e/f; ln -s e l", es(h(reg, "l/.wh..wh..opq", "", ""), h(reg, "l/g", "", "x")), "e/! e/g=x", nil, ""},
		{"the layer's own link on the way", "mkdir -p usr/lib other; ln -s usr/lib lib", es(h(lnk, "usr", "/other", ""), h(reg, "lib/f", "", "x")), "lib/ lib/f=x usr->/other", nil, ""}, // other/lib is not there
		{"the layer deletes where the link leads", "mkdir -p usr/lib; ln -s usr/lib lib", es(h(reg, ".wh.usr", "", ""), h(reg, "lib/f", "", "x")), "lib/ lib/f=x -usr", nil, ""},
		{"the layer hides where the link leads", "mkdir -p usr/lib; ln -s usr/lib lib", es(h(reg, "usr/.wh..wh..opq", "", ""), h(reg, "lib/f", "", "x")), "lib/ lib/f=x usr/!", nil, ""},
		{"the layer deletes the link", "mkdir -p usr/lib; ln -s usr/lib lib", es(h(reg, ".wh.lib", "", ""), h(reg, "lib/f", "", "x")), "lib/! lib/f=x", nil, ""},
		{"the layer brings the directory itself", "mkdir -p usr/lib; ln -s usr/lib lib", es(h(dirT, "lib", "", ""), h(reg, "lib/f", "", "x")), "lib/ lib/f=x", nil, ""},
		{"a deleted directory made again does not take the old one's mode", "mkdir d; chmod 700 d", es(h(reg, ".wh.d", "", ""), h(reg, "d/f", "", "x")), "d/! d/f=x", nil, ""},
		{"below an opaque directory nothing is taken from below", "mkdir -p d/e; chmod 700 d/e", es(h(dirT, "d", "", ""), h(reg, "d/.wh..wh..opq", "", ""), h(reg, "d/e/f", "", "x")), "d/! d/e/ d/e/f=x", nil, ""},
		{"an opaque directory itself keeps the mode below", "mkdir d; chmod 700 d; chown 3:4 d", es(h(reg, "d/.wh..wh..opq", "", "")), "d/!(700,3:4)", nil, ""},
		{"a file below where a directory is used", "echo > d", es(h(reg, "d/f", "", "x")), "d/ d/f=x", nil, ""},
		{"a whiteout below is nothing", "mknod d c 0 0", es(h(reg, "d/f", "", "x"), h(reg, ".wh.d2", "", "")), "d/ d/f=x", nil, ""},

		{"a hard link out through a link below", "ln -s ../../.. up; echo -n 1 > f", es(h(hard, "x", "up/f", "")), "x=1", nil, ""},
		{"a hard link out to the host's", "ln -s / r", es(h(hard, "x", "r/etc/passwd", "")), "", ErrMalformed, "in no layer"},
		{"a hard link to a link out", "ln -s /etc/passwd l", es(h(hard, "x", "l", "")), "x->/etc/passwd", nil, ""},
		{"a hard link through a missing directory is not one from the root", "echo secret > f", es(h(hard, "x", "nowhere/f", "")), "", ErrMalformed, "in no layer"},
		{"a hard link through a link to nowhere", "echo secret > f; ln -s nowhere l", es(h(hard, "x", "l/f", "")), "", ErrMalformed, "in no layer"},
		{"a hard link to a directory below", "mkdir d", es(h(hard, "x", "d", "")), "", ErrUnsupported, "no file"},
		{"a hard link to a device below", "mknod n c 1 3", es(h(hard, "x", "n", "")), "", ErrUnsupported, "no file"},
		{"hard links to one file below are one copy", "head -c 100000 /dev/zero > big", es(h(hard, "x", "big", ""), h(hard, "d/y", "big", ""), h(hard, "z", "./d/../big", "")), "d/ d/y=<100000 bytes> x==d/y z==d/y", nil, ""},
		{"a hard link through a link below to the layer's own file", "mkdir -p usr/lib; ln -s usr/lib lib", es(h(reg, "usr/lib/f", "", "1"), h(hard, "x", "lib/f", "")), "usr/ usr/lib/ usr/lib/f=1 x==usr/lib/f", nil, ""},
		{"a hard link to itself below", "echo -n 1 > f", es(h(hard, "f", "f", "")), "f=1", nil, ""},
		{"a setgid directory below hands nothing down", "mkdir d; chgrp 50 d; chmod 2775 d; setfacl -d -m u:99:rwx d; echo -n 1 > f; ln -s d l", es(h(reg, "l/e/g", "", "x"), h(hard, "d/x", "f", "")), "", nil, "setgid"},
		{"names that are not UTF-8", `mkdir "$(printf '\377')" "$(printf '\376')"; chmod 700 "$(printf '\377')"; chmod 711 "$(printf '\376')"`, es(raw(file("\xff/f", "x")), raw(file("\xfe/f", "x"))), "\xfe/(711) \xfe/f=x \xff/(700) \xff/f=x", nil, ""},
		{"a link that is not UTF-8", `mkdir "$(printf 'd\377')"; ln -s "$(printf 'd\377')" l`, es(h(reg, "l/f", "", "x")), "d\xff/ d\xff/f=x", nil, ""},
		{"4,000 links one after the other", "for i in $(seq 60); do ln -s l$i/../l$i l$((i+1)); done; mkdir l1", es(h(reg, "l61/f", "", "x")), "l61/ l61/f=x", nil, ""}, // more than 40: leads nowhere, as for the kernel
	} {
		t.Run(c.name, func(t *testing.T) {
			outside := t.TempDir()
			low := filepath.Join(outside, "low")
			if err := os.Mkdir(low, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("alive"), 0o600); err != nil {
				t.Fatal(err)
			}
			sh(t, low, c.below)
			before := lookAt(t, []string{outside})
			lowBefore := sh(t, low, `find . -printf '%P %y %m %U %G %T@ %l\n' | sort`)
			stack, err := snapshot.OpenStack([]string{low})
			if err != nil {
				t.Fatal(err)
			}
			defer stack.Close()
			layer := tarOf(t, c.layer...)
			dir, _ := apply(t, bytes.NewReader(layer))
			s, err := PlanSettlement(dir, stack)
			if err == nil {
				err = s.Execute(dir, stack)
			}
			switch {
			case c.err != nil:
				if !errors.Is(err, c.err) || !strings.Contains(fmt.Sprint(err), c.text) {
					t.Errorf("error %v, want %v about %q", err, c.err, c.text)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			checkIndex(t, dir)
			if c.text == "setgid" {
				sh(t, filepath.Join(dir, "fs"), `test "$(stat -c '%a %g' d)" = '2775 50'; test "$(stat -c '%a %g' d/e d/e/g d/x | tr '\n' ' ')" = '755 0 644 0 644 0 '; test -z "$(getfacl -cs d/e d/e/g d/x)"; getfacl -c d | grep -q default:user:99`)
			} else if got := describe(t, dir); got != c.want && strings.Split(got, " needs ")[0] != c.want {
				t.Errorf("tree %.300s\nwant %.300s", got, c.want)
			}
			if got := lookAt(t, []string{outside}); got != before {
				t.Errorf("outside: %s, was %s", got, before)
			}
			if got := sh(t, low, `find . -printf '%P %y %m %U %G %T@ %l\n' | sort`); got != lowBefore {
				t.Errorf("the layer below: %s, was %s", got, lowBefore)
			}
			if again, err := PlanSettlement(dir, stack); err != nil || again.Digest() != s.Digest() {
				t.Errorf("planned again from the settled tree: %+v, want %+v (%v)", again, s, err)
			}
			// Over another layer the settled tree plans what the layer as it came would.
			other := t.TempDir()
			sh(t, other, "mkdir -p usr/lib lib d l e; chmod 701 lib d l; echo 1 > f; echo 2 > big")
			second, err := snapshot.OpenStack([]string{other})
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			fresh, _ := apply(t, bytes.NewReader(layer))
			want, werr := PlanSettlement(fresh, second)
			got, gerr := PlanSettlement(dir, second)
			if fmt.Sprint(werr) != fmt.Sprint(gerr) || werr == nil && want.Digest() != got.Digest() {
				t.Errorf("over another layer: %+v (%v), want %+v (%v)", got, gerr, want, werr)
			}
			if werr == nil {
				if err := want.Execute(fresh, second); err != nil {
					t.Errorf("over another layer: %v", err)
				}
				checkIndex(t, fresh)
			}
		})
	}
}

// raw puts an entry into a tar as bytes.
func raw(b []byte) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		r := tar.NewReader(bytes.NewReader(b))
		hdr, err := r.Next()
		if err != nil {
			return err
		}
		hdr.Format = tar.FormatGNU
		content := make([]byte, hdr.Size)
		r.Read(content)
		return with(*hdr, string(content))(w)
	}
}
