package tests

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd true --config.env A=1 --config.user root", busyboxLayer, "mkdir srv; echo 2 > srv/two")
	e := newEnv(t)
	e.ok("pull", "-q", reg.addr+"/app")
	trees, before := list(filepath.Join(e.root, "snapshots/trees")), e.ok("inspect", reg.addr+"/app")
	blobs := len(list(filepath.Join(e.root, "images/blobs/sha256")))
	id := e.ok("config", "--change", "ENV A=2 B='two words'", "-c", `CMD ["sh","-c","echo $A $B $PWD; cat two"]`, "-c", "WORKDIR /srv", reg.addr+"/app", "app:new")
	if got := e.ok("images", "-q", "--no-trunc", "app"); got != id {
		t.Errorf("config printed %q, images says %q", id, got)
	}
	if got := list(filepath.Join(e.root, "snapshots/trees")); len(got) != len(trees) {
		t.Errorf("trees %q, before %q", got, trees)
	}
	if got := e.ok("run", "--rm", "app:new"); got != "2 two words /srv\n2\n" {
		t.Errorf("it runs as %q", got)
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

func TestSquash(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd true", busyboxLayer+"; mkdir -m 1777 tmp; mkdir d; echo 1 > d/1", "rm -rf *; mkdir etc d; echo changed > etc/one; touch etc/.wh.two; echo 2 > d/2; head -c 3000000 /dev/urandom > big",
		"touch .wh.big; mkdir tmp d; echo x > tmp/x; touch d/.wh..wh..opq; echo 3 > d/3")
	e := newEnv(t)
	app := reg.addr + "/app"
	e.ok("pull", "-q", app)
	const look = "cd /; find . -xdev | sort | grep -v -e /proc -e /sys -e /dev; cat etc/one d/* tmp/x; stat -c '%n %a %u %Y' tmp etc d"
	want := e.ok("run", "--rm", app, "busybox", "sh", "-c", look)
	if !strings.Contains(want, "changed\n3\nx\n") {
		t.Fatalf("the image shows %s", want)
	}
	for from, layers := range map[string]int{"1": 1, "2": 2, "3": 3} {
		name := "flat:" + from
		id := e.ok("squash", "--from", from, app, name)
		if got := e.ok("run", "--rm", name, "busybox", "sh", "-c", look); got != want {
			t.Errorf("squashed from %s it shows\n%swant\n%s", from, got, want)
		}
		var img []struct {
			RootFS      struct{ Layers []string }
			LayerDetail []struct{ Digest string }
		}
		fromJSON(t, e.ok("inspect", name), &img)
		if got := len(img[0].RootFS.Layers); got != layers {
			t.Errorf("squashed from %s it has %d layers", from, got)
		}
		// It goes to others, and comes back, as any image does.
		e.ok("save", "--format", "oci-archive", "-o", from+".tar", name)
		other := newEnv(t)
		other.ok("load", "-i", filepath.Join(e.dir, from+".tar"))
		if got := other.ok("images", "-q", "--no-trunc"); got != id {
			t.Errorf("loaded as %s, want %s", got, id)
		}
		if got := other.ok("run", "--rm", name, "busybox", "sh", "-c", look); got != want {
			t.Errorf("loaded it shows\n%swant\n%s", got, want)
		}
	}
	if got := sh(t, e.dir, "tar -xOf 1.tar --wildcards 'blobs/sha256/*' | wc -c"); len(strings.TrimSpace(got)) > 7 || strings.TrimSpace(got) > "3000000" {
		t.Errorf("%s bytes are left of an image without its big file", got)
	}
	if got := e.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}", "flat:2"); !strings.HasPrefix(got, "layerctl squash|") || strings.Count(got, "|0B") != 3 {
		t.Errorf("history: %s", got)
	}
	e.ok("rmi", app)
	e.ok("check", "--full")
	e.fails(2, []string{"--from 0: layers are counted from 1"}, "squash", "--from", "0", "flat:1", "x")
	e.fails(1, []string{"squash flat:1: there is no layer 2: it has 1"}, "squash", "--from", "2", "flat:1", "x")
	e.fails(1, []string{"no such image"}, "squash", "nothing", "x")
	// A damaged tree makes no layer.
	sh(t, e.root, "f=$(grep -lx 3 -r snapshots/trees/*/fs/d/3 | tail -n1); echo 4 > $f")
	e.fails(1, []string{"d/3", "is damaged", "hint: "}, "squash", "flat:3", "x")
	if got := list(filepath.Join(e.root, "snapshots/staging")); len(got) > 0 {
		t.Errorf("staging holds %q", got)
	}
}
