package snapshot

import (
	"fmt"
	"os"
	"testing"
)

// The plan is a function of what was seen.
func TestPlan(t *testing.T) {
	v := &Survey{
		Committed: map[string]Committed{
			"sha256:a":  {Tree: "1"},
			"sha256:ab": {Parent: "sha256:a", Tree: "2"},
			"sha256:ac": {Parent: "sha256:a", Tree: "3"},
			"sha256:d":  {Tree: "4"},
			"sha256:de": {Parent: "sha256:d", Tree: "2"},
			"k8s/1/x":   {Parent: "sha256:d", Tree: "5"}, // somebody else's
		},
		Actives: []Active{
			{Item: Item{Name: "snapshot 1"}, Key: "container/1", Parent: "sha256:ac"},
			{Item: Item{Name: "snapshot 2", Size: 10}},
			{Item: Item{Name: "snapshot 3", Size: 20, Held: true}},
		},
		Leftovers: []Item{{Name: "staging x", Held: true}, {Name: "staging y"}, {Name: "trash z"}},
	}
	for i := 1; i <= 7; i++ {
		v.Trees = append(v.Trees, Item{Name: fmt.Sprint(i), Held: i == 7})
	}
	for _, row := range []struct{ wanted, leaving, chains, items string }{
		{"sha256:ab", "", "[sha256:de]", "[snapshot 2 layer 6 staging y trash z]"},
		{"", "", "[sha256:ab sha256:de]", "[snapshot 2 layer 2 layer 6 staging y trash z]"},
		{"", "container/1", "[sha256:ab sha256:ac sha256:de sha256:a]", "[snapshot 2 layer 1 layer 2 layer 3 layer 6 staging y trash z]"},
		{"sha256:de", "container/1", "[sha256:ab sha256:ac sha256:a]", "[snapshot 2 layer 1 layer 3 layer 6 staging y trash z]"},
	} {
		p := v.Plan(func(name string) bool { return name == row.wanted }, func(key string) bool { return key == row.leaving })
		var items []string
		for _, i := range p.Items {
			items = append(items, i.Name)
		}
		if got := fmt.Sprint(p.Chains); got != row.chains {
			t.Errorf("wanted %q, leaving %q: chains %s, want %s", row.wanted, row.leaving, got, row.chains)
		}
		if got := fmt.Sprint(items); got != row.items {
			t.Errorf("wanted %q, leaving %q: items %s, want %s", row.wanted, row.leaving, got, row.items)
		}
	}
}

// A plan is carried out as far as it is true still.
func TestRemovePlanned(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "sha256:a", "", map[string]string{"a": "a0"})
	addLayer(t, s, "sha256:ab", "sha256:a", map[string]string{"b": "b0"})
	addLayer(t, s, "sha256:c", "", map[string]string{"c": "c0"})
	addLayer(t, s, "sha256:d", "", map[string]string{"d": "d0"})
	v, err := s.Survey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := v.Plan(never, never)
	if fmt.Sprint(p.Chains) != "[sha256:ab sha256:c sha256:d sha256:a]" || len(p.Items) != 4 {
		t.Fatalf("%+v", p)
	}
	if err := s.Create(ctx, "c", "sha256:a"); err != nil { // meanwhile
		t.Fatal(err)
	}
	removed, err := s.RemovePlanned(p, func(name string) bool { return name == "sha256:d" })
	if err != nil || fmt.Sprint(removed) != "[sha256:ab sha256:c]" {
		t.Errorf("%q, %v", removed, err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirNames(s.path("trees")); len(names) != 2 {
		t.Errorf("trees: %q", names)
	}
}

// A tree is measured once, and again when its number is another tree's.
func TestSurveyKeepsSizes(t *testing.T) {
	s := newStore(t)
	addLayer(t, s, "sha256:a", "", map[string]string{"a": "a0"})
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		t.Helper()
		v, err := s.Survey(ctx)
		if err != nil || len(v.Trees) != 1 {
			t.Fatal(v, err)
		}
		return v.Trees[0].Size
	}
	first := size()
	if want, err := DiskUsage(ctx, s.path("trees/1")); err != nil || first != want || want == 0 {
		t.Errorf("size %d, want %d, %v", first, want, err)
	}
	if err := os.WriteFile(s.path("trees/1/fs/more"), make([]byte, 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	if size() != first {
		t.Error("the tree was measured again")
	}
	if err := os.Rename(s.path("trees/1"), s.path("trees/x")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(s.path("trees/1"), os.DirFS(s.path("trees/x"))); err != nil {
		t.Fatal(err)
	}
	if size() <= first {
		t.Error("another tree of that number was not measured")
	}
}

func TestParseMountPoints(t *testing.T) {
	info := "22 1 0:20 / / rw - ext4 x rw\n23 22 0:21 / /store rw - ext4 x rw\n24 23 0:22 /a /store/a\\040b rw shared:1 - ext4 x rw\n\n25 23 0:22 / /storehouse rw - ext4 x rw\nshort\n"
	if got := fmt.Sprintf("%q", parseMountPoints(info, "/store")); got != `["/store/a b"]` {
		t.Error(got)
	}
}
