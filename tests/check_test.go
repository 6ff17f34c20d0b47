package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leaningLayer is a layer that does not stand alone over busyboxLayer: a parent it does not bring, a whiteout, an opaque directory, and a
// hard link to a file below would not survive tar, so the last is made by hand where it is wanted.
const leaningLayer = `mkdir -p srv/deep; echo more > srv/deep/more; mkdir -p etc; touch etc/.wh.two; mkdir -p opt; touch opt/.wh..wh..opq; echo o > opt/o`

// richStore has an image of three layers from a registry (gzip), another one that shares two of them (zstd), imported ones, tags, and a
// stopped container on the first.
func richStore(t *testing.T) (*env, *registry) {
	t.Helper()
	reg := startRegistry(t, "")
	e := newEnv(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000") // every run has the same blobs
	script := ""
	for name, layer := range map[string]string{"base": busyboxLayer, "lean": leaningLayer, "new": "echo different > different; seq 1 3000 > more",
		"data": "mkdir -p data; seq 1 3000 > data/numbers; ln data/numbers data/same; ln -s numbers data/link; chmod 1777 data"} {
		script += "mkdir " + name + "; (cd " + name + "; " + layer + "\n); tar -C " + name + " --sort=name --mtime=@1700000000 -cf " + name + ".tar .\n"
	}
	for name, layers := range map[string]string{"app": "base lean data", "other": "base lean new"} {
		script += "umoci init --layout " + name + "; umoci new --image " + name + ":1; for l in " + layers + "; do umoci raw add-layer --history.created 2024-01-02T03:04:05Z --image " + name + ":1 $l.tar; done\n" +
			"umoci config --image " + name + ":1 --config.cmd sh --created 2024-01-02T03:04:05Z --history.created 2024-01-02T03:04:05Z\nskopeo copy -q --dest-tls-verify=false $" + name + "_flags oci:" + name + ":1 docker://" + reg.addr + "/" + name + ":1\n"
	}
	sh(t, e.dir, "app_flags=; other_flags='--dest-compress-format zstd'; mkdir images; cd images\n"+script+"rm -rf ../images")
	app := reg.addr + "/app:1"
	e.ok("pull", "-q", app)
	e.ok("pull", "-q", reg.addr+"/other:1")
	e.ok("tag", app, "here:tagged")
	sh(t, e.dir, `mkdir -p small/d && echo one > small/one && echo two > small/d/two && chmod 4755 small/one && setfattr -n user.x -v y small/d && mkfifo small/p
find small -exec touch -h -d 2024-01-02T03:04:05 {} +`)
	e.ok("import", "small")
	e.ok("run", "--name", "stopped", app, "sh", "-c", "echo mine > /mine; echo x >> /etc/one")
	return e, reg
}

func TestCheck(t *testing.T) {
	e, reg := richStore(t)
	for _, flag := range []string{"", "--quick", "--full"} {
		got := e.ok(strings.Fields("check " + flag)...)
		if !strings.HasPrefix(got, "ok: 3 images, 1 containers, 5 layers, ") || strings.Count(got, "\n") != 1 {
			t.Errorf("check %s: %q", flag, got)
		}
	}
	e.fails(2, []string{"--quick and --full"}, "check", "--quick", "--full")
	app := reg.addr + "/app:1"
	var layers struct{ RootFS struct{ Layers []string } }
	if err := json.Unmarshal([]byte(strings.Trim(e.ok("inspect", app), "[]\n ")), &layers); err != nil {
		t.Fatal(err)
	}
	top := layers.RootFS.Layers[2]
	tree := strings.TrimSpace(sh(t, e.root, "dirname $(dirname $(dirname $(ls -d snapshots/trees/*/fs/data/numbers))) | xargs basename"))
	blob := strings.TrimSpace(sh(t, e.root, `cd images/blobs/sha256; ls -S | head -n 1`))
	for _, row := range []struct{ name, damage, level, want string }{
		{"a file of the same size and time", `cd snapshots/trees/` + tree + `/fs/data; touch -r . ../../x; printf 9 | dd of=numbers bs=1 seek=5 conv=notrunc status=none; touch -r ../../x numbers`,
			"--full", "layer " + top + " (tree " + tree + "): /data/numbers: its content is damaged (images " + app + ", localhost/here:tagged; container stopped)"},
		{"a mode", "chmod 755 snapshots/trees/" + tree + "/fs/data", "", "layer " + top + " (tree " + tree + "): /data: mode 0755, was 1777 (images " + app + ", localhost/here:tagged; container stopped)"},
		{"a tree", "rm -r snapshots/trees/" + tree + "/fs", "--quick", "layer " + top + " (tree " + tree + "): /: the tree is not there (images "},
		{"an index", "printf x | dd of=snapshots/trees/" + tree + "/index bs=1 seek=90 conv=notrunc status=none", "--quick", "snapshots/trees/" + tree + "/index of layer " + top + ": is damaged (images "},
		{"a blob's bit", "printf x | dd of=images/blobs/sha256/" + blob + " bs=1 seek=90 conv=notrunc status=none", "", "images/blobs/sha256/" + blob + " of layer " + layers.RootFS.Layers[0] + ": is damaged: its digest is sha256:"},
		{"a blob's end", "truncate -s -1 images/blobs/sha256/" + blob, "--quick", "images/blobs/sha256/" + blob + " of layer " + layers.RootFS.Layers[0] + ": has "},
		{"a blob", "rm images/blobs/sha256/" + blob, "--quick", "images/blobs/sha256/" + blob + " of layer " + layers.RootFS.Layers[0] + ": is missing (images " + app + ", "},
		{"a record", "sed -i s/sh/sx/ images/names/localhost%here:tagged.json", "--quick", "images/names/localhost%here:tagged.json: does not say what the rows say (image localhost/here:tagged)"},
		{"the images' rows", "truncate -s 100 images/meta.db", "--quick", "images/meta.db: page 1, which says where everything is, is damaged (images " + app},
		{"the snapshots' rows", "rm snapshots/meta.db", "--quick", "snapshots/meta.db: is not there (images " + app},
		{"a link to a container", "rm containers/names/stopped", "--quick", "containers/names/stopped: does not lead to its container (container stopped)"},
		{"a container's snapshot", "rm snapshots/active/*/record.json", "--quick", ": its snapshot is not there (container stopped)"},
		{"a container's snapshot, and a prune before anybody looks", "rm snapshots/active/*/record.json; " + binary + " --root . --run-root ../run image prune -f >/dev/null", "--quick", ": its snapshot is not there (container stopped)"},
		{"a container's record", "printf x | dd of=$(echo containers/*/config.json) bs=1 seek=30 conv=notrunc status=none", "--quick", "/config.json: is damaged (container stopped)"},
		{"a lost record of a container", "rm containers/*/config.json; " + binary + " --root . --run-root ../run prune -f >/dev/null 2>&1 || true", "--quick", "/config.json: is damaged (container stopped)"},
		{"a container's end", "printf x | dd of=$(echo containers/*/exit.json) bs=1 seek=5 conv=notrunc status=none", "--quick", "/exit.json: is damaged (container stopped)"},
		{"a link to a parent", "rm snapshots/children/*/*", "--quick", " could be removed (images " + app + ", localhost/here:tagged; container stopped)"},
		{"a stub", "rm snapshots/trees/init/fs/etc/hosts", "--quick", "snapshots/trees/init/fs/etc/hosts: is missing"},
	} {
		copied := filepath.Join(e.dir, "copy")
		if err := os.RemoveAll(copied); err != nil {
			t.Fatal(err)
		}
		sh(t, e.dir, "cp -a --reflink=auto store copy; cd copy; "+row.damage)
		r := e.run(append([]string{"--root", copied, "check"}, strings.Fields(row.level)...)...)
		if r.code != 1 || !strings.Contains(r.stdout, row.want) || strings.Contains(r.stdout, "ok:") || !errorForm.MatchString(r.stderr) || !strings.Contains(r.stderr, "not as it should be") {
			t.Errorf("%s: status %d, want 1 and %q\n%s%s", row.name, r.code, row.want, r.stdout, r.stderr)
		}
		r = e.run(append([]string{"--root", copied, "check", "--repair"}, strings.Fields(row.level)...)...)
		if r.code != 0 || !strings.Contains(r.stdout, "healed: ") || !strings.Contains(r.stdout, "\nok: ") || r.stderr != "" {
			t.Errorf("%s: repaired: status %d\n%s%s", row.name, r.code, r.stdout, r.stderr)
		}
		// What the repair has kept of a damaged database counts, and goes with the next prune, which takes nothing else.
		if kept, _ := filepath.Glob(copied + "/*/meta.db.damaged"); len(kept) > 0 {
			if out := e.ok("--root", copied, "df", "-v"); !strings.Contains(out, "damaged rows of ") {
				t.Errorf("%s: df does not tell of %q:\n%s", row.name, kept, out)
			}
			if out := e.ok("--root", copied, "image", "prune", "-f"); strings.Count(out, "damaged rows of ") != len(kept) || len(list(copied)) == 0 || exists(kept[0]) {
				t.Errorf("%s: prune keeps %q:\n%s", row.name, kept, out)
			}
		}
		if got := sh(t, copied, "cat snapshots/active/*/fs/mine"); got != "mine\n" {
			t.Errorf("%s: after the repair the container has %q", row.name, got)
		}
		if got := e.ok("--root", copied, "check", "--full"); !strings.HasPrefix(got, "ok: 3 images, 1 containers, 5 layers, ") {
			t.Errorf("%s: after the repair: %s", row.name, got)
		}
	}
}

// What is under way is no finding: check runs beside pulls, removals and containers and says ok each time.
func TestCheckBesideOthers(t *testing.T) {
	e, reg := richStore(t)
	app, other := reg.addr+"/app:1", reg.addr+"/other:1"
	work := e.command()
	work.Path, work.Args = "/bin/bash", []string{"bash", "-c", `for i in 1 2 3 4 5 6; do ` +
		strings.Join([]string{"rmi -f " + other, "pull -q " + other, "tag " + app + " here:$i", "run --rm " + other + " true", "import small again:$i", "rmi here:$i again:$i"},
			" >/dev/null || exit 1; $0 ") + ` >/dev/null || exit 1; done`, binary}
	work.Args[2] = strings.Replace(work.Args[2], "do rmi", "do $0 rmi", 1)
	work.Stderr = os.Stderr
	e.start(work)
	done := make(chan error, 1)
	go func() { done <- work.Wait() }()
	checks := 0
	for running := true; running; checks++ {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the work failed: %v", err)
			}
			running = false
		default:
		}
		if r := e.run("check", "--full"); r.code != 0 {
			t.Fatalf("check %d: %s%s", checks, r.stdout, r.stderr)
		}
	}
	if checks < 5 {
		t.Errorf("only %d checks ran beside the work", checks)
	}
}

// What cannot be made right is said, and nothing is thrown away that can still be used.
func TestRepairWithinLimits(t *testing.T) {
	e, reg := richStore(t)
	app := reg.addr + "/app:1"
	tree := func(path string) string {
		t.Helper()
		return strings.TrimSpace(sh(t, e.root, "ls -d snapshots/trees/*/fs/"+path+" | head -n 1 | cut -d / -f 3"))
	}
	judge := func(r result, code int, texts ...string) result {
		t.Helper()
		if r.code != code || code != 0 && !errorForm.MatchString(r.stderr) {
			t.Errorf("status %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
		}
		for _, text := range texts {
			if !strings.Contains(r.stdout+r.stderr, text) {
				t.Errorf("%q is not said:\n%s%s", text, r.stdout, r.stderr)
			}
		}
		return r
	}
	repair := func(code int, texts ...string) result {
		t.Helper()
		return judge(e.run("check", "--full", "--repair"), code, texts...)
	}

	// A container runs on the layer: what lies below a mounted overlay stays, and is repaired when it has ended.
	running := e.command("run", "-i", "--rm", "--name", "running", app, "cat")
	stdin, err := running.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.start(running)
	eventually(t, "the container runs", func() bool { return strings.Contains(e.ok("ps"), "running") })
	n := tree("data/numbers")
	sh(t, e.root, "chmod 700 snapshots/trees/"+n+"/fs/data")
	repair(1, "left: layer sha256:", "(tree "+n+"): replace tree "+n+": container running stands on it: it is mounted", "/data: mode 0700, was 1777", "; containers ")
	stdin.Close()
	if err := running.Wait(); err != nil {
		t.Errorf("the container did not go on: %v", err)
	}
	repair(0, "healed: layer sha256:", "(tree "+n+"): unpacked again", "\nok: ")

	// Without the registry what only it has is left as it is, and said.
	blob := strings.TrimSpace(sh(t, e.root, `cd images/blobs/sha256; ls -S | head -n 1`))
	sh(t, e.root, "truncate -s -1 images/blobs/sha256/"+blob)
	judge(e.through([]string{"unshare", "-n"}, "check", "--full", "--repair"), 1,
		"left: images/blobs/sha256/"+blob+": ", "unreachable", "images/blobs/sha256/"+blob+" of layer ", "1 thing is not as it should be")
	e.ok("run", "--rm", app, "true")
	repair(0, "healed: images/blobs/sha256/"+blob+": fetched again", "\nok: ")

	// A layer that was made here and whose content is nowhere: the image is lost, the container that stands on it is told of, and stays.
	n = tree("one")
	sh(t, e.root, "echo two > snapshots/trees/"+n+"/fs/one")
	r := repair(1, "lost: image localhost/small:latest: layer sha256:", "the content of \"one\" is nowhere", "1 thing is lost")
	if strings.Contains(r.stdout, "healed: ") || !strings.Contains(r.stdout, "ok: 2 images") {
		t.Errorf("%s", r.stdout)
	}
	if got := e.ok("check", "--full"); !strings.HasPrefix(got, "ok: 2 images, 1 containers, 4 layers") {
		t.Errorf("%s", got)
	}
	e.fails(1, []string{"no such image"}, "inspect", "small")
}

// A blob has its name before it is known to be on the disk. What a power cut leaves under such a name nobody relies on: it is no finding,
// and it is looked at before anything is made of it.
func TestBlobThatNothingVouchesFor(t *testing.T) {
	e, reg := richStore(t)
	app, other := reg.addr+"/app:1", reg.addr+"/again:1"
	sh(t, e.dir, "skopeo copy -q --src-tls-verify=false -f oci --dest-decompress docker://"+app+` dir:z; cd z
for d in $(skopeo inspect --raw dir:. | grep -o 'layer[^}]*sha256:[0-9a-f]*' | grep -o '[0-9a-f]\{64\}'); do
	zstd -q $d; z=$(sha256sum < $d.zst | cut -d' ' -f1); sed -i "s/$d\",\"size\":[0-9]*/$z\",\"size\":$(stat -c %s $d.zst)/" manifest.json; mv $d.zst $z
done; sed -i 's/layer.v1.tar"/layer.v1.tar+zstd"/g' manifest.json
skopeo copy -q --preserve-digests --dest-tls-verify=false dir:. docker://`+other)
	e.ok("pull", "-q", other)
	spoil := func(ref string) (spoilt []string) {
		t.Helper()
		for digest := range strings.FieldsSeq(sh(t, e.dir, "skopeo inspect --tls-verify=false --format '{{range .Layers}}{{.}} {{end}}' docker://"+ref)) {
			path := filepath.Join(e.root, "images/blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
			if !exists(path) {
				sh(t, e.root, "head -c 100000 /dev/urandom > "+path)
				spoilt = append(spoilt, path)
			}
		}
		if got := e.ok("check", "--full"); !strings.Contains(got, "are damaged, as a power cut may leave them") || !strings.Contains(got, "\nok:") {
			t.Error(got)
		}
		return spoilt
	}
	whole := func(n int, spoilt []string) {
		t.Helper()
		if len(spoilt) != n {
			t.Errorf("%d blobs were not here", len(spoilt))
		}
		for _, path := range spoilt {
			sh(t, e.root, "[ $(sha256sum < "+path+" | cut -d' ' -f1) = "+filepath.Base(path)+" ] || [ ! -e "+path+" ]")
		}
		if got := e.ok("check", "--full"); !strings.HasPrefix(got, "ok:") {
			t.Error(got)
		}
	}
	// The trees of the other's layers are here: their blobs were never fetched.
	spoilt := spoil(other)
	e.ok("save", "--format", "oci-archive", "-o", filepath.Join(e.dir, "other.tar"), other)
	whole(3, spoilt)
	sh(t, e.dir, "skopeo copy -q oci-archive:other.tar dir:other")
	// Blobs of an image that is not here.
	e.ok("rm", "stopped")
	e.ok("rmi", app, other, "here:tagged", reg.addr+"/other:1")
	e.ok("prune", "-f")
	spoilt = spoil(app)
	e.ok("pull", "-q", app)
	whole(3, spoilt)
	e.ok("run", "--rm", app, "true")
	e.ok("save", "--format", "oci-archive", "-o", filepath.Join(e.dir, "app.tar"), app)
	sh(t, e.dir, "skopeo copy -q oci-archive:app.tar dir:app")
}
