package layer

import (
	"archive/tar"
	"context"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// opened opens the layers unpacked at dirs.
func opened(t testing.TB, dirs []string) (trees []*Tree) {
	t.Helper()
	for _, dir := range dirs {
		x, err := OpenTree(dir, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { x.Close() })
		trees = append(trees, x)
	}
	return trees
}

func treesOf(t testing.TB, dirs []string) *diff.Stack {
	t.Helper()
	var layers []diff.Layer
	for _, x := range opened(t, dirs) {
		layers = append(layers, x)
	}
	return diff.NewStack(layers...)
}

func TestConflicts(t *testing.T) {
	const reg, hard, dir, link = tar.TypeReg, tar.TypeLink, tar.TypeDir, tar.TypeSymlink
	mode := func(name string, mode int64) func(*tar.Writer) error {
		return func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Typeflag: dir, Name: name, Mode: mode, Format: tar.FormatPAX})
		}
	}
	type layer = []func(*tar.Writer) error
	old := es(h(dir, "etc", "", ""), h(reg, "etc/a", "", "a"), h(reg, "etc/b", "", "b"), h(dir, "d", "", ""), h(reg, "d/x", "", "x"), h(dir, "d/s", "", ""), h(link, "lib", "d", ""))
	for _, row := range []struct {
		name  string
		next  layer   // what the new base has, over what the old one has
		moved []layer // over the old base
		want  string
	}{
		{"nothing is touched", es(h(reg, "etc/a", "", "A"), h(reg, "new", "", "")), []layer{es(h(reg, "app/x", "", "1"), h(reg, "etc/app", "", "1"))}, ""},
		{"a file that is changed in both", es(h(reg, "etc/a", "", "A")), []layer{es(h(reg, "etc/a", "", "mine"))}, "/etc/a: it is changed, and in the new base it differs: content"},
		{"to the same", es(h(reg, "etc/a", "", "A")), []layer{es(h(reg, "etc/a", "", "A"))}, ""},
		{"a file that is gone", es(h(reg, "etc/.wh.a", "", "")), []layer{es(h(reg, "etc/a", "", "mine"))}, "/etc/a: it is changed, and only the old base has it"},
		{"a file that came", es(h(reg, "etc/c", "", "C")), []layer{es(h(reg, "etc/c", "", "mine"))}, "/etc/c: it is added, and only the new base has it"},
		{"a whiteout of what differs", es(h(reg, "etc/a", "", "A")), []layer{es(h(reg, "etc/.wh.a", "", ""))}, "/etc/a: it is deleted, and in the new base it differs: content"},
		{"a whiteout of nothing", es(h(reg, "etc/.wh.a", "", "")), []layer{es(h(reg, "etc/.wh.a", "", ""))}, "/etc/a: it is deleted, and only the old base has it"},
		{"a whiteout of what the layers brought", es(h(reg, "etc/c", "", "C")), []layer{es(h(reg, "etc/c", "", "mine")), es(h(reg, "etc/.wh.c", "", ""))}, "/etc/c: it was added and deleted again, and only the new base has it"},
		{"a directory that is deleted", es(h(reg, "d/y", "", "y")), []layer{es(h(reg, ".wh.d", "", ""))}, "/d/y: it is hidden with /d, and only the new base has it"},
		{"a directory that is replaced", es(h(reg, "d/x", "", "X")), []layer{es(h(reg, ".wh.d", "", ""), h(dir, "d", "", ""), h(dir, "d/s", "", ""))}, "/d/x: it is hidden with /d, and in the new base it differs: content"},
		{"a directory that is not there", es(h(reg, ".wh.d", "", "")), []layer{es(h(reg, "d/s/new", "", ""))}, "/d: something in it is changed, and only the old base has it; /d/s: something in it is changed, and only the old base has it"},
		{"a directory that is a link", es(h(reg, ".wh.d", "", ""), h(link, "d", "etc", "")), []layer{es(h(reg, "d/new", "", ""))}, "/d: something in it is changed, and in the new base it differs: type"},
		{"a directory that has another mode, and is not brought", es(mode("etc", 0o700)), []layer{es(h(reg, "etc/new", "", ""))}, ""},
		{"and is brought", es(mode("etc", 0o700)), []layer{es(h(dir, "etc", "", ""), h(reg, "etc/new", "", ""))}, "/etc: it is brought as the old base has it, and in the new base it differs: mode"},
		{"and is brought as the new one", es(mode("etc", 0o700)), []layer{es(mode("etc", 0o700), h(reg, "etc/new", "", ""))}, ""},
		{"a new directory that both have", es(h(dir, "n", "", ""), h(reg, "n/1", "", "")), []layer{es(h(dir, "n", "", ""), h(reg, "n/2", "", ""))}, ""},
		{"with another mode", es(mode("n", 0o700)), []layer{es(h(dir, "n", "", ""), h(reg, "n/2", "", ""))}, "/n: it is added, and only the new base has it"},
		{"a hard link between files of the layers", es(h(reg, "etc/a", "", "A"), h(reg, "m", "", "2")), []layer{es(h(reg, "z", "", "1"), h(hard, "m", "z", ""))}, "/m: it is added, and only the new base has it"},
		{"names beside a directory", es(h(reg, "d-", "", "1"), h(reg, "d.", "", "2")), []layer{es(h(reg, ".wh.d", "", ""))}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			put := func(dirs []string, l layer) []string {
				d, err := over(t, dirs, tarOf(t, l...))
				if err != nil {
					t.Fatal(err)
				}
				return append(dirs[:len(dirs):len(dirs)], d)
			}
			base := put(nil, old)
			next, all := put(base, row.next), base
			var taken []map[string]bool
			for _, l := range row.moved {
				below := stackOf(t, all)
				all = put(all, l)
				plan, err := PlanSettlement(all[len(all)-1], below)
				if err != nil {
					t.Fatal(err)
				}
				from, err := plan.Taken(all[len(all)-1])
				if err != nil {
					t.Fatal(err)
				}
				taken = append(taken, from)
			}
			var got []string
			for c, err := range Conflicts(context.Background(), opened(t, all[1:]), taken, treesOf(t, base), treesOf(t, next)) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, c.Path+": "+c.Why)
			}
			if got := strings.Join(got, "; "); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

// What of two settlements differs is what the layer itself does, and not the attributes that directories take from below.
func TestSettlementDiffers(t *testing.T) {
	const reg, hard, dir, link = tar.TypeReg, tar.TypeLink, tar.TypeDir, tar.TypeSymlink
	base := func(entries ...func(*tar.Writer) error) []string {
		d, _ := over(t, nil, tarOf(t, entries...))
		return []string{d}
	}
	one := base(h(dir, "usr", "", ""), h(link, "lib", "usr", ""), h(reg, "f", "", "1"), h(reg, "g", "", "g"))
	packed := tarOf(t, h(reg, "lib/x", "", ""), h(hard, "h", "f", ""), h(reg, ".wh.g", "", ""))
	layer, err := over(t, one, packed)
	if err != nil {
		t.Fatal(err)
	}
	plan := func(below []string) *Settlement {
		p, err := PlanSettlement(layer, stackOf(t, below))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, row := range []struct {
		below []string
		want  string
	}{
		{one, ""},
		{base(h(dir, "usr", "", ""), h(reg, "usr/more", "", ""), h(link, "lib", "usr", ""), h(reg, "f", "", "1"), h(reg, "g", "", "g")), ""},
		{base(h(dir, "usr", "", ""), h(link, "lib", "usr", ""), h(reg, "f", "", "2"), h(reg, "g", "", "g")), "/h"},
		{base(h(dir, "usr", "", ""), h(link, "lib", "usr", ""), h(reg, "f", "", "1")), "/g"},
		{base(h(dir, "usr", "", ""), h(dir, "lib", "", ""), h(reg, "f", "", "1"), h(reg, "g", "", "g")), "/lib"},
	} {
		if got := strings.Join(plan(one).Differs(plan(row.below)), " "); got != row.want {
			t.Errorf("got %s, want %s", got, row.want)
		}
	}
}
