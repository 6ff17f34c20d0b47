package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// credential is what a registry is shown: a user and password, or an identity token that buys tokens, or a token.
type credential struct {
	user, password, identity, bearer string
}

// authFile is Docker's config.json or Podman's auth.json, as far as it concerns us (docker's "login" reference;
// containers-auth.json(5)).
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of USER:PASSWORD
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// authFiles are the files that may hold credentials, in the order in which they are asked: Podman's, then Docker's. One that the user
// names is the only one.
func authFiles() []string {
	if f := os.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	var files []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	} else {
		files = append(files, fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()))
	}
	if dir := configHome(); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home := os.Getenv("HOME"); home != "" {
		files = append(files, filepath.Join(home, ".docker/config.json"))
	}
	return files
}

// configHome is where the user's own settings are (XDG base directories).
func configHome() string {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return dir
	}
	if home := os.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".config")
	}
	return ""
}

// lookup finds the credential for a repository; an empty one if there is none. helpers are asked in their order, where
// "containers-auth.json" stands for the auth files; without any it is the files alone.
func lookup(ctx context.Context, host, repo string, helpers []string) (credential, error) {
	if len(helpers) == 0 {
		return fromFiles(ctx, host, repo)
	}
	for _, h := range helpers {
		c, err := credential{}, error(nil)
		if h == "containers-auth.json" {
			c, err = fromFiles(ctx, host, repo)
		} else {
			c, err = askHelper(ctx, h, host)
		}
		if err != nil || c != (credential{}) {
			return c, err
		}
	}
	return credential{}, nil
}

func fromFiles(ctx context.Context, host, repo string) (credential, error) {
	for _, name := range authFiles() {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return credential{}, fmt.Errorf("read the credentials of %s: %w: %w", host, err, ErrConfig)
		}
		f, err := parseAuthFile(b)
		if err != nil {
			return credential{}, fmt.Errorf("read the credentials of %s: %s: %w", host, name, err)
		}
		c, err := f.find(ctx, host, repo)
		if err != nil {
			return credential{}, fmt.Errorf("the credentials of %s: %s: %w", host, name, err)
		}
		if c != (credential{}) {
			return c, nil
		}
	}
	return credential{}, nil
}

func parseAuthFile(b []byte) (*authFile, error) {
	var f authFile
	if len(bytes.TrimSpace(b)) == 0 {
		return &f, nil
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("it does not parse: %w: %w", err, ErrConfig)
	}
	return &f, nil
}

// find looks for what the file knows of a repository: a helper for the host, the helper for all hosts, then its own entries.
func (f *authFile) find(ctx context.Context, host, repo string) (credential, error) {
	for _, key := range hostKeys(host) {
		if helper := f.CredHelpers[key]; helper != "" {
			if c, err := askHelper(ctx, helper, key); err != nil || c != (credential{}) {
				return c, err
			}
		}
	}
	if f.CredsStore != "" {
		keys := hostKeys(host)
		if c, err := askHelper(ctx, f.CredsStore, keys[len(keys)-1]); err != nil || c != (credential{}) {
			return c, err
		}
	}
	key, entry := f.entry(host, repo)
	c, err := entry.credential()
	if err != nil {
		err = fmt.Errorf("the entry %q: %w: %w", key, err, ErrConfig)
	}
	return c, err
}

// hostKeys are the names under which a host is known to helpers. Docker calls its own registry by a URL; it comes last.
func hostKeys(host string) []string {
	if host == dockerHub {
		return []string{dockerHub, "index.docker.io", "https://index.docker.io/v1/"}
	}
	return []string{host}
}

// entry finds the most specific entry for a repository: HOST/NS/REPO, HOST/NS, HOST, as Podman writes them, or any of the forms of HOST
// that Docker has written over the years.
func (f *authFile) entry(host, repo string) (string, authEntry) {
	for path := host + "/" + repo; path != host; path = path[:strings.LastIndexByte(path, '/')] {
		if e, ok := f.Auths[path]; ok && e != (authEntry{}) {
			return path, e
		}
	}
	if e, ok := f.Auths[host]; ok && e != (authEntry{}) {
		return host, e
	}
	// Several may mean the same host: the least name, so that it is always the same one.
	best, found := "", authEntry{}
	for key, e := range f.Auths {
		if e != (authEntry{}) && hostOfKey(key) == host && (best == "" || key < best) {
			best, found = key, e
		}
	}
	return best, found
}

// hostOfKey is the host of one of Docker's keys: "https://index.docker.io/v1/", "http://host:5000", "host/v2/". "" for a key with a path
// of its own, which is Podman's for one namespace.
func hostOfKey(key string) string {
	url := strings.Contains(key, "://")
	if url {
		_, key, _ = strings.Cut(key, "://")
	}
	host, path, _ := strings.Cut(key, "/")
	if path = strings.Trim(path, "/"); path != "" && path != "v1" && path != "v2" && !url {
		return ""
	}
	switch host {
	case "index.docker.io", dockerHubAPI:
		return dockerHub
	}
	return host
}

func (e authEntry) credential() (credential, error) {
	c := credential{user: e.Username, password: e.Password, identity: e.IdentityToken, bearer: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Auth))
	if err != nil {
		return credential{}, errors.New("auth is not base64")
	}
	user, password, found := strings.Cut(string(b), ":")
	if !found {
		return credential{}, errors.New("auth is not USER:PASSWORD in base64")
	}
	c.user, c.password = user, strings.TrimRight(password, "\x00") // which old Dockers appended
	if c.user == tokenUser {
		c.identity, c.user, c.password = c.password, "", ""
	}
	return c, nil
}

// tokenUser is the name under which a helper keeps an identity token (docker-credential-helpers' README).
const tokenUser = "<token>"

// helperLimit is how long a helper may take: it may ask a person.
const helperLimit = 2 * time.Minute

// askHelper asks the program docker-credential-NAME for what it knows of a server: its name on stdin, JSON on stdout.
func askHelper(ctx context.Context, name, server string) (credential, error) {
	program := "docker-credential-" + name
	failed := func(why string) error {
		return hinted{fmt.Errorf("the credential helper %.100s: %s: %w", program, why, ErrUnauthorized),
			"try `echo " + server + " | " + program + " get`, or take it out of the file"}
	}
	if strings.ContainsAny(name, "/\x00") {
		return credential{}, failed("its name is no program's")
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return credential{}, failed("it is not in PATH")
	}
	ctx, cancel := context.WithTimeout(ctx, helperLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "get")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(server), &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(out.String() + " " + errs.String())
		switch {
		case strings.Contains(said, "credentials not found"):
			return credential{}, nil
		case ctx.Err() != nil:
			return credential{}, failed("it did not answer")
		}
		return credential{}, failed(fmt.Sprintf("%s: %.300s", err, oneLine(errors.New(said))))
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return credential{}, failed("what it says does not parse") // nor is it shown: it may be a password
	}
	if got.Username == tokenUser {
		return credential{identity: got.Secret}, nil
	}
	return credential{user: got.Username, password: got.Secret}, nil
}
