package tests

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// alone gives a test a home without credentials and settings, and returns it.
func alone(t *testing.T, e *env) string {
	t.Helper()
	home := filepath.Join(e.dir, "home")
	t.Setenv("HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.dir, "xdg"))
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "/dev/null")
	for _, name := range []string{"XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	return home
}

func put(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// userSecret is "user:secret" for htpasswd.
const userSecret = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"

// makeCertificates makes an authority ca.crt, srv.crt of loopback and of registry.invalid, and a client's cli.crt, each with its key.
func makeCertificates(t *testing.T, dir string) {
	t.Helper()
	sh(t, dir, `
new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
$new -x509 -days 2 -keyout ca.key -out ca.crt -subj '/CN=a test authority' 2>/dev/null
sign() { $new -keyout $1.key -out $1.csr -subj "/CN=$1" 2>/dev/null; openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out $1.crt -extfile <(echo "$2") 2>/dev/null; }
sign srv subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.invalid
sign cli extendedKeyUsage=clientAuth`)
}

// A registry behind TLS of a private authority that wants a client's certificate and a password.
func TestRegistryWithPassword(t *testing.T) {
	open := startRegistry(t, "")
	open.push("team/app", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	home := alone(t, e)
	makeCertificates(t, e.dir)
	put(t, filepath.Join(e.dir, "htpasswd"), userSecret, 0o600)
	reg := open.also(", tls: {certificate: "+e.dir+"/srv.crt, key: "+e.dir+"/srv.key, clientcas: ["+e.dir+"/ca.crt]}",
		"auth: {htpasswd: {realm: test, path: "+e.dir+"/htpasswd}}")
	ref := reg.addr + "/team/app"
	certs := filepath.Join(home, ".config/containers/certs.d", reg.addr)

	e.fails(1, []string{"pull " + ref, reg.addr, "authority that is not known", "hint: ", "certs.d/" + reg.addr + "/ca.crt"}, "pull", ref)
	sh(t, e.dir, "mkdir -p "+certs+"; cp ca.crt "+certs)
	e.fails(1, []string{"pull " + ref, reg.addr, "refused the TLS connection", "hint: ", "client.cert"}, "pull", ref)
	sh(t, e.dir, "cp cli.crt "+certs+"/me.cert; cp cli.key "+certs+"/me.key")
	e.fails(1, []string{"pull " + ref, reg.addr + " answered 401", "refused access", "hint: ", "docker login"}, "pull", ref)

	ok := func(how string) {
		t.Helper()
		if r := e.run("pull", ref); r.code != 0 {
			t.Errorf("%s: %s", how, r.stderr)
			return
		}
		e.ok("run", "--rm", ref, "true")
		e.ok("rmi", ref)
	}
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	docker := filepath.Join(home, ".docker/config.json")
	put(t, docker, `{"auths": {"`+reg.addr+`": {"auth": "`+auth("user:wrong")+`"}}}`, 0o600)
	e.fails(1, []string{"pull " + ref, reg.addr + " answered 401", "refused access"}, "pull", ref)
	put(t, docker, `{"auths": {"`+reg.addr+`": {"auth": "`+auth("user:secret")+`"}}}`, 0o600)
	ok("Docker's file")
	// Podman's, whose entry for the namespace is the better one.
	put(t, filepath.Join(e.dir, "xdg/containers/auth.json"), `{"auths": {"`+reg.addr+`": {"auth": "`+auth("user:wrong")+`"}, "`+reg.addr+`/team": {"auth": "`+auth("user:secret")+`"}}}`, 0o600)
	put(t, docker, "{}", 0o600)
	ok("Podman's file")
	os.Remove(filepath.Join(e.dir, "xdg/containers/auth.json"))

	// What the tools themselves write.
	for _, login := range []string{"skopeo login --cert-dir " + certs, "podman login --cert-dir " + certs} {
		put(t, filepath.Join(e.dir, "written.json"), "{}", 0o600)
		sh(t, e.dir, login+" --authfile written.json -u user -p secret "+reg.addr)
		t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(e.dir, "written.json"))
		ok(login)
	}
	os.Unsetenv("REGISTRY_AUTH_FILE")

	t.Setenv("PATH", e.dir+"/bin:"+os.Getenv("PATH"))
	put(t, e.dir+"/bin/docker-credential-test", "#!/bin/sh\nread server; echo \"$1 $server\" > "+e.dir+"/asked; echo '{\"Username\": \"user\", \"Secret\": \"secret\"}'\n", 0o700)
	put(t, e.dir+"/bin/docker-credential-sealed", "#!/bin/sh\necho the vault is sealed; exit 1\n", 0o700)
	put(t, docker, `{"credsStore": "sealed", "credHelpers": {"`+reg.addr+`": "test"}}`, 0o600)
	ok("a helper")
	if b, _ := os.ReadFile(e.dir + "/asked"); string(b) != "get "+reg.addr+"\n" {
		t.Errorf("the helper was asked %q", b)
	}
	put(t, docker, `{"credsStore": "sealed"}`, 0o600)
	e.fails(1, []string{"pull " + ref, "docker-credential-sealed", "the vault is sealed", docker, "hint: "}, "pull", ref)
	put(t, docker, `{"credsStore": "absent"}`, 0o600)
	e.fails(1, []string{"pull " + ref, "docker-credential-absent", "not in PATH", docker}, "pull", ref)
	put(t, docker, `{"auths": `, 0o600)
	e.fails(1, []string{"pull " + ref, docker, "does not parse"}, "pull", ref)
	// Nobody asks for what is not needed.
	open.requests()
	e.ok("pull", open.addr+"/team/app")
}

// tokenServer signs tokens for a registry, for whoever has the password, and for anybody for what is public.
type tokenServer struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // method, user and scope of each request
	key   *rsa.PrivateKey
	x5c   string
}

// startTokenServer returns a server and the certificate that a registry must know it by.
func startTokenServer(t *testing.T, dir string) *tokenServer {
	t.Helper()
	sh(t, dir, "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout token.key -out token.crt -subj '/CN=tokens' 2>/dev/null; openssl rsa -in token.key -traditional -out token.key 2>/dev/null")
	block := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := pem.Decode(b)
		return p.Bytes
	}
	key, err := x509.ParsePKCS1PrivateKey(block("token.key"))
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{key: key, x5c: base64.StdEncoding.EncodeToString(block("token.crt"))}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if r.FormValue("refresh_token") == "identity" {
		user, password = "user", "secret"
	}
	r.ParseForm()
	scope := strings.Join(r.Form["scope"], " ")
	s.mu.Lock()
	s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+user+" "+scope))
	s.mu.Unlock()
	if user != "" && password != "secret" {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"details": "incorrect username or password"}`)
		return
	}
	var access []map[string]any
	for _, scope := range strings.Fields(scope) {
		if part := strings.Split(scope, ":"); len(part) == 3 && (user != "" || strings.HasPrefix(part[1], "public/")) {
			actions := []string{"pull"}
			if user != "" {
				actions = strings.Split(part[2], ",")
			}
			access = append(access, map[string]any{"type": part[0], "name": part[1], "actions": actions})
		}
	}
	now := time.Now()
	token := s.sign(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{s.x5c}}, map[string]any{"iss": "tokens", "sub": user, "aud": r.FormValue("service"),
		"exp": now.Add(time.Hour).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "jti": fmt.Sprint(now.UnixNano()), "access": access})
	fmt.Fprintf(w, `{"token": %q, "access_token": %q, "expires_in": 3600}`, token, token)
}

// sign makes a JSON web token (RFC 7519) by hand.
func (s *tokenServer) sign(header, claims any) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (s *tokenServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func TestRegistryWithTokens(t *testing.T) {
	open := startRegistry(t, "")
	for _, name := range []string{"public/app", "team/app"} {
		open.push(name, "", "--config.cmd /bin/sh --config.env N="+name, busyboxLayer, "head -c 300000 /dev/urandom > noise", "echo 3 > three", "echo 4 > four")
	}
	e := newEnv(t)
	home := alone(t, e)
	tokens := startTokenServer(t, e.dir)
	reg := open.also("", "auth: {token: {realm: "+tokens.URL+"/auth, service: test, issuer: tokens, rootcertbundle: "+e.dir+"/token.crt}}")
	docker := filepath.Join(home, ".docker/config.json")

	e.ok("pull", reg.addr+"/public/app")
	if asked := tokens.requests(); len(asked) != 1 || asked[0] != "GET  repository:public/app:pull" {
		t.Errorf("for one repository, tokens were asked for %q", asked)
	}
	ref := reg.addr + "/team/app"
	e.fails(1, []string{"pull " + ref, reg.addr, "refused access", "docker login"}, "pull", ref)
	put(t, docker, `{"auths": {"`+reg.addr+`": {"username": "user", "password": "wrong"}}}`, 0o600)
	e.fails(1, []string{"pull " + ref, "token server of " + reg.addr, "incorrect username or password", "refused access"}, "pull", ref)
	put(t, docker, `{"auths": {"`+reg.addr+`": {"username": "user", "password": "secret"}}}`, 0o600)
	tokens.requests()
	e.ok("pull", ref)
	if asked := tokens.requests(); len(asked) != 1 || asked[0] != "GET user repository:team/app:pull" {
		t.Errorf("tokens were asked for %q", asked)
	}
	e.ok("run", "--rm", ref, "true")
	e.ok("rmi", ref)
	put(t, docker, `{"auths": {"`+reg.addr+`": {"identitytoken": "identity"}}}`, 0o600)
	e.ok("pull", ref)
	if asked := tokens.requests(); len(asked) != 1 || asked[0] != "POST user repository:team/app:pull" {
		t.Errorf("with an identity token, tokens were asked for %q", asked)
	}
	e.ok("rmi", ref)

	// The registry stops believing the token in the middle: it is renewed, and the pull goes on.
	n := 0
	var mu sync.Mutex
	p := startFaultProxy(t, reg.addr, func(r *http.Request, _ int) fault {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			if n++; n == 3 {
				return fault{anonymous: true}
			}
		}
		return fault{}
	})
	put(t, docker, `{"auths": {"`+p.addr+`": {"username": "user", "password": "secret"}}}`, 0o600)
	e.ok("pull", p.addr+"/team/app")
	if asked := tokens.requests(); len(asked) != 2 {
		t.Errorf("a token was lost in the middle of the pull, and tokens were asked for %q", asked)
	}
	e.ok("run", "--rm", p.addr+"/team/app", "true")
}

// registries.conf says where an image is taken from; its name stays the one that was asked for.
func TestRegistryMirrors(t *testing.T) {
	primary, mirror := startRegistry(t, ""), startRegistry(t, "")
	for _, r := range []*registry{primary, mirror} {
		r.push("team/app", "", "--config.cmd /bin/sh", busyboxLayer)
	}
	primary.push("team/only", "", "--config.cmd /bin/sh", busyboxLayer)
	mirror.push("cache/team/app", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	alone(t, e)
	conf := func(s string) {
		put(t, e.dir+"/registries.conf", s, 0o600)
		t.Setenv("CONTAINERS_REGISTRIES_CONF", e.dir+"/registries.conf")
		primary.requests()
		mirror.requests()
	}
	table := func(extra ...string) string {
		return "unqualified-search-registries = ['example.com']\n[[registry]]\nlocation = '" + primary.addr + "'\n" + strings.Join(extra, "\n") + "\n"
	}
	ref := primary.addr + "/team/app"
	conf(table("[[registry.mirror]]", "location = '"+mirror.addr+"/cache'"))
	if out := e.ok("pull", ref); !strings.HasPrefix(out, ref+"@sha256:") {
		t.Errorf("from the mirror it printed %q", out)
	}
	if p, m := primary.requests(), mirror.requests(); len(p) != 0 || len(blobs(m)) == 0 || !strings.Contains(m[0], "/v2/cache/team/app/") {
		t.Errorf("the registry was asked %q, its mirror %q", p, m)
	}
	if out := e.ok("images", "--format", "{{.Repository}}"); out != ref+"\n" {
		t.Errorf("it is named %q", out)
	}
	// The mirror lacks this one.
	r := e.run("pull", primary.addr+"/team/only")
	if r.code != 0 || !strings.Contains(r.stderr, "trying "+primary.addr+": "+mirror.addr+" answered 404") {
		t.Errorf("%+v", r)
	}
	e.ok("rmi", ref)
	conf(table("[[registry.mirror]]", "location = '127.0.0.1:1'", "[[registry.mirror]]", "location = '"+mirror.addr+"'"))
	r = e.run("pull", ref)
	if r.code != 0 || !strings.Contains(r.stderr, "trying "+mirror.addr+": 127.0.0.1:1") || len(primary.requests()) != 0 {
		t.Errorf("with a mirror that is down: %+v", r)
	}
	e.ok("rmi", ref)
	conf("[[registry]]\nprefix = 'quay.invalid/x'\nlocation = '" + primary.addr + "/team'\n")
	if out := e.ok("pull", "quay.invalid/x/app"); !strings.HasPrefix(out, "quay.invalid/x/app@sha256:") {
		t.Errorf("from elsewhere it printed %q", out)
	}
	conf(table("blocked = true"))
	e.fails(1, []string{"pull " + ref, primary.addr + " is blocked", "hint: ", e.dir + "/registries.conf"}, "pull", ref)
	if p := primary.requests(); len(p) != 0 {
		t.Errorf("though blocked it was asked %q", p)
	}
	conf("[[registry]]\nlocation = 5\n")
	e.fails(1, []string{"pull " + ref, e.dir + "/registries.conf", "line 2"}, "pull", ref)
	conf(table("[[registry.mirror]]", "location = '127.0.0.1:1'"))
	e.fails(1, []string{"no such image", primary.addr + " answered 404", "127.0.0.1:1"}, "pull", primary.addr+"/team/none")
}

// A mirror that serves wrong bytes is passed over with a warning, whatever it is wrong about; so is one that breaks off again and again.
func TestRegistryMirrorsThatLie(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer, "head -c 400000 /dev/urandom > noise")
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	fromJSON(t, sh(t, "/", "skopeo inspect --raw --tls-verify=false docker://"+reg.addr+"/app"), &manifest)
	noise, ref := manifest.Layers[1].Digest, reg.addr+"/app"
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }
	another := func(digest string) func([]byte) []byte {
		return func(b []byte) []byte {
			return bytes.Replace(b, []byte(digest), []byte("sha256:"+strings.Repeat("0", 64)), 1)
		}
	}
	untold := map[string]string{"Docker-Content-Digest": ""}
	e := newEnv(t)
	alone(t, e)
	mirrors := func(rules ...fault) (addrs []string) {
		text := "[[registry]]\nlocation = '" + reg.addr + "'\n"
		for i := 0; i < len(rules); i += 2 {
			p := startFaultProxy(t, reg.addr, func(r *http.Request, _ int) fault {
				switch {
				case strings.Contains(r.URL.Path, "/manifests/"):
					return rules[i]
				case strings.HasSuffix(r.URL.Path, manifest.Config.Digest) && rules[i+1].length < 0:
					return fault{change: flip}
				case strings.HasSuffix(r.URL.Path, noise) && rules[i+1].length >= 0:
					return rules[i+1]
				}
				return fault{}
			})
			addrs = append(addrs, p.addr)
			text += "[[registry.mirror]]\nlocation = '" + p.addr + "'\n"
		}
		put(t, e.dir+"/registries.conf", text, 0o600)
		t.Setenv("CONTAINERS_REGISTRIES_CONF", e.dir+"/registries.conf")
		return addrs
	}
	for _, c := range []struct {
		name           string
		manifest, blob fault
		says           string
	}{
		{"a bit of a layer", fault{}, fault{change: flip}, "warning: trying " + reg.addr + ": what MIRROR serves is not right: "},
		{"more than a layer", fault{}, fault{chunked: true, change: func(b []byte) []byte { return append(b, "more"...) }}, "warning: trying " + reg.addr + ": what MIRROR serves is not right: "},
		{"less than a layer", fault{}, fault{change: func(b []byte) []byte { return b[:len(b)-10] }}, "warning: trying " + reg.addr + ": MIRROR has "},
		{"the beginning of a layer", fault{}, fault{cut: 100000, change: flip, noRange: true}, "trying " + reg.addr + ": MIRROR closed the connection "},
		{"a config", fault{}, fault{length: -1}, "warning: trying " + reg.addr + ": what MIRROR serves is not right: "},
		{"a layer that nobody has", fault{header: untold, change: another(noise)}, fault{}, "warning: trying " + reg.addr + ": what MIRROR serves is not right: "},
		{"a config that nobody has", fault{header: untold, change: another(manifest.Config.Digest)}, fault{}, "warning: trying " + reg.addr + ": what MIRROR serves is not right: "},
		{"a manifest", fault{change: another(noise)}, fault{}, "warning: trying " + reg.addr + ": MIRROR: manifest latest: "},
		{"cuts", fault{}, fault{cut: 50000}, "trying " + reg.addr + ": MIRROR closed the connection in the middle of an answer: registry unavailable, 3 times, at last after 150000 of "},
	} {
		mirror := mirrors(c.manifest, c.blob)[0]
		r := e.run("pull", "-q", ref)
		if c.name == "cuts" || c.name == "the beginning of a layer" {
			e.ok("rmi", ref)
			r = e.run("pull", ref)
		}
		if r.code != 0 || !strings.Contains(r.stderr, strings.ReplaceAll(c.says, "MIRROR", mirror)) {
			t.Errorf("%s: %+v", c.name, r)
			continue
		}
		if out := e.ok("check", "--full"); !strings.Contains(out, "ok: 1 images") {
			t.Errorf("%s: %s", c.name, out)
		}
		e.ok("run", "--rm", ref, "true")
		if c.name == "a bit of a layer" { // the same holds when a blob is fetched again
			blob := filepath.Join(e.root, "images/blobs", strings.Replace(noise, ":", "/", 1))
			if err := os.Truncate(blob, 1000); err != nil {
				t.Fatal(err)
			}
			r := e.run("check", "--repair")
			if r.code != 0 || !strings.Contains(r.stderr, "what "+mirror+" serves is not right") || !strings.Contains(r.stdout+r.stderr, "fetched again") {
				t.Errorf("repaired: %+v", r)
			}
		}
		e.ok("rmi", ref)
	}
	// Where nobody has the right bytes it is an error, and each who had wrong ones is named.
	addrs := mirrors(fault{}, fault{change: flip}, fault{}, fault{cut: -1}) // the first is the registry itself, too
	put(t, e.dir+"/registries.conf", strings.Replace(sh(t, e.dir, "cat registries.conf"), "location = '"+reg.addr, "prefix = '"+reg.addr+"'\nlocation = '"+addrs[0], 1), 0o600)
	r := e.run("pull", "-q", ref)
	for _, text := range []string{"layerctl: pull " + ref, "layer " + noise, "verification failed", "hint: ", "what " + addrs[0] + " serves is not right"} {
		if r.code != 1 || !strings.Contains(r.stderr, text) {
			t.Errorf("nobody has the right bytes, and it does not say %q: %+v", text, r)
		}
	}
	if names := list(filepath.Join(e.root, "snapshots/staging")); len(names) > 0 {
		t.Errorf("staging holds %q", names)
	}
}

// Neither name below exists: without the proxy there is nothing to connect to.
func TestRegistryThroughProxy(t *testing.T) {
	open := startRegistry(t, "")
	open.push("app", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	home := alone(t, e)
	makeCertificates(t, e.dir)
	safe := open.also(", tls: {certificate: "+e.dir+"/srv.crt, key: "+e.dir+"/srv.key}", "")
	sh(t, e.dir, "d="+home+"/.config/containers/certs.d/registry.invalid; mkdir -p $d; cp ca.crt $d")
	var mu sync.Mutex
	seen := map[string]int{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.Method+" "+r.Host]++
		mu.Unlock()
		if r.Method != http.MethodConnect {
			(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", open.addr }}).ServeHTTP(w, r)
			return
		}
		there, err := net.Dial("tcp", safe.addr)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			there.Close()
			return
		}
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(there, here); there.Close() }()
		io.Copy(here, there)
		here.Close()
	}))
	defer proxy.Close()
	e.fails(1, []string{"registry.invalid", "unavailable"}, "pull", "registry.invalid/app")
	t.Setenv("HTTPS_PROXY", proxy.URL)
	e.ok("pull", "registry.invalid/app")
	t.Setenv("http_proxy", proxy.URL)
	e.ok("pull", "--plain-http", "plain.invalid/app")
	mu.Lock()
	if seen["CONNECT registry.invalid:443"] == 0 || seen["GET plain.invalid"] == 0 {
		t.Errorf("the proxy saw %v", seen)
	}
	mu.Unlock()
	t.Setenv("NO_PROXY", "registry.invalid")
	e.fails(1, []string{"registry.invalid", "unavailable"}, "pull", "registry.invalid/app:2")
}
