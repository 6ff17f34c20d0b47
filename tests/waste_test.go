package tests

import (
	"encoding/json"
	"strings"
	"testing"
)

// What docs/waste.md does not show: what is refused, what CI sees, and names that would write to a terminal.
func TestWaste(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, `mkdir -p tree/tmp tree/etc; echo content >tree/etc/passwd; printf x >"tree/tmp/$(printf 'a\033]0;owned\007b')"`)
	e.ok("import", e.dir+"/tree", "app")
	out := e.ok("waste", "app")
	if !strings.Contains(out, "Efficiency 88.9%: of 9B in 1 layer, 1B are wasted.") || !strings.Contains(out, "temporary files, in layer 1") {
		t.Errorf("got %s", out)
	}
	var r struct {
		WastedBytes int64
		Kinds       map[string]int64
		Items       []struct{ Path string }
	}
	if err := json.Unmarshal([]byte(e.ok("waste", "--format", "json", "app")), &r); err != nil || r.WastedBytes != 1 || r.Kinds["cached"] != 1 || len(r.Items) != 1 || r.Items[0].Path != "/tmp/" {
		t.Errorf("%+v, %v", r, err)
	}
	e.ok("waste", "--fail-over", "11.2", "app")
	e.fails(1, []string{"waste: 1B of 9B are wasted, 11.1%: more than the 11% of --fail-over", "hint: "}, "waste", "--fail-over", "11%", "app")
	e.fails(2, []string{"want a number from 0 to 100"}, "waste", "--fail-over", "101", "app")
	e.fails(2, []string{"want one image"}, "waste")
	e.fails(1, []string{"waste: ", "nothere: no such image"}, "waste", "nothere")

	// A name in a layer of its own, so that it is shown.
	sh(t, e.dir, `mkdir two; cp -r tree two/tree; printf '%s' "$(printf 'x\033[31m\302\233')" >two/n; mkdir 1 2; printf longer >"1/$(cat two/n)"; printf other >"2/$(cat two/n)"
for i in 1 2; do tar -C $i -cf $i.tar .; done
jq -n --arg ids "$(sha256sum [12].tar | cut -d' ' -f1)" '{architecture: "amd64", os: "linux", history: [{created_by: "RUN \u001b[1mevil\u001b[0m"}], rootfs: {type: "layers", diff_ids: [$ids | split("\n")[] | "sha256:" + .]}}' >config.json
jq -n '[{Config: "config.json", RepoTags: ["hostile:1"], Layers: ["1.tar", "2.tar"]}]' >manifest.json
tar -cf hostile.tar config.json manifest.json 1.tar 2.tar`)
	e.ok("load", "-q", "-i", e.dir+"/hostile.tar")
	out = e.ok("waste", "hostile:1")
	if strings.ContainsAny(out, "\x1b\u009b") || !strings.Contains(out, `/x\x1b[31m\x9b`) || !strings.Contains(out, `RUN \x1b[1mevil`) {
		t.Errorf("got %q", out)
	}
}
