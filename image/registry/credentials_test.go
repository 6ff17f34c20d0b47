package registry

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lonely gives a test a machine without any credential, and returns its home directory.
func lonely(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	for _, name := range []string{"XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "LAYERCTL_STALL_TIMEOUT"} {
		t.Setenv(name, "")
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", os.DevNull)
	return home
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestAuthFileEntries(t *testing.T) {
	auth := func(key, userPassword string) string { return `"` + key + `": {"auth": "` + b64(userPassword) + `"}` }
	for _, c := range []struct {
		name, auths, host, repo string
		want                    credential
		fails                   string
	}{
		{"host", auth("h:5", "u:p"), "h:5", "a/b", credential{user: "u", password: "p"}, ""},
		{"another port", auth("h:6", "u:p"), "h:5", "a/b", credential{}, ""},
		{"a password with colons", auth("h", "u:p:q:"), "h", "a", credential{user: "u", password: "p:q:"}, ""},
		{"the most specific path", auth("h", "x:x") + "," + auth("h/a", "y:y") + "," + auth("h/a/b", "u:p") + "," + auth("h/a/b/c", "z:z"), "h", "a/b",
			credential{user: "u", password: "p"}, ""},
		{"a namespace", auth("h", "x:x") + "," + auth("h/a", "u:p"), "h", "a/b/c", credential{user: "u", password: "p"}, ""},
		{"no half of a name", auth("h/a", "x:x"), "h", "ab", credential{}, ""},
		{"a path is not its host", auth("h/a", "x:x"), "h", "c", credential{}, ""},
		{"a URL", auth("https://h/v1/", "u:p"), "h", "a", credential{user: "u", password: "p"}, ""},
		{"a URL without path", auth("http://h:5", "u:p"), "h:5", "a", credential{user: "u", password: "p"}, ""},
		{"Docker Hub of Docker", auth("https://index.docker.io/v1/", "u:p"), "docker.io", "library/x", credential{user: "u", password: "p"}, ""},
		{"Docker Hub of Podman", auth("docker.io", "u:p"), "docker.io", "library/x", credential{user: "u", password: "p"}, ""},
		{"an identity token", `"h": {"auth": "` + b64("u:") + `", "identitytoken": "idt"}`, "h", "a", credential{user: "u", identity: "idt"}, ""},
		{"an identity token as a password", auth("h", "<token>:idt"), "h", "a", credential{identity: "idt"}, ""},
		{"a registry token", `"h": {"registrytoken": "rt"}`, "h", "a", credential{bearer: "rt"}, ""},
		{"user and password", `"h": {"username": "u", "password": "p"}`, "h", "a", credential{user: "u", password: "p"}, ""},
		{"nothing, as Docker leaves it beside a store", `"h": {}`, "h", "a", credential{}, ""},
		{"not base64", `"h": {"auth": "%%"}`, "h", "a", credential{}, "base64"},
		{"no colon", auth("h", "u"), "h", "a", credential{}, "USER:PASSWORD"},
		{"another's mistake", `"i": {"auth": "%%"}`, "h", "a", credential{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := parseAuthFile([]byte(`{"auths": {` + c.auths + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.find(context.Background(), c.host, c.repo)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), c.host) {
					t.Fatalf("error %v, want one of %q and %q", err, c.fails, c.host)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

// Which file is asked, and in which order.
func TestAuthFiles(t *testing.T) {
	home := lonely(t)
	file := func(user string) string { return `{"auths": {"h": {"auth": "` + b64(user+":p") + `"}}}` }
	user := func() string {
		t.Helper()
		c, err := lookup(context.Background(), "h", "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.user
	}
	if got := user(); got != "" {
		t.Fatalf("without any file there is %q", got)
	}
	for _, step := range []struct{ path, user string }{
		{".docker/config.json", "docker"}, {".config/containers/auth.json", "config"}, {"run/containers/auth.json", "runtime"},
	} {
		write(t, filepath.Join(home, step.path), file(step.user), 0o600)
		if got := user(); got != step.user {
			t.Errorf("with %s there is %q", step.path, got)
		}
	}
	// A file that knows nothing of the host does not hide the next one.
	write(t, filepath.Join(home, "run/containers/auth.json"), `{"auths": {"other": {"auth": "eDp5"}}}`, 0o600)
	if got := user(); got != "config" {
		t.Errorf("the next file is not asked: %q", got)
	}
	write(t, filepath.Join(home, "elsewhere/containers/auth.json"), file("xdg"), 0o600)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "elsewhere"))
	if got := user(); got != "xdg" {
		t.Errorf("XDG_CONFIG_HOME: %q", got)
	}
	write(t, filepath.Join(home, "d/config.json"), file("dockerconfig"), 0o600)
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, "d"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "none"))
	if got := user(); got != "dockerconfig" {
		t.Errorf("DOCKER_CONFIG: %q", got)
	}
	write(t, filepath.Join(home, "named.json"), file("named"), 0o600)
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(home, "named.json"))
	if got := user(); got != "named" {
		t.Errorf("REGISTRY_AUTH_FILE: %q", got)
	}
	write(t, filepath.Join(home, "named.json"), `{"auths": [`, 0o600)
	if _, err := lookup(context.Background(), "h", "a", nil); err == nil || !strings.Contains(err.Error(), "named.json") {
		t.Errorf("a file that does not parse: %v", err)
	}
}

func TestCredentialHelpers(t *testing.T) {
	home := lonely(t)
	bin := filepath.Join(home, "bin")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	helper := func(name, script string) {
		write(t, filepath.Join(bin, "docker-credential-"+name), "#!/bin/sh\n[ \"$1\" = get ] || exit 9\nread server\n"+script, 0o700)
	}
	helper("good", `echo "{\"ServerURL\": \"$server\", \"Username\": \"u\", \"Secret\": \"$server\"}"`)
	helper("token", `echo '{"Username": "<token>", "Secret": "idt"}'`)
	helper("empty", "echo credentials not found in native keychain; exit 1")
	helper("broken", "echo the vault is sealed >&2; exit 3")
	helper("odd", "echo secret-word")
	for _, c := range []struct {
		name, file, host string
		want             credential
		fails            string
	}{
		{"a helper of a host", `"credHelpers": {"h": "good"}`, "h", credential{user: "u", password: "h"}, ""},
		{"of another host", `"credHelpers": {"h": "broken"}`, "i", credential{}, ""},
		{"a helper before the store", `"credsStore": "broken", "credHelpers": {"h": "good"}`, "h", credential{user: "u", password: "h"}, ""},
		{"the store", `"credsStore": "good", "auths": {"h": {}}`, "h", credential{user: "u", password: "h"}, ""},
		{"the store, for Docker Hub", `"credsStore": "good"`, "docker.io", credential{user: "u", password: "https://index.docker.io/v1/"}, ""},
		{"a helper for Docker Hub", `"credHelpers": {"docker.io": "good"}`, "docker.io", credential{user: "u", password: "docker.io"}, ""},
		{"an identity token", `"credsStore": "token"`, "h", credential{identity: "idt"}, ""},
		{"one that knows nothing", `"credsStore": "empty", "auths": {"h": {"auth": "` + b64("v:q") + `"}}`, "h", credential{user: "v", password: "q"}, ""},
		{"one that fails", `"credsStore": "broken"`, "h", credential{}, "docker-credential-broken: exit status 3: the vault is sealed"},
		{"one that is not there", `"credsStore": "absent"`, "h", credential{}, "docker-credential-absent: it is not in PATH"},
		{"one that says nonsense", `"credsStore": "odd"`, "h", credential{}, "docker-credential-odd: what it says does not parse"},
		{"a path", `"credsStore": "../x"`, "h", credential{}, "no program's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, filepath.Join(home, ".docker/config.json"), "{"+c.file+"}", 0o600)
			got, err := lookup(context.Background(), c.host, "a", nil)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "secret-word") {
					t.Fatalf("error %v, want one of %q", err, c.fails)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths": {"h": {"auth": "dTpw"}, "h/a": {"identitytoken": "x"}}}`), "h", "a/b")
	f.Add([]byte(`{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}}`), "docker.io", "library/x")
	f.Add([]byte(`{"auths": {"": {"username": "u"}, "http://": {"password": "p"}}}`), "h:1", "a")
	f.Add([]byte(`[]`), "h", "a")
	f.Fuzz(func(t *testing.T, b []byte, host, repo string) {
		file, err := parseAuthFile(b)
		if err != nil || strings.Contains(host, "/") || host == "" || repo == "" {
			return
		}
		file.CredHelpers, file.CredsStore = nil, "" // nothing is run
		c, err := file.find(context.Background(), host, repo)
		again, err2 := file.find(context.Background(), host, repo)
		if c != again || (err == nil) != (err2 == nil) {
			t.Errorf("%+v, %v and then %+v, %v", c, err, again, err2)
		}
		if err != nil && c != (credential{}) {
			t.Errorf("a credential and an error: %+v, %v", c, err)
		}
		if c != (credential{}) && len(file.Auths) == 0 {
			t.Errorf("a credential out of nothing: %+v", c)
		}
	})
}
