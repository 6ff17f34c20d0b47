package tests

import (
	"encoding/json"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func manifests(requests []string) []string {
	return slices.DeleteFunc(slices.Clone(requests), func(r string) bool { return !strings.Contains(r, "/manifests/") })
}

func blobs(requests []string) []string {
	return slices.DeleteFunc(slices.Clone(requests), func(r string) bool { return !strings.Contains(r, "/blobs/") })
}

// Every form in which a registry holds an image gives the same image.
func TestPullForms(t *testing.T) {
	reg := startRegistry(t, "")
	for tag, how := range map[string]string{"oci": "--format oci", "docker": "--format v2s2", "zstd": "--format oci --dest-compress-format zstd"} {
		reg.push("forms:"+tag, how, "--config.cmd /bin/sh --config.env FOO=bar --config.workingdir /srv/www",
			busyboxLayer, "mkdir -p srv/www; echo hello > srv/www/index; chmod 1777 srv", "mkdir etc; touch etc/.wh.two")
	}
	for _, tag := range []string{"oci", "docker", "zstd"} {
		e := newEnv(t)
		ref := reg.addr + "/forms:" + tag
		out := e.ok("pull", ref)
		if !strings.HasPrefix(out, reg.addr+"/forms@sha256:") {
			t.Errorf("%s: pull printed %q", tag, out)
		}
		got := e.ok("run", "--rm", ref, "sh", "-c", "pwd; cat index /etc/one; ls /etc/two 2>/dev/null || echo gone; echo $FOO; stat -c %a /srv")
		if want := "/srv/www\nhello\none\ngone\nbar\n1777\n"; !strings.HasPrefix(got, want[:len(want)-5]) {
			t.Errorf("%s: the container printed %q", tag, got)
		}
		// By digest it is the same image, and here already.
		digest := strings.TrimSpace(out)
		e.ok("pull", digest)
		if ids := strings.Fields(e.ok("images", "-q")); len(ids) != 1 {
			t.Errorf("%s: by digest it is another image: %q", tag, ids)
		}
	}
}

func TestPullAgain(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("again", "", "--config.cmd /bin/sh", busyboxLayer, "echo 2 > two")
	e := newEnv(t)
	ref := reg.addr + "/again"
	r := e.run("pull", ref)
	if r.code != 0 || !strings.Contains(r.stderr, "pull complete") {
		t.Fatalf("%+v", r)
	}
	reg.requests()
	e.ok("pull", ref)
	if got := reg.requests(); len(manifests(got)) != 1 || len(blobs(got)) != 0 {
		t.Errorf("the second pull asked %q", got)
	}
	e.ok("pull", "--policy", "missing", ref)
	e.ok("pull", "--policy", "never", ref)
	e.ok("run", "--rm", ref, "true")
	if got := reg.requests(); len(got) != 0 {
		t.Errorf("without need the registry was asked %q", got)
	}
	e.fails(1, []string{"never to pull"}, "pull", "--policy", "never", reg.addr+"/other")
	e.fails(2, []string{"--policy sometimes"}, "pull", "--policy", "sometimes", ref)
	if r := e.run("pull", "-q", ref); r.stderr != "" {
		t.Errorf("-q printed %q", r.stderr)
	}
	// Another name of the same content transfers no layer; a changed tag is noticed.
	reg.push("again", "", "--config.cmd /bin/true", busyboxLayer, "echo 3 > two")
	if out := e.run("pull", ref); !strings.Contains(out.stderr, "pull complete") {
		t.Errorf("a tag that moved: %+v", out)
	}
	if out := e.ok("images"); !strings.Contains(out, "<none>") {
		t.Errorf("the image that lost its name is not listed:\n%s", out)
	}
}

func TestPullPlatforms(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("multi:amd64", "", "--config.cmd /bin/sh --architecture amd64 --os linux", busyboxLayer)
	reg.push("multi:arm64", "", "--config.cmd /bin/sh --architecture arm64 --os linux", busyboxLayer, "echo arm > arm")
	// An index of the two, made by hand and put where a client would.
	dir := t.TempDir()
	sh(t, dir, `
entry() { skopeo inspect --raw --tls-verify=false docker://`+reg.addr+`/multi:$1 > m.$1
  printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"os":"linux","architecture":"%s"%s}}' $(sha256sum < m.$1 | cut -d' ' -f1) $(stat -c %s m.$1) $1 "$2"; }
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' "$(entry amd64 '')" "$(entry arm64 ',"variant":"v8"')" > index
curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' --data-binary @index http://`+reg.addr+`/v2/multi/manifests/latest`)
	e := newEnv(t)
	e.ok("pull", reg.addr+"/multi")
	arch := func() string {
		return strings.TrimSpace(e.ok("inspect", "--format", "{{.Os}}/{{.Architecture}}", reg.addr+"/multi"))
	}
	if got := arch(); got != "linux/amd64" {
		t.Errorf("the host's platform gave %s", got)
	}
	reg.requests()
	e.ok("pull", reg.addr+"/multi")
	if got := reg.requests(); len(manifests(got)) != 1 {
		t.Errorf("the second pull of an index asked %q", got)
	}
	for _, p := range []string{"linux/arm64", "linux/arm64/v8", "arm64", "linux/aarch64"} {
		e.ok("pull", "--platform", p, reg.addr+"/multi")
		if got := arch(); got != "linux/arm64" {
			t.Errorf("%s gave %s", p, got)
		}
	}
	e.fails(1, []string{"windows/amd64", "only for linux/amd64, linux/arm64"}, "pull", "--platform", "windows/amd64", reg.addr+"/multi")
	e.fails(1, []string{"OS/ARCH"}, "pull", "--platform", "a/b/c/d", reg.addr+"/multi")
}

func TestStoreIsALayoutForOthers(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("layout", "", "--config.cmd /bin/sh", busyboxLayer, "echo 2 > two")
	e := newEnv(t)
	e.ok("pull", reg.addr+"/layout")
	sh(t, e.dir, "cp -r store/images layout; skopeo inspect --raw oci:layout:"+reg.addr+"/layout:latest | grep -q layers; skopeo copy -q oci:layout:"+reg.addr+"/layout:latest dir:copy")
}

func TestPullBad(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("good", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	digestOf := func(name string) (manifest, config, layer string) {
		raw := sh(t, e.dir, "skopeo inspect --raw --tls-verify=false docker://"+reg.addr+"/"+name)
		var m struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		if err := json.Unmarshal([]byte(raw), &m); err != nil {
			t.Fatal(err)
		}
		return raw, m.Config.Digest, m.Layers[0].Digest
	}
	// damage changes the bytes of a blob behind the registry's back.
	damage := func(name string, what func(layer, config string) (digest, script string)) {
		reg.push(name, "", "--config.cmd /bin/"+name, "echo "+name+" > name; head -c 300000 /dev/urandom > noise")
		_, config, layer := digestOf(name)
		digest, script := what(layer, config)
		sh(t, e.dir, strings.ReplaceAll(script, "BLOB", reg.blob(digest)))
	}
	damage("flipped", func(l, _ string) (string, string) {
		return l, "printf X | dd of=BLOB bs=1 seek=200000 conv=notrunc status=none"
	})
	damage("truncated", func(l, _ string) (string, string) { return l, "truncate -s 1000 BLOB" })
	damage("longer", func(l, _ string) (string, string) { return l, "head -c 1000 /dev/zero >> BLOB" })
	damage("config", func(_, c string) (string, string) { return c, "sed -i s/linux/lynux/ BLOB" })
	damage("swapped", func(l, _ string) (string, string) {
		_, _, g := digestOf("good")
		return l, "cp " + reg.blob(g) + " BLOB"
	})
	// A layer that is whole, under a config that says another diff ID.
	reg.push("lying", "", "--config.cmd /bin/sh", "echo lying > name")
	sh(t, e.dir, `skopeo copy -q --src-tls-verify=false docker://`+reg.addr+`/lying dir:lying; cd lying
cfg=$(grep -o '"config":{[^}]*}' manifest.json | grep -o 'sha256:[0-9a-f]*' | cut -d: -f2); sed -i 's/"diff_ids":\["sha256:..../"diff_ids":["sha256:0000/' $cfg
new=$(sha256sum < $cfg | cut -d' ' -f1); mv $cfg $new; sed -i "s/$cfg/$new/" manifest.json
up=$(curl -sf -X POST -D - http://`+reg.addr+`/v2/lying/blobs/uploads/ | tr -d '\r' | sed -n 's/^Location: //p')
curl -sf -X PUT -H "Content-Type: application/octet-stream" --data-binary @$new "$up&digest=sha256:$new"; curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @manifest.json http://`+reg.addr+`/v2/lying/manifests/latest`)
	// Something that is no image.
	sh(t, e.dir, `printf '{}' > empty; h=$(sha256sum < empty | cut -d' ' -f1)
up=$(curl -sf -X POST -D - http://`+reg.addr+`/v2/artifact/blobs/uploads/ | tr -d '\r' | sed -n 's/^Location: //p'); curl -sf -X PUT -H "Content-Type: application/octet-stream" --data-binary @empty "$up&digest=sha256:$h"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.example.thing","digest":"sha256:%s","size":2},"layers":[]}' $h > m
curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @m http://`+reg.addr+`/v2/artifact/manifests/latest`)
	// Manifests that announce another size than the config has.
	for name, size := range map[string]string{"huge": "5000000000", "negative": "-5", "short": "3"} {
		sh(t, e.dir, `curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' http://`+reg.addr+`/v2/good/manifests/latest > m
sed -i -E 's/("config":\{[^}]*"size": ?)[0-9]+/\1`+size+`/' m; grep -q '"size": *`+size+`' m
for b in $(grep -oE 'sha256:[0-9a-f]{64}' m); do curl -sf -X POST "http://`+reg.addr+`/v2/`+name+`/blobs/uploads/?mount=$b&from=good"; done
curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @m http://`+reg.addr+`/v2/`+name+`/manifests/latest`)
	}
	locked := startRegistry(t, "auth: {silly: {realm: 'http://127.0.0.1:1/token', service: test}}")
	for name, row := range map[string]struct {
		ref   string
		texts []string
	}{
		"unknown name":    {reg.addr + "/nothing", []string{"no such image", "404"}},
		"unknown tag":     {reg.addr + "/good:none", []string{"no such image"}},
		"unreachable":     {"127.0.0.1:1/x", []string{"127.0.0.1:1", "connection refused", "hint: "}},
		"no such host":    {"registry.invalid/x", []string{"registry.invalid", "unavailable"}},
		"refused":         {locked.addr + "/x", []string{locked.addr}},
		"flipped byte":    {reg.addr + "/flipped", []string{"verification failed", "sha256:"}},
		"truncated layer": {reg.addr + "/truncated", []string{"layer sha256:"}},
		"longer layer":    {reg.addr + "/longer", []string{"layer sha256:"}},
		"changed config":  {reg.addr + "/config", []string{"verification failed", "config"}},
		"swapped layer":   {reg.addr + "/swapped", []string{"layer sha256:"}},
		"lying diff ID":   {reg.addr + "/lying", []string{"verification failed", "diff ID"}},
		"not an image":    {reg.addr + "/artifact", []string{"application/vnd.example.thing", "no image"}},
		"huge config":     {reg.addr + "/huge", []string{"verification failed", "5000000000"}},
		"negative config": {reg.addr + "/negative", []string{"verification failed", "config"}},
		"short config":    {reg.addr + "/short", []string{"verification failed", "config"}},
		"bad reference":   {"UPPER case", []string{"invalid reference"}},
		"bad digest":      {reg.addr + "/good@sha256:12", []string{"invalid reference"}},
	} {
		t.Run(name, func(t *testing.T) {
			sub := *e
			sub.t = t
			sub.fails(1, append(row.texts, "pull "+row.ref), "pull", row.ref)
			if out := sub.ok("images", "-q"); out != "" {
				t.Errorf("an image has a name: %s", out)
			}
			for _, dir := range []string{"snapshots/staging", "images/ingest"} {
				if names := list(filepath.Join(sub.root, dir)); len(names) > 0 {
					t.Errorf("%s holds %q", dir, names)
				}
			}
		})
	}
	e.ok("pull", reg.addr+"/good")
	e.ok("run", "--rm", reg.addr+"/good", "true")
}

// ^C at any moment of a pull leaves a store in which the next pull works, and nothing is named that is not whole.
func TestPullInterrupted(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("big", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 30000000 /dev/urandom > noise", "mkdir many; for i in $(seq 2000); do echo $i > many/$i; done")
	ref := reg.addr + "/big"
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		e := newEnv(t)
		interrupted := 0
		for range 20 {
			cmd := e.command("pull", ref)
			var errs strings.Builder
			cmd.Stderr = &errs
			e.start(cmd)
			time.Sleep(time.Duration(rand.Intn(250)) * time.Millisecond)
			cmd.Process.Signal(sig)
			cmd.Wait()
			if cmd.ProcessState.ExitCode() == 0 {
				e.ok("rmi", ref)
				continue
			}
			interrupted++
			if e.ok("images", "-q") != "" { // its end came when all was done but saying so
				e.ok("check", "--full")
				e.ok("run", "--rm", ref, "true")
				e.ok("rmi", ref)
			}
			if sig == syscall.SIGINT && strings.Contains(errs.String(), "goroutine") {
				t.Fatalf("a stack: %s", errs.String())
			}
		}
		if interrupted < 5 {
			t.Fatalf("only %d of 20 pulls were interrupted", interrupted)
		}
		e.ok("pull", ref)
		if got := e.ok("run", "--rm", ref, "sh", "-c", "ls /many | wc -l; ls -l /noise"); !strings.Contains(got, "2000") || !strings.Contains(got, "30000000") {
			t.Errorf("the image is not whole: %s", got)
		}
		e.ok("prune", "-f") // of what the killed pulls were filling
		e.ok("rmi", ref)
		if names := list(filepath.Join(e.root, "snapshots/trees")); len(names) != 1 {
			t.Errorf("trees %q are left", names)
		}
	}
}

// Two at once download each layer once.
func TestPullAtOnce(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("a", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 20000000 /dev/urandom > noise")
	reg.push("b", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	reg.requests()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			name := reg.addr + []string{"/a", "/b"}[i%2]
			if r := e.run("pull", name); r.code != 0 {
				t.Errorf("%s: %s", name, r.stderr)
			}
		})
	}
	wg.Wait()
	// Two repositories: a shared layer may be taken from either, but from one only.
	seen := map[string]int{}
	for _, r := range blobs(reg.requests()) {
		if strings.HasPrefix(r, "GET") {
			seen[r[strings.LastIndex(r, "sha256:"):]]++
		}
	}
	_, trees := os.Stat(filepath.Join(e.root, "snapshots/trees/1"))
	if trees != nil {
		t.Error(trees)
	}
	for digest, n := range seen {
		size, err := os.Stat(reg.blob(digest))
		if err != nil {
			t.Fatal(err)
		}
		if size.Size() > 10000 && n != 1 {
			t.Errorf("layer %s was downloaded %d times", digest, n)
		}
	}
	if names := list(filepath.Join(e.root, "snapshots/trees")); len(names) > 3 {
		t.Errorf("trees %q: a layer was stored twice", names)
	}
}
