package tests

import (
	"fmt"
	"os"
	"path/filepath"
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
			if got := strings.TrimSpace(e.ok("images", "--format", "{{.Digest}}")); got != row.digest {
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
