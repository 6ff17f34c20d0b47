package layer

import (
	"archive/tar"
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/snapshot"
)

func TestSettle(t *testing.T) {
	const reg, hard = tar.TypeReg, tar.TypeLink
	base := `mkdir -p tmp usr/lib etc old; chmod 1777 tmp; chown 7:8 usr/lib; setfattr -n user.k -v v usr/lib
ln -s usr/lib lib; ln -s /etc/real conf; mkdir etc/real; echo f > etc/file; chmod 600 etc/file; ln -s loop loop
touch -d 2020-01-01 tmp usr/lib usr etc etc/real etc/file old .`
	for _, row := range []struct {
		name  string
		layer []func(*tar.Writer) error
		check string // run in the settled tree; must succeed
		same  bool   // nothing to settle
		fails string
	}{
		{name: "a directory's attributes come from below", layer: es(h(reg, "tmp/x", "", "1")),
			check: `test "$(stat -c '%a %Y' tmp)" = "1777 $(date -d 2020-01-01 +%s)"`},
		{name: "with owner and attributes", layer: es(h(reg, "usr/lib/x", "", "1")),
			check: `test "$(stat -c '%u:%g' usr/lib)" = 7:8; test "$(getfattr --only-values -n user.k usr/lib)" = v`},
		{name: "a parent that is a link below", layer: es(h(reg, "lib/sub/x.so", "", "1")),
			check: `test ! -e lib; test "$(cat usr/lib/sub/x.so)" = 1; test "$(stat -c %u usr/lib)" = 7`},
		{name: "an absolute link below", layer: es(h(reg, "conf/x", "", "1")), check: `test ! -e conf; test "$(cat etc/real/x)" = 1`},
		{name: "both names of a directory", layer: es(h(reg, "usr/lib/sub/a", "", "1"), h(reg, "lib/sub/b", "", "2")),
			check: `test ! -e lib; test "$(cat usr/lib/sub/a usr/lib/sub/b)" = 12`},
		{name: "a link below that leads nowhere is covered", layer: es(h(reg, "loop/x", "", "1")), check: `test "$(cat loop/x)" = 1`, same: true},
		{name: "a hard link to below is a copy", layer: es(h(hard, "etc/second", "etc/file", "")),
			check: `test "$(cat etc/second)" = f; test "$(stat -c '%a %h' etc/second)" = "600 1"`},
		{name: "a hard link through a link below", layer: es(h(reg, "x", "", "1"), h(hard, "y", "conf/../file", "")), fails: "in no layer"},
		{name: "a hard link to nothing", layer: es(h(hard, "etc/second", "nowhere", "")), fails: "in no layer"},
		{name: "a whiteout of nothing goes", layer: es(h(reg, "etc/.wh.none", "", ""), h(reg, "etc/.wh.file", "", "")),
			check: `test ! -e etc/none; test -c etc/file`},
		{name: "a whiteout in an opaque directory goes", layer: es(h(reg, "etc/.wh..wh..opq", "", ""), h(reg, "etc/.wh.file", "", "")),
			check: `test ! -e etc/file`},
		{name: "nothing below of that name", layer: es(h(reg, "new/x", "", "1")), check: `test "$(stat -c '%a %Y' new)" = "755 0"`, same: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			low := t.TempDir()
			sh(t, low, base)
			stack, err := snapshot.OpenStack([]string{low})
			if err != nil {
				t.Fatal(err)
			}
			defer stack.Close()
			dir, res := apply(t, bytes.NewReader(tarOf(t, row.layer...)))
			if res.Needs == 0 {
				t.Fatal("the layer claims to stand alone")
			}
			s, err := PlanSettlement(dir, stack)
			if err == nil {
				err = s.Execute(dir, stack)
			}
			if row.fails != "" {
				if err == nil || !strings.Contains(err.Error(), row.fails) {
					t.Errorf("error %v, want one about %q", err, row.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// The root itself always takes the attributes of the one below.
			if got := len(s.actions) == 1 && s.actions[0].Path == "."; got != row.same {
				t.Errorf("actions %+v", s.actions)
			}
			sh(t, filepath.Join(dir, "fs"), "set -e; "+row.check)
			again, err := PlanSettlement(dir, stack)
			if err != nil || again.Digest() != s.Digest() {
				t.Errorf("planned again, the settlement is another: %v", err)
			}
			checkIndex(t, dir)
		})
	}
}
