package image

import (
	"fmt"
	"testing"
	"time"

	"github.com/layerctl/layerctl/snapshot"
)

// The plan is a function of what was seen.
func TestPlan(t *testing.T) {
	old, young := time.Unix(1000, 0), time.Unix(2000, 0)
	v := &Survey{
		Images: []SurveyedImage{
			{ID: "base", Chain: "sha256:a", Names: []string{"base:1"}, Created: old, Blobs: []string{"cfg-base", "layer-a"}},
			{ID: "app", Chain: "sha256:ab", Names: []string{"app:1", "app:2"}, Created: young, Blobs: []string{"cfg-app", "layer-a", "layer-b"}},
			{ID: "dangling", Chain: "sha256:ac", Created: young, Blobs: []string{"cfg-dangling", "layer-a", "layer-c"}},
			{ID: "twin", Chain: "sha256:ab", Created: old, Blobs: []string{"cfg-twin", "layer-b2"}},
		},
		Leftovers: []snapshot.Item{{Name: "download x", Held: true}, {Name: "download y"}},
		Snapshots: &snapshot.Survey{
			Committed: map[string]snapshot.Committed{
				"sha256:a": {Tree: "1"}, "sha256:ab": {Parent: "sha256:a", Tree: "2"}, "sha256:ac": {Parent: "sha256:a", Tree: "3"},
			},
			Trees:   []snapshot.Item{{Name: "1"}, {Name: "2"}, {Name: "3"}},
			Actives: []snapshot.Active{{Item: snapshot.Item{Path: "/1"}, Key: "container/1", Parent: "sha256:ab"}},
		},
	}
	for _, b := range []string{"cfg-base", "cfg-app", "cfg-dangling", "cfg-twin", "layer-a", "layer-b", "layer-b2", "layer-c", "orphan", "fetched"} {
		v.Blobs = append(v.Blobs, snapshot.Item{Name: b, Held: b == "fetched"})
	}
	from := func(id string) func(string) string { return func(string) string { return id } }
	gone := func(string) bool { return true }
	for _, row := range []struct {
		what                string
		o                   PruneOptions
		images, blobs, snap string
	}{
		{"nobody knows what the container was made of, so its chain counts", PruneOptions{}, "[dangling]",
			"[blob cfg-dangling blob layer-c blob orphan]", "[sha256:ac]"},
		{"it was made of app", PruneOptions{Made: from("app")}, "[dangling twin]",
			"[blob cfg-dangling blob cfg-twin blob layer-b2 blob layer-c blob orphan]", "[sha256:ac]"},
		{"it was made of twin", PruneOptions{Made: from("twin"), All: true}, "[base app dangling]",
			"[blob cfg-base blob cfg-app blob cfg-dangling blob layer-a blob layer-b blob layer-c blob orphan]", "[sha256:ac]"},
		{"only old ones", PruneOptions{Made: from("app"), All: true, Match: func(c time.Time, _ map[string]string) bool { return c == old }}, "[base twin]",
			"[blob cfg-base blob cfg-twin blob layer-b2 blob orphan]", "[]"},
		{"the container goes first", PruneOptions{All: true, Leaving: gone}, "[base app dangling twin]",
			"[blob cfg-base blob cfg-app blob cfg-dangling blob cfg-twin blob layer-a blob layer-b blob layer-b2 blob layer-c blob orphan]",
			"[sha256:ab sha256:ac sha256:a]"},
	} {
		p := v.Plan(row.o)
		images, blobs := []string{}, []string{}
		for _, i := range p.Images {
			images = append(images, i.ID)
		}
		for _, b := range p.Blobs {
			blobs = append(blobs, b.Name)
		}
		if got := fmt.Sprint(images); got != row.images {
			t.Errorf("%s: images %s, want %s", row.what, got, row.images)
		}
		if got := fmt.Sprint(blobs); got != row.blobs {
			t.Errorf("%s: blobs %s, want %s", row.what, got, row.blobs)
		}
		if got := fmt.Sprint(p.Snapshots.Chains); got != row.snap {
			t.Errorf("%s: snapshots %s, want %s", row.what, got, row.snap)
		}
		if len(p.Leftovers) != 1 || p.Leftovers[0].Name != "download y" {
			t.Errorf("%s: leftovers %v", row.what, p.Leftovers)
		}
	}
}
