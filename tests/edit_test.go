package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	// A damaged index is made again.
	before := e.ok("squash", "--from", "2", "flat:3", "before")
	sh(t, e.root, "for i in snapshots/trees/*/index; do printf xxxx | dd of=$i bs=1 seek=40 conv=notrunc status=none; done")
	if after := e.ok("squash", "--from", "2", "flat:3", "after"); diffID(e, "after") != diffID(e, "before") {
		t.Errorf("with damaged indexes it made %s, before %s", after, before)
	}
	e.run("check", "--full", "--repair") // those that nobody asked for
	e.ok("check", "--full")
	// A damaged tree makes no layer.
	sh(t, e.root, "for f in snapshots/trees/*/fs/d/3; do echo 4 > $f; done")
	e.fails(1, []string{"d/3", "is damaged", "hint: "}, "squash", "flat:3", "x")
	if got := list(filepath.Join(e.root, "snapshots/staging")); len(got) > 0 {
		t.Errorf("staging holds %q", got)
	}
}

func TestRebase(t *testing.T) {
	reg := startRegistry(t, "")
	const etc = "; mkdir -p -m 1777 tmp; echo conf > etc/conf"
	reg.push("base", "--dest-compress-format=gzip", "--config.cmd true --config.env A=base --config.env PATH=/bin --config.user root --config.label v=1", busyboxLayer+etc)
	reg.push("next", "", "--config.cmd true --config.env A=next --config.env PATH=/bin:/usr/bin --config.user root --config.label v=2", busyboxLayer+etc+"; echo new > etc/new; mkdir -p usr/bin; chown 7:8 srv; mv etc/conf etc/conf.d; echo conf > etc/conf", "mkdir more; echo 2 > more/2")
	reg.push("clash", "", "--config.cmd true", busyboxLayer+etc+"; echo other > etc/one; echo theirs > srv/app; chmod 700 etc")
	e := newEnv(t)
	base, next, clash := reg.addr+"/base", reg.addr+"/next", reg.addr+"/clash"
	// The application leans on its base: a parent that it does not bring, and a whiteout.
	reg.pushOn("base", "app", "--config.env MINE=1 --config.label mine=1 --config.cmd cat --config.cmd /srv/app",
		"mkdir -p l/srv l/etc; echo app > l/srv/app; echo changed > l/etc/one; touch l/etc/.wh.two; tar -C l -cf l.tar srv/app etc/one etc/.wh.two")
	app := reg.addr + "/app"
	for _, image := range []string{base, next, clash, app} {
		e.ok("pull", "-q", image)
	}
	id := e.ok("rebase", "--onto", next, app, "app:next")
	if got := e.ok("images", "-q", "--no-trunc", "app"); got != id {
		t.Errorf("rebase printed %q, images says %q", id, got)
	}
	if got := e.ok("run", "--rm", "app:next"); got != "app\n" {
		t.Errorf("it runs as %q", got)
	}
	if got := e.ok("run", "--rm", "app:next", "busybox", "sh", "-c", "echo $A $MINE $PATH; cat etc/one etc/new more/2; ls etc/two; stat -c %u:%g srv; ls -d tmp"); got != "next 1 /bin:/usr/bin\nchanged\nnew\n2\n7:8\ntmp\n" {
		t.Errorf("it shows %q", got)
	}
	if got := e.ok("inspect", "--format", "{{json .Config.Labels}}", "app:next"); got != `{"mine":"1","v":"2"}`+"\n" {
		t.Errorf("its labels are %s", got)
	}
	if got := strings.Count(e.ok("history", "--format", "{{.CreatedBy}}", "app:next"), "\n"); got != strings.Count(e.ok("history", "--format", "x", next), "\n")+2 {
		t.Errorf("it has %d steps: %s", got, e.ok("history", "app:next"))
	}
	// Back on the old base it is the same image again, but for its time.
	e.ok("rebase", "--base", next, "--onto", base, "app:next", "app:back")
	if a, b := e.ok("inspect", "--format", "{{.RootFS.Layers}} {{json .Config}}", app), e.ok("inspect", "--format", "{{.RootFS.Layers}} {{json .Config}}", "app:back"); sortedJSON(t, a) != sortedJSON(t, b) {
		t.Errorf("there and back it is\n%s, and was\n%s", b, a)
	}
	if r := e.run("rebase", "--onto", clash, app, "app:clash"); r.code != 1 || r.stdout != "/etc/one: it is changed, and in the new base it differs: content, size\n/srv/app: it is added, and only the new base has it\n" ||
		!strings.Contains(r.stderr, "would not change the same in "+clash+" as in ") || !errorForm.MatchString(r.stderr) {
		t.Errorf("a clash: %+v", r)
	}
	e.fails(1, []string{"no such image"}, "inspect", "app:clash")
	e.fails(2, []string{"--onto NEWBASE is missing"}, "rebase", app, "x")
	e.fails(2, []string{"the old base cannot be told: no image here", "hint: say which image"}, "rebase", "--onto", next, clash, "x")
	e.fails(1, []string{"it is not made on "}, "rebase", "--onto", next, "--base", clash, app, "x")
	// With another image that it may be made on the user is asked.
	e.ok("config", "-c", "ENV MORE=1", base, "between")
	e.ok("config", "-c", "ENV MINE=1", app, "derived")
	e.fails(2, []string{"the old base cannot be told: it could be", "(1 of its layers)", "(2 of its layers)"}, "rebase", "--onto", next, "derived", "x")
	e.ok("rmi", app, base)
	e.ok("check", "--full")
}

// sortedJSON is what was printed, with the variables of the environment in order.
func sortedJSON(t *testing.T, s string) string {
	t.Helper()
	layers, raw, _ := strings.Cut(s, " {")
	var c struct {
		Env    []string
		Labels map[string]string
		Cmd    []string
		User   string
	}
	fromJSON(t, "{"+raw, &c)
	slices.Sort(c.Env)
	return fmt.Sprint(layers, c)
}

// pushOn puts an image into the registry that is another one with a layer more: what the script packs as l.tar.
func (r *registry) pushOn(base, name, configure, layer string) {
	r.t.Helper()
	dir, err := os.MkdirTemp(scratch, "image.")
	if err != nil {
		r.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sh(r.t, dir, "umoci init --layout img; skopeo copy -q --src-tls-verify=false docker://"+r.addr+"/"+base+" oci:img:t\n"+layer+
		"\numoci raw add-layer --image img:t l.tar; umoci config --image img:t "+configure+
		"; skopeo copy -q --dest-tls-verify=false oci:img:t docker://"+r.addr+"/"+name)
}

// What completes is what the line of use of a command says of its arguments.
func TestCompletion(t *testing.T) {
	e := withBusybox(t)
	e.ok("tag", "busybox", "registry.example/app:v1")
	e.ok("run", "--name", "one", "busybox", "true")
	mkdir := filepath.Join(e.dir, "odd")
	sh(t, e.dir, `mkdir -p odd/dir/sub; touch odd/dir/file "$(printf 'odd/dir/bad\033[31m')"`)
	e.ok("import", mkdir, "odd")
	id := strings.TrimSpace(e.ok("images", "-q", "odd"))
	for args, want := range map[string]string{
		"rmi b":                        "busybox",
		"rmi busybox r":                "registry.example/app:v1",
		"rmi registry.example/app:":    "registry.example/app:v1",
		"rmi " + id[:5]:                id,
		"history busybox b":            "",
		"rm o":                         "one",
		"inspect o":                    "odd one",
		"config --change x b":          "busybox",
		"rebase --onto bu":             "busybox",
		"run b":                        "busybox",
		"run odd /d":                   "/dir/",
		"run odd /dir/":                "/dir/file /dir/sub/",
		"run odd /../..//dir/../dir/f": "",
		"run --na":                     "--name",
		"cp o":                         "odd: one:",
		"cp busybox:/etc/on":           "busybox:/etc/one",
		"cp x o":                       "one:",
		"cp x one:/etc/s":              "one:/etc/sub/",
		"mount o":                      "odd one",
		"diff busybox o":               "odd one",
		"diff odd#":                    "odd#1",
		"cp odd:/dir/":                 "odd:/dir/file odd:/dir/sub/",
		"blame odd /dir/s":             "/dir/sub/",
	} {
		var got []string
		for _, line := range strings.Split(e.ok(append([]string{"__completeNoDesc"}, strings.Split(args, " ")...)...), "\n") {
			if line != "" && line[0] != ':' {
				got = append(got, line)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s completes to %q, want %s", args, got, want)
		}
	}
	// Asking for what a store has makes none.
	e.ok("--root", filepath.Join(e.dir, "none"), "__complete", "rmi", "")
	if exists(filepath.Join(e.dir, "none")) {
		t.Error("completion made a store")
	}
}
