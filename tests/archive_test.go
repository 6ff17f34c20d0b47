package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layout makes an OCI layout at dir/img with an image of the tag t: layers are scripts, as in push.
func (e *env) layout(configure string, layers ...string) {
	e.t.Helper()
	script := "umoci init --layout img; umoci new --image img:t\n"
	for i, l := range layers {
		script += fmt.Sprintf("mkdir l%[1]d; (cd l%[1]d; %[2]s\n); tar -C l%[1]d --xattrs -cf l%[1]d.tar .; umoci raw add-layer --image img:t l%[1]d.tar; rm -r l%[1]d l%[1]d.tar\n", i, l)
	}
	sh(e.t, e.dir, script+"umoci config --image img:t "+configure)
}

// upperLayer is put over busyboxLayer: it changes, deletes and hides.
const upperLayer = `mkdir -p etc srv/www; echo uno > etc/one; touch etc/.wh.two; : > srv/www/.wh..wh..opq; echo hello > srv/www/index; touch -d 2001-02-03T04:05:06 etc/one`

// id is the image's: the digest of its config, which names every diff ID.
func (e *env) id(image string) string {
	e.t.Helper()
	return strings.TrimSpace(e.ok("inspect", "--format", "{{.ID}}", image))
}

// skopeoID is the image ID of something that skopeo can read.
func (e *env) skopeoID(ref string) string {
	e.t.Helper()
	return "sha256:" + strings.Fields(sh(e.t, e.dir, "skopeo inspect --raw --config "+ref+" | sha256sum"))[0]
}

func (e *env) skopeoDigest(ref string) string {
	e.t.Helper()
	return strings.TrimSpace(sh(e.t, e.dir, "skopeo inspect --format '{{.Digest}}' "+ref))
}

// script runs a shell script that calls layerctl as $L, and does not judge.
func (e *env) script(script string) result {
	e.t.Helper()
	cmd := e.command()
	cmd.Path, cmd.Args = "/bin/bash", []string{"bash", "-euo", "pipefail", "-c", script}
	cmd.Env = append(cmd.Env, "L="+binary)
	return e.finish(cmd)
}

// tidy looks for what a load or a save may leave.
func (e *env) tidy() {
	e.t.Helper()
	for _, dir := range []string{"snapshots/staging", "images/ingest"} {
		if names := list(filepath.Join(e.root, dir)); len(names) > 0 {
			e.t.Errorf("leaked: %s holds %q", dir, names)
		}
	}
}

// Everything that skopeo writes is loaded from a file, from a pipe and compressed, with the image ID and, where there is a manifest,
// with its digest.
func TestLoadForms(t *testing.T) {
	e := newEnv(t)
	e.layout("--config.cmd cat --config.cmd /etc/one --config.env A=1", busyboxLayer, upperLayer)
	want, manifest := e.skopeoID("oci:img:t"), e.skopeoDigest("oci:img:t")
	sh(t, e.dir, `skopeo copy -q oci:img:t docker-archive:docker.tar:registry.example/app:1
skopeo copy -q oci:img:t oci-archive:oci.tar:registry.example/app:1
for f in docker oci; do gzip -k $f.tar; zstd -q $f.tar; xz -k -0 $f.tar; bzip2 -k $f.tar; done
# What docker has written since 25: both forms in one.
mkdir hybrid; tar -xf oci.tar -C hybrid; cd hybrid; hex() { echo $1 | cut -d: -f2; }
m=$(jq -r '.manifests[0].digest' index.json); c=blobs/sha256/$(hex $(jq -r .config.digest blobs/sha256/$(hex $m)))
jq -n --arg c $c --argjson l "$(jq '[.layers[].digest|"blobs/sha256/"+ltrimstr("sha256:")]' blobs/sha256/$(hex $m))" '[{Config:$c,RepoTags:["registry.example/app:1"],Layers:$l}]' > manifest.json
jq '.manifests[0].annotations={"io.containerd.image.name":"registry.example/app:1","org.opencontainers.image.ref.name":"1"}' index.json > i; mv i index.json
tar -cf ../hybrid.tar blobs index.json manifest.json oci-layout
# The same without the layout: compressed layers in Docker's form, as crane and bazel write them.
tar -cf ../compressed.tar blobs manifest.json; cd ..; tar -cf dotted.tar -C hybrid ./blobs ./index.json ./oci-layout
# The old form has no manifest.json.
mkdir old; tar -xf docker.tar -C old; rm old/manifest.json; tar -cf old.tar -C old .`)
	for _, row := range []struct {
		name   string
		digest string // what must be known of the manifest
		script string // gives the archive on stdout
	}{
		{"docker.tar", "", ""}, {"oci.tar", manifest, ""}, {"hybrid.tar", manifest, ""}, {"dotted.tar", manifest, ""}, {"compressed.tar", "", ""},
		{"docker.tar.gz", "", ""}, {"docker.tar.zst", "", ""}, {"docker.tar.xz", "", ""}, {"docker.tar.bz2", "", ""},
		{"oci.tar.gz", manifest, ""}, {"oci.tar.zst", manifest, ""}, {"oci.tar.xz", manifest, ""}, {"oci.tar.bz2", manifest, ""},
		{"hybrid", manifest, ""}, {"old.tar", "", ""},
		{"docker from a pipe", "", "cat docker.tar"}, {"oci from a pipe", manifest, "cat oci.tar"}, {"gzip from a pipe", manifest, "cat oci.tar.gz"},
		{"old from a pipe", "", "cat old.tar"}, {"compressed from a pipe", "", "cat compressed.tar"}, {"slowly", "", "dd if=docker.tar bs=700 status=none"},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := &env{t: t, dir: e.dir, root: filepath.Join(e.dir, "store."+row.name), runRoot: e.runRoot, cgroupsBefore: e.cgroupsBefore}
			defer e.tidy()
			load := func(flags ...string) result {
				if row.script != "" {
					return e.script(row.script + " | $L load " + strings.Join(flags, " "))
				}
				return e.run(append(flags, "load", "-i", row.name)...)
			}
			r := load()
			if r.code != 0 || r.stdout != "Loaded image: registry.example/app:1\n" || strings.Count(r.stderr, ": loaded\n") != 2 {
				t.Fatalf("load: %+v", r)
			}
			if got := e.id("registry.example/app:1"); got != want && !strings.HasPrefix(row.name, "old") { // whose config is made anew
				t.Errorf("image ID %s, want %s", got, want)
			}
			if got := e.digest(); got != row.digest {
				t.Errorf("manifest digest %q, want %q", got, row.digest)
			}
			if got := e.ok("run", "--rm", "registry.example/app:1"); got != "uno\n" {
				t.Errorf("it prints %q", got)
			}
			if got := e.ok("run", "--rm", "registry.example/app:1", "sh", "-c", "echo $A; ls /etc/one /etc/two 2>/dev/null; cat /srv/www/*"); got != "1\n/etc/one\nhello\n" {
				t.Errorf("it holds %q", got)
			}
			// Again, and nothing is unpacked anew.
			trees := list(filepath.Join(e.root, "snapshots/trees"))
			if r := load("--progress=none"); r.code != 0 || r.stderr != "" {
				t.Errorf("load again: %+v", r)
			}
			if again := list(filepath.Join(e.root, "snapshots/trees")); len(again) != len(trees) {
				t.Errorf("trees %q before, %q after", trees, again)
			}
			e.ok("rmi", "registry.example/app:1")
			if left := list(filepath.Join(e.root, "images/blobs/sha256")); len(left) > 0 {
				t.Errorf("blobs %q are left", left)
			}
		})
	}
}

// A regular file on stdin is read where it lies, and of several platforms the host's is loaded, or the one asked for.
func TestLoadPlatforms(t *testing.T) {
	e := newEnv(t)
	e.layout("--config.cmd true", busyboxLayer)
	sh(t, e.dir, `cp -a img arm; umoci config --image arm:t --architecture arm64; cp -rn arm/blobs img/
both=$(jq -n --argjson a "$(jq '.manifests[0]|del(.annotations)|.platform={os:"linux",architecture:"amd64"}' img/index.json)" --argjson b "$(jq '.manifests[0]|del(.annotations)|.platform={os:"linux",architecture:"arm64"}' arm/index.json)" \
	'{schemaVersion:2,mediaType:"application/vnd.oci.image.index.v1+json",manifests:[$a,$b]}')
echo "$both" > img/index.json; tar -C img -cf flat.tar .
d=$(echo "$both" | sha256sum | cut -d' ' -f1); echo "$both" > img/blobs/sha256/$d
jq -n --arg d sha256:$d --argjson s $(stat -c %s img/blobs/sha256/$d) '{schemaVersion:2,manifests:[{mediaType:"application/vnd.oci.image.index.v1+json",digest:$d,size:$s,annotations:{"io.containerd.image.name":"docker.io/library/multi:2"}}]}' > img/index.json
tar -C img -cf nested.tar .`)
	for _, file := range []string{"flat.tar", "nested.tar", "img"} {
		for _, platform := range []string{"", "linux/amd64", "linux/arm64"} {
			args := []string{"load", "-q", "-i", file}
			want := "amd64"
			if platform != "" {
				args = append(args, "--platform", platform)
				want = strings.TrimPrefix(platform, "linux/")
			}
			out := strings.Fields(e.ok(args...))
			if got := strings.TrimSpace(e.ok("inspect", "--format", "{{.Architecture}}", out[len(out)-1])); got != want {
				t.Errorf("%q loaded an image for %s", args, got)
			}
		}
		e.fails(1, []string{"linux/s390x", "linux/amd64"}, "load", "-i", file, "--platform", "linux/s390x")
	}
	f, err := os.Open(filepath.Join(e.dir, "nested.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := e.command("load")
	cmd.Stdin = f
	if r := e.finish(cmd); r.code != 0 || r.stdout != "Loaded image: docker.io/library/multi:2\n" {
		t.Errorf("from a file on stdin: %+v", r)
	}
}

// saved is a store with an image that came with a manifest and compressed layers, one that came without, and one that was made here.
func saved(t *testing.T) *env {
	e := newEnv(t)
	e.layout("--config.cmd cat --config.cmd /etc/one", busyboxLayer, upperLayer)
	sh(t, e.dir, "skopeo copy -q oci:img:t oci-archive:oci.tar:registry.example/pulled:1; umoci config --image img:t --config.env A=2; skopeo copy -q oci:img:t docker-archive:docker.tar:registry.example/docker:1")
	e.ok("load", "-q", "-i", "oci.tar")
	e.ok("load", "-q", "-i", "docker.tar")
	e.busybox("tree")
	sh(t, filepath.Join(e.dir, "tree"), everything+"; rm odd/sparse")
	e.ok("import", "--change", "CMD cat /etc/one", "tree", "made")
	return e
}

// other is a second store.
func (e *env) other(name string) *env {
	return &env{t: e.t, dir: e.dir, root: filepath.Join(e.dir, name), runRoot: e.runRoot, cgroupsBefore: e.cgroupsBefore}
}

// What is saved is the same image for skopeo, podman, umoci and another store, with every digest that it had.
// digest is the manifest digest that images shows; "" for <none>.
func (e *env) digest(names ...string) string {
	e.t.Helper()
	return strings.TrimSuffix(strings.TrimSpace(e.ok(append([]string{"images", "--format", "{{.Digest}}"}, names...)...)), "<none>")
}

func TestSaveForms(t *testing.T) {
	e := saved(t)
	podman := podmanEnv(t, e)
	for _, name := range []string{"registry.example/pulled:1", "registry.example/docker:1", "localhost/made:latest"} {
		id := e.id(name)
		digest := e.digest(name)
		if (digest != "") != strings.Contains(name, "pulled") {
			t.Fatalf("%s has the digest %q", name, digest)
		}
		for _, format := range []string{"docker-archive", "oci-archive", "oci-dir"} {
			t.Run(name+" "+format, func(t *testing.T) {
				e := &env{t: t, dir: e.dir, root: e.root, runRoot: e.runRoot, cgroupsBefore: e.cgroupsBefore}
				sh(t, e.dir, "rm -rf out again")
				e.ok("save", "--format", format, "-o", "out", name)
				if format == "oci-dir" {
					e.ok("save", "--format", format, "-o", "again", name)
					sh(t, e.dir, "diff -r out again; umoci stat --image out:"+name+"; umoci unpack --image out:"+name+" again/bundle")
					if got := sh(t, e.dir, "cat again/bundle/rootfs/etc/one"); got != "uno\n" && got != "one\n" {
						t.Errorf("umoci unpacks %q", got)
					}
				} else if r := e.script("$L save --format " + format + " " + name + " | cmp - out"); r.code != 0 {
					t.Errorf("twice the same: %+v", r)
				}
				ref := strings.Replace(format, "oci-dir", "oci", 1) + ":out:" + name
				if got := e.skopeoID(ref); got != id {
					t.Errorf("skopeo reads the image ID %s, want %s", got, id)
				}
				sh(t, e.dir, "skopeo copy -q "+ref+" dir:copied; rm -r copied") // which reads and verifies every layer
				written := ""
				if format != "docker-archive" {
					if written = e.skopeoDigest(ref); digest != "" && written != digest {
						t.Errorf("the manifest has the digest %s, had %s", written, digest)
					}
				}
				got := ""
				if format == "oci-dir" { // which podman load names after the directory
					got = sh(t, e.dir, podman+" pull -q "+ref)
				} else {
					sh(t, e.dir, podman+" load -q -i out")
					got = sh(t, e.dir, podman+" image inspect --format '{{.Id}}' "+name)
				}
				if got = strings.TrimSpace(got); "sha256:"+got != id {
					t.Errorf("podman loads the image ID %s, want %s", got, id)
				}
				sh(t, e.dir, podman+" rmi -f "+got)
				other := e.other("other." + name + format)
				defer other.tidy()
				if got := other.ok("load", "-q", "-i", "out"); got != "Loaded image: "+name+"\n" {
					t.Errorf("load prints %q", got)
				}
				if got := other.id(name); got != id {
					t.Errorf("it comes back with the image ID %s, want %s", got, id)
				}
				if got := other.digest(); got != written {
					t.Errorf("it comes back with the digest %q, want %q", got, written)
				}
				// And what comes back is saved as the same bytes.
				other.ok("save", "--format", format, "-o", "back", name)
				sh(t, e.dir, "diff -r out back; rm -r back")
			})
		}
	}
}

// What podman and skopeo save of several images is loaded with their IDs and names, and the other way round.
func TestSeveralImages(t *testing.T) {
	e := saved(t)
	podman := podmanEnv(t, e)
	names := []string{"registry.example/pulled:1", "registry.example/docker:1", "localhost/made:latest"}
	e.ok("tag", names[0], "registry.example/second:2")
	all := append([]string{"registry.example/second:2"}, names...)
	for _, format := range []string{"docker-archive", "oci-archive", "oci-dir"} {
		e.ok(append([]string{"save", "--format", format, "-o", "all." + format}, all...)...)
		other := e.other("store." + format)
		lines := strings.Split(other.ok("load", "-q", "-i", "all."+format), "\n")
		slices.Sort(lines)
		if want := "\nLoaded image: localhost/made:latest\nLoaded image: registry.example/docker:1\nLoaded image: registry.example/pulled:1\nLoaded image: registry.example/second:2"; strings.Join(lines, "\n") != want {
			t.Errorf("load of %s prints %q", format, lines)
		}
		for _, name := range all {
			if got, want := other.id(name), e.id(name); got != want {
				t.Errorf("%s: %s has the image ID %s, want %s", format, name, got, want)
			}
		}
		other.tidy()
		if format == "docker-archive" {
			// What images share is in the archive once.
			if twice := sh(t, e.dir, "tar -tf all."+format+" | sort | uniq -d"); twice != "" {
				t.Errorf("members that are there twice: %s", twice)
			}
			sh(t, e.dir, podman+" load -q -i all."+format)
			for _, name := range all {
				if got := strings.TrimSpace(sh(t, e.dir, podman+" image inspect --format '{{.Id}}' "+name)); "sha256:"+got != e.id(name) {
					t.Errorf("podman has %s as %s", name, got)
				}
			}
		}
	}
	sh(t, e.dir, podman+" save -q -m -o podman.tar "+strings.Join(all, " ")+"; for f in docker-archive oci-archive oci-dir; do "+podman+" save -q --format $f -o podman.$f "+names[2]+"; done")
	other := e.other("store.podman")
	if r := other.script("cat podman.tar | $L load -q"); r.code != 0 || strings.Count(r.stdout, "Loaded image: ") != 4 {
		t.Errorf("load of what podman saved: %+v", r)
	}
	for _, name := range all {
		if got, want := other.id(name), e.id(name); got != want {
			t.Errorf("from podman: %s has the image ID %s, want %s", name, got, want)
		}
	}
	for _, format := range []string{"docker-archive", "oci-archive", "oci-dir"} {
		other := e.other("store.podman." + format)
		other.ok("load", "-q", "-i", "podman."+format)
		// Which podman may have written a config of its own for.
		want := e.skopeoID(strings.Replace(format, "oci-dir", "oci", 1) + ":podman." + format)
		if got := strings.TrimSpace(other.ok("images", "-q", "--no-trunc")); got != want {
			t.Errorf("from podman's %s: image ID %s, want %s", format, got, want)
		}
		other.tidy()
	}
	// By ID there are no names, in any direction.
	e.ok("save", "-o", "bare.tar", e.id(names[0]), e.id(names[2]))
	nameless := e.other("store.bare")
	if got, want := nameless.ok("load", "-q", "-i", "bare.tar"), "Loaded image ID: "+e.id(names[0])+"\nLoaded image ID: "+e.id(names[2])+"\n"; got != want {
		t.Errorf("load without names prints %q, want %q", got, want)
	}
	if got := nameless.ok("run", "--rm", e.id(names[2])); got != "one\n" {
		t.Errorf("it prints %q", got)
	}
	for _, id := range strings.Fields(nameless.ok("images", "-q", "--no-trunc")) {
		nameless.ok("rmi", id)
	}
	if left := list(filepath.Join(nameless.root, "images/blobs/sha256")); len(left) > 0 {
		t.Errorf("blobs %q are left", left)
	}
}

// A save that fails leaves nothing where it wrote, and damage in the store does not get into an archive.
func TestSaveBad(t *testing.T) {
	e := saved(t)
	sh(t, e.dir, "mkdir full out filled; touch filled/x; echo before > kept.tar; mount -t tmpfs -o size=512k none full")
	t.Cleanup(func() { sh(t, e.dir, "umount full") })
	for name, row := range map[string]struct {
		code  int
		texts []string
		args  []string
	}{
		"no image":          {1, []string{"no such image"}, []string{"-o", "out/a", "nothing"}},
		"one of two":        {1, []string{"no such image"}, []string{"-o", "out/a", "made", "nothing"}},
		"no images":         {2, []string{"at least one image"}, []string{"-o", "out/a"}},
		"no format":         {2, []string{"want docker-archive"}, []string{"-o", "out/a", "--format", "zip", "made"}},
		"no directory":      {1, []string{"no such file"}, []string{"-o", "out/none/a", "made"}},
		"a directory":       {1, []string{"is a directory"}, []string{"-o", "out", "made"}},
		"a full directory":  {1, []string{"not empty"}, []string{"-o", "filled", "--format", "oci-dir", "made"}},
		"oci-dir to stdout": {2, []string{"-o"}, []string{"--format", "oci-dir", "made"}},
		"no space":          {1, []string{"no space left"}, []string{"-o", "full/a", "made"}},
		"no space for OCI":  {1, []string{"no space left"}, []string{"-o", "full/a", "--format", "oci-archive", "registry.example/pulled:1"}},
		"no space in a dir": {1, []string{"no space left"}, []string{"-o", "full/a", "--format", "oci-dir", "registry.example/pulled:1"}},
		"a full device":     {1, []string{"no space left"}, []string{"-o", "/dev/full", "made"}},
	} {
		sub := *e
		t.Run(name, func(t *testing.T) {
			sub.t = t
			sub.fails(row.code, row.texts, append([]string{"save"}, row.args...)...)
		})
	}
	if r := e.script("script -qec '$L save made' /dev/null < /dev/null | cat -v"); !strings.Contains(r.stdout, "stdout is a terminal") || len(r.stdout) > 500 {
		t.Errorf("to a terminal: %.500q", r.stdout)
	}
	if left := sh(t, e.dir, "ls -A out full"); left != "full:\n\nout:\n" {
		t.Errorf("left over: %s", left)
	}
	if out := e.ok("save", "-o", "kept.tar", "made"); out != "" || sh(t, e.dir, "tar -tf kept.tar | sed -n 1p") != "manifest.json\n" {
		t.Error("an archive was not replaced")
	}
	sh(t, e.dir, `cp kept.tar before.tar
for f in store/images/blobs/sha256/*; do [ $(stat -c %s $f) -lt 100000 ] || printf X | dd of=$f bs=1 seek=50000 conv=notrunc status=none; done
for f in $(grep -lx one store/snapshots/trees/*/fs/etc/one); do touch -r $f stamp; printf two > $f; echo >> $f; touch -r stamp $f; done`)
	for _, name := range []string{"registry.example/pulled:1", "registry.example/docker:1", "made"} {
		for _, format := range []string{"docker-archive", "oci-archive"} {
			e.fails(1, []string{"verification failed", "damaged"}, "save", "--format", format, "-o", "kept.tar", name)
		}
		e.fails(1, []string{"verification failed", "damaged"}, "save", "--format", "oci-dir", "-o", "dir", name)
	}
	sh(t, e.dir, "cmp kept.tar before.tar; ! ls -A | grep -e kept.tar- -e '^[.]dir' -e '^dir$'")
}
