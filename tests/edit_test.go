package tests

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd true --config.env A=1 --config.user root", busyboxLayer, "echo 2 > srv/two")
	e := newEnv(t)
	e.ok("pull", "-q", reg.addr+"/app")
	trees, before := list(filepath.Join(e.root, "snapshots/trees")), e.ok("inspect", reg.addr+"/app")
	blobs := len(list(filepath.Join(e.root, "images/blobs/sha256")))
	id := e.ok("config", "--change", "ENV A=2 B='two words'", "-c", `CMD ["sh","-c","echo $A $B $PWD; cat two"]`, "-c", "WORKDIR /srv", reg.addr+"/app", "app:new")
	if got := e.ok("images", "-q", "--no-trunc", "app"); got != id {
		t.Errorf("config printed %q, images says %q", id, got)
	}
	if got := e.ok("run", "--rm", "app:new"); got != "2 two words /srv\n2\n" {
		t.Errorf("it runs as %q", got)
	}
	if got := list(filepath.Join(e.root, "snapshots/trees")); len(got) != len(trees) {
		t.Errorf("trees %q, before %q", got, trees)
	}
	if got := len(list(filepath.Join(e.root, "images/blobs/sha256"))); got != blobs+1 {
		t.Errorf("%d blobs, before %d: want one more, the config", got, blobs)
	}
	if got := e.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}|{{.Size}}", "app:new"); !strings.HasPrefix(got,
		"WORKDIR /srv|layerctl config|0B\nCMD [\"sh\",\"-c\",\"echo $A $B $PWD; cat two\"]|layerctl config|0B\nENV A=2 B='two words'|layerctl config|0B\n") {
		t.Errorf("history: %s", got)
	}
	if got := e.ok("inspect", reg.addr+"/app"); got != before {
		t.Errorf("the image itself changed: %s", got)
	}
	// What it shares stays when the other goes, and can be saved and read elsewhere.
	e.ok("rmi", reg.addr+"/app")
	e.ok("save", "-o", "app.tar", "app:new")
	e.ok("check", "--full")
	other := newEnv(t)
	other.ok("load", "-i", filepath.Join(e.dir, "app.tar"))
	if got := other.ok("images", "-q", "--no-trunc"); got != id {
		t.Errorf("loaded as %s, want %s", got, id)
	}
	e.ok("config", "-c", "CMD id -u", "app:new", "app:new")
	if got := e.ok("run", "--rm", "app:new"); got != "0\n" || strings.Count(e.ok("images", "-q", "app"), "\n") != 1 {
		t.Errorf("under the old name it runs as %q; images: %s", got, e.ok("images"))
	}
	e.fails(2, []string{"config: nothing to change"}, "config", "app:new", "x")
	e.fails(2, []string{"config: want an image and a new name"}, "config", "-c", "CMD x", "app:new")
	e.fails(1, []string{"config nothing: ", "no such image"}, "config", "-c", "CMD x", "nothing", "x")
	e.fails(1, []string{`config app:new: --change "RUN x"`, "RUN is none of"}, "config", "-c", "RUN x", "app:new", "x")
	e.fails(1, []string{"lower case"}, "config", "-c", "CMD x", "app:new", "X")
}
