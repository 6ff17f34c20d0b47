package tests

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

var pushedLine = regexp.MustCompile(`^(.*)@(sha256:[0-9a-f]{64})\n$`)

// push pushes and returns the digest.
func (e *env) push(name string, flags ...string) string {
	e.t.Helper()
	m := pushedLine.FindStringSubmatch(e.ok(append(append([]string{"push"}, flags...), name)...))
	if m == nil || !strings.HasPrefix(name, m[1]) {
		e.t.Fatalf("push %s printed %q", name, m)
	}
	return m[2]
}

// uploads are the requests that put something there: methods and paths.
func uploads(requests []string) (list []string) {
	for _, r := range requests {
		if !strings.HasPrefix(r, "GET ") && !strings.HasPrefix(r, "HEAD ") {
			list = append(list, r)
		}
	}
	return list
}

// An image that was made here is pushed, and everybody can use it. Its digests are the same wherever it is pushed from and to.
func TestPush(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	e := withBusybox(t)
	podman := podmanEnv(t, e)
	reg, far := startRegistry(t, ""), startRegistry(t, "")
	name := reg.addr + "/team/app:1"
	e.fails(1, []string{"push busybox: localhost/busybox:latest says no registry", "layerctl tag busybox"}, "push", "busybox")
	e.fails(1, []string{"push " + e.id("busybox")[7:19], "by a name"}, "push", e.id("busybox")[7:19])
	e.fails(1, []string{"push nothing", "no such image"}, "push", "nothing")
	e.fails(2, []string{"--compression xz"}, "push", "--compression", "xz", "busybox")
	e.ok("tag", "busybox", name)
	digest := e.push(name)
	if got := e.skopeoDigest("--tls-verify=false docker://" + name); got != digest {
		t.Errorf("skopeo sees %s, we say %s", got, digest)
	}
	if got := e.digest(reg.addr + "/team/app"); got != digest {
		t.Errorf("images shows the digest %q", got)
	}
	if got := e.ok("inspect", "--format", "{{json .RepoDigests}}", name); !strings.Contains(got, reg.addr+"/team/app@"+digest) {
		t.Errorf("RepoDigests are %s", got)
	}

	// Again: one request. Under another name of the same registry: mounted. In another registry: sent as it is kept.
	reg.requests()
	if again := e.push(name); again != digest {
		t.Errorf("pushed again it has the digest %s", again)
	}
	if seen := reg.requests(); len(seen) != 1 || seen[0] != "HEAD /v2/team/app/manifests/1" {
		t.Errorf("a second push asks %q", seen)
	}
	e.ok("tag", name, reg.addr+"/other")
	if r := e.run("push", reg.addr+"/other"); !strings.Contains(r.stderr, "mounted from team/app") || !strings.Contains(r.stdout, digest) {
		t.Errorf("to another repository: %+v", r)
	}
	for _, r := range uploads(reg.requests()) {
		if strings.HasPrefix(r, "PATCH ") || strings.HasPrefix(r, "POST ") && !strings.Contains(r, "from=team%2Fapp") && !strings.Contains(r, "from=team/app") && strings.Contains(r, "mount=") {
			t.Errorf("to another repository: %s", r)
		}
	}
	e.ok("tag", "busybox", far.addr+"/app")
	if got := e.push(far.addr + "/app"); got != digest {
		t.Errorf("in another registry it has the digest %s", got)
	}
	// Not kept any more, the bytes are made again: the same, also on one core, and in another store.
	e.ok("prune", "-f")
	e.ok("tag", "busybox", far.addr+"/made/again")
	sh(t, e.dir, "rm -rf "+far.dir+"/data/docker/registry/v2/repositories/app")
	one := e.command("push", "-q", far.addr+"/made/again")
	one.Env = append(one.Env, "GOMAXPROCS=1")
	if r := e.finish(one); r.stdout != far.addr+"/made/again@"+digest+"\n" || r.stderr != "" {
		t.Errorf("made again: %+v", r)
	}
	e.ok("prune", "-f")
	e.ok("save", "--format", "oci-dir", "-o", "saved", name)
	if got := e.skopeoDigest("oci:saved:" + name); got != digest {
		t.Errorf("saved, it has the digest %s", got)
	}
	other := e.other("store.other")
	other.ok("import", "./busybox", far.addr+"/elsewhere")
	if got := other.push(far.addr + "/elsewhere"); got != digest {
		t.Errorf("from another store it has the digest %s", got)
	}

	// zstd is another blob and another manifest, and from then on this name's.
	packed := e.push(name, "--compression", "zstd:19")
	if packed == digest || e.push(name) != packed || e.push(name, "--compression=zstd:12") != packed {
		t.Errorf("with zstd the digest is %s", packed)
	}
	if raw := sh(t, e.dir, "skopeo inspect --tls-verify=false --raw docker://"+name); !strings.Contains(raw, "layer.v1.tar+zstd") {
		t.Errorf("the manifest is %s", raw)
	}
	if back := e.push(name, "--compression", "gzip"); back != digest {
		t.Errorf("with gzip again: %s", back)
	}

	e.ok("tag", "busybox", reg.addr+"/team/app:2")
	if out := e.ok("push", "-q", "-a", reg.addr+"/team/app"); out != strings.Repeat(reg.addr+"/team/app@"+digest+"\n", 2) {
		t.Errorf("with all tags: %s", out)
	}
	e.fails(1, []string{"push all tags of " + reg.addr + "/team/app:1: it names one image"}, "push", "-a", reg.addr+"/team/app:1")
	e.fails(1, []string{"push all tags of " + reg.addr + "/team/ap: no such image"}, "push", "-a", reg.addr+"/team/ap")

	// Everybody reads both.
	for _, ref := range []string{reg.addr + "/other", far.addr + "/zstd"} {
		if ref == far.addr+"/zstd" {
			e.ok("tag", "busybox", ref)
			e.push(ref, "--compression", "zstd")
		}
		sh(t, e.dir, podman+" pull -q --tls-verify=false "+ref+"; test $("+podman+" image inspect --format '{{.Id}}' "+ref+") = "+e.id("busybox")[7:])
		sh(t, e.dir, "rm -rf oci; skopeo copy -q --src-tls-verify=false docker://"+ref+" oci:oci:t")
		if !strings.Contains(ref, "zstd") { // which Debian's umoci and crane's validation do not know
			sh(t, e.dir, crane(t)+" validate --insecure --remote "+ref+"; rm -rf bundle; umoci unpack --image oci:t bundle; diff -r --no-dereference busybox bundle/rootfs")
		}
		sh(t, e.dir, crane(t)+" export --insecure "+ref+" - | tar -xO etc/one | grep -qx one")
		third := e.other("store.third")
		third.ok("pull", ref)
		if got := third.ok("run", "--rm", ref, "cat", "/etc/one"); got != "one\n" {
			t.Errorf("%s says %q", ref, got)
		}
		third.ok("rmi", ref)
	}
	// What was committed on top: the layer below is there already, and what was deleted stays so for everybody.
	e.ok("run", "--name", "changed", name, "sh", "-c", "rm -r /etc/one /etc/sub; mkdir /etc/sub; echo new > /etc/sub/new; chmod 700 /srv")
	e.ok("commit", "changed", reg.addr+"/team/committed")
	if r := e.run("push", reg.addr+"/team/committed"); r.code != 0 || strings.Count(r.stderr, ": pushed\n") != 1 || !strings.Contains(r.stderr, "mounted from ") {
		t.Errorf("push of a commit: %+v", r)
	}
	look := "ls /etc /etc/sub; cat /etc/sub/new; stat -c %a /srv"
	want := e.ok("run", "--rm", reg.addr+"/team/committed", "sh", "-c", look)
	third := e.other("store.third")
	third.ok("pull", reg.addr+"/team/committed")
	if got := third.ok("run", "--rm", reg.addr+"/team/committed", "sh", "-c", look); got != want || !strings.Contains(got, "new\n700\n") {
		t.Errorf("what was committed comes back as %q, want %q", got, want)
	}
	sh(t, e.dir, podman+" pull -q --tls-verify=false "+reg.addr+"/team/committed; m=$("+podman+" image mount "+reg.addr+"/team/committed); test ! -e $m/etc/one; test \"$(ls $m/etc/sub)\" = new; "+podman+" image unmount "+reg.addr+"/team/committed")
	e.ok("rm", "changed")
	third.ok("rmi", reg.addr+"/team/committed")
	e.ok("rmi", reg.addr+"/team/committed")
	e.ok("check", "--full")
	e.tidy()
	// What was kept for the next push goes with the image.
	if len(list(filepath.Join(e.root, "images/blobs/sha256"))) < 4 {
		t.Errorf("blobs: %q", list(filepath.Join(e.root, "images/blobs/sha256")))
	}
	e.ok("rmi", "-f", e.id("busybox")[7:])
	if left := list(filepath.Join(e.root, "images/blobs/sha256")); len(left) > 0 {
		t.Errorf("removed, the image leaves the blobs %q", left)
	}
}

// crane is go-containerregistry's own program, of the version that we build with: Debian has none.
func crane(t testing.TB) string {
	t.Helper()
	path := filepath.Join(scratch, "crane")
	if !exists(path) {
		sh(t, ".", "GOFLAGS= GOBIN="+scratch+" CGO_ENABLED=0 go install github.com/google/go-containerregistry/cmd/crane@$(go list -m -f '{{.Version}}' github.com/google/go-containerregistry)")
	}
	return path
}

// From one registry to another go the original bytes, whether they are kept here or have to be fetched.
func TestPushWhatWasPulled(t *testing.T) {
	e := newEnv(t)
	reg, far := startRegistry(t, ""), startRegistry(t, "")
	reg.push("docker", "--format v2s2", "--config.cmd /bin/sh", busyboxLayer, "echo 2 > two", "echo 3 > three")
	sh(t, e.dir, fmt.Sprintf("skopeo copy -q --src-tls-verify=false --dest-tls-verify=false --format oci --dest-compress-format zstd --dest-compress docker://%[1]s/docker dir:d; "+
		"skopeo copy -q --dest-tls-verify=false --format oci --dest-compress-format zstd --dest-compress dir:d docker://%[1]s/zstd", reg.addr))
	digests := map[string]string{}
	for _, name := range []string{"docker", "zstd"} {
		e.ok("pull", reg.addr+"/"+name)
		e.ok("tag", reg.addr+"/"+name, far.addr+"/"+name)
		digests[name] = e.digest(reg.addr + "/" + name)
	}
	if got := e.push(far.addr + "/docker"); got != digests["docker"] {
		t.Errorf("it has the digest %s, want %s", got, digests["docker"])
	}
	// The layers' trees were here when the second came, so its blobs were never fetched.
	reg.requests()
	if got := e.push(far.addr + "/zstd"); got != digests["zstd"] {
		t.Errorf("it has the digest %s, want %s", got, digests["zstd"])
	}
	for _, r := range reg.requests() {
		if strings.HasPrefix(r, "GET /v2/docker/") {
			t.Errorf("asked for what is here: %s", r)
		}
	}
	for name, digest := range digests {
		if got := e.skopeoDigest("--tls-verify=false docker://" + far.addr + "/" + name); got != digest {
			t.Errorf("skopeo sees %s of %s, want %s", got, name, digest)
		}
	}
	if r := e.run("push", "--compression", "zstd", far.addr+"/docker"); r.code != 0 || !strings.Contains(r.stderr, "no layer was made here") || !strings.Contains(r.stdout, digests["docker"]) {
		t.Errorf("with --compression: %+v", r)
	}
	// A layer that is nowhere any more.
	sh(t, e.dir, "rm -rf "+reg.dir+"/data/docker "+far.dir+"/data/docker")
	third := startRegistry(t, "")
	e.ok("tag", reg.addr+"/zstd", third.addr+"/zstd")
	e.fails(1, []string{"push " + third.addr + "/zstd: layer sha256:", "not kept here, and cannot be fetched", "not found"}, "push", third.addr+"/zstd")
	for _, r := range uploads(third.requests()) {
		if strings.HasPrefix(r, "PUT /v2/zstd/manifests/") {
			t.Errorf("half an image was named: %s", r)
		}
	}
	e.ok("tag", reg.addr+"/docker", third.addr+"/docker")
	if got := e.push(third.addr + "/docker"); got != digests["docker"] {
		t.Errorf("from what is kept it has the digest %s", got)
	}
	e.ok("check", "--full")
}

// A large layer goes through whatever comes between; a refusal is one line, and nothing is half made.
func TestPushThroughFaults(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, "mkdir tree; head -c 40000000 /dev/urandom > tree/large; seq 100000 > tree/small")
	e.ok("import", "tree", "large")
	want := ""
	var patches atomic.Int32
	for name, c := range map[string]struct {
		rule func(r *http.Request, n int) fault
		text string
		fail []string
	}{
		"nothing": {func(*http.Request, int) fault { return fault{} }, "", nil},
		"cut": {func(r *http.Request, n int) fault {
			if r.Method == "PATCH" && patches.Add(1) == 2 {
				return fault{take: 3000000}
			}
			return fault{}
		}, "to go on after", nil},
		"parts refused": {func(r *http.Request, n int) fault {
			if r.Method == "PATCH" {
				return fault{status: 405}
			}
			return fault{}
		}, "without parts", nil},
		"small parts": {func(r *http.Request, n int) fault {
			if r.ContentLength > 10<<20 {
				return fault{status: 413}
			}
			return fault{}
		}, "", nil},
		"busy": {func(r *http.Request, n int) fault {
			if n == 1 && (r.Method == "HEAD" || r.Method == "POST") || r.Method == "PATCH" && patches.Add(1) == 1 {
				return fault{status: 429, header: map[string]string{"Retry-After": "0"}}
			}
			return fault{}
		}, "429", nil},
		"the manifest": {func(r *http.Request, n int) fault {
			if r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/") {
				return fault{status: 400, message: "manifest invalid: no such type"}
			}
			return fault{}
		}, "", []string{"manifest sha256:", "answered 400, manifest invalid: no such type", "the registry refused it"}},
		"everything": {func(r *http.Request, n int) fault {
			if r.Method != "HEAD" {
				return fault{status: 403, message: "requested access to the resource is denied"}
			}
			return fault{}
		}, "", []string{"403, requested access to the resource is denied", "docker login"}},
	} {
		patches.Store(0)
		reg := startRegistry(t, "")
		p := startFaultProxy(t, reg.addr, c.rule)
		ref := p.addr + "/app"
		e.ok("tag", "large", ref)
		if c.fail != nil {
			e.fails(1, append(c.fail, "push "+ref), "push", ref)
			if got := e.digest(ref); got != "" {
				t.Errorf("%s: images shows the digest %s", name, got)
			}
		} else {
			r := e.run("push", ref)
			if r.code != 0 || !strings.Contains(r.stderr, c.text) {
				t.Errorf("%s: %+v", name, r)
				continue
			}
			m := pushedLine.FindStringSubmatch(r.stdout)
			if want == "" {
				want = m[2]
			}
			if m[2] != want {
				t.Errorf("%s: the digest is %s", name, m[2])
			}
			sh(t, e.dir, "rm -rf d; skopeo copy -q --src-tls-verify=false docker://"+ref+" dir:d")
		}
		// Debian's registry refuses even to forget an upload that was cut off in the middle of a part.
		if left, _ := filepath.Glob(filepath.Join(reg.dir, "data/docker/registry/v2/repositories/app/_uploads/*/data")); len(left) > 0 && name != "cut" {
			t.Errorf("%s: %d uploads are left in the registry", name, len(left))
		}
		e.ok("rmi", ref)
		os.RemoveAll(reg.dir)
	}
	e.tidy()
}

// With tokens: one is for all that a push does, mounting, too.
func TestPushWithTokens(t *testing.T) {
	open := startRegistry(t, "")
	open.push("team/base", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	home := alone(t, e)
	tokens := startTokenServer(t, e.dir)
	reg := open.also("", "auth: {token: {realm: "+tokens.URL+"/auth, service: test, issuer: tokens, rootcertbundle: "+e.dir+"/token.crt}}")
	docker := filepath.Join(home, ".docker/config.json")
	put(t, docker, `{"auths": {"`+reg.addr+`": {"username": "user", "password": "secret"}}}`, 0o600)
	e.ok("pull", reg.addr+"/team/base")
	e.ok("tag", reg.addr+"/team/base", reg.addr+"/team/app")
	tokens.requests()
	r := e.run("push", reg.addr+"/team/app")
	if r.code != 0 || !strings.Contains(r.stderr, "mounted from team/base") {
		t.Errorf("push: %+v", r)
	}
	if asked := tokens.requests(); len(asked) != 1 || asked[0] != "GET user repository:team/app:pull,push repository:team/base:pull" {
		t.Errorf("tokens were asked for %q", asked)
	}
	put(t, docker, `{}`, 0o600)
	e.ok("tag", reg.addr+"/team/base", reg.addr+"/team/not")
	e.fails(1, []string{"push " + reg.addr + "/team/not", "answered 401", "refused access", "docker login"}, "push", reg.addr+"/team/not")
}
