package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/layerctl/layerctl/image/reference"
)

// registriesConf is registries.conf, version 2, as far as it concerns where an image comes from (containers-registries.conf(5)).
// What says how short names are searched is read by nobody: a name means the same on every machine (cli.md, "a reference").
type registriesConf struct {
	Registries []registryTable `toml:"registry"`
	Helpers    []string        `toml:"credential-helpers"` // asked instead of the auth files, which are "containers-auth.json"

	V1 map[string]any `toml:"registries"` // version 1's [registries.search], .insecure, .block
}

type registryTable struct {
	Prefix     string        `toml:"prefix"`
	Location   string        `toml:"location"`
	Insecure   bool          `toml:"insecure"`
	Blocked    bool          `toml:"blocked"`
	DigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirrors    []mirrorTable `toml:"mirror"`
	fromFile   string
}

type mirrorTable struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	Pull     string `toml:"pull-from-mirror"`
}

// confFiles are the files that are read, later ones over earlier ones: the user's registries.conf instead of the system's, then what
// lies in both registries.conf.d. One that the environment names is the only one.
func confFiles() ([]string, error) {
	if f := os.Getenv("CONTAINERS_REGISTRIES_CONF"); f != "" {
		return []string{f}, nil
	}
	const system = "/etc/containers"
	bases := []string{system}
	main := filepath.Join(system, "registries.conf")
	if dir := configHome(); dir != "" {
		user := filepath.Join(dir, "containers")
		bases = append(bases, user)
		if _, err := os.Lstat(filepath.Join(user, "registries.conf")); err == nil {
			main = filepath.Join(user, "registries.conf")
		}
	}
	files := []string{main}
	for _, base := range bases {
		dropins, err := filepath.Glob(filepath.Join(base, "registries.conf.d", "*.conf"))
		if err != nil {
			return nil, err
		}
		files = append(files, dropins...) // Glob sorts
	}
	return files, nil
}

// readConf reads all of them. A table of a later file takes the place of the earlier one with the same prefix.
func readConf() (registriesConf, error) {
	var all registriesConf
	files, err := confFiles()
	if err != nil {
		return all, err
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && os.Getenv("CONTAINERS_REGISTRIES_CONF") == "" {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("read registries.conf: %w: %w", err, ErrConfig)
		}
		c, err := parseConf(b)
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
		for _, t := range c.Registries {
			t.fromFile = name
			all.Registries = slices.DeleteFunc(all.Registries, func(old registryTable) bool { return old.Prefix == t.Prefix })
			all.Registries = append(all.Registries, t)
		}
		if len(c.Helpers) > 0 {
			all.Helpers = c.Helpers
		}
	}
	return all, nil
}

// parseConf reads one file and brings it into form: each table has a prefix, and what it names is a host or below one.
func parseConf(b []byte) (registriesConf, error) {
	var c registriesConf
	if err := toml.Unmarshal(b, &c); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return c, fmt.Errorf("line %d: %s: %w", line, oneLine(err), ErrConfig)
		}
		return c, fmt.Errorf("%s: %w", oneLine(err), ErrConfig)
	}
	if c.V1 != nil {
		return c, fmt.Errorf("it is in the old format, with [registries.…]; version 2 has a table [[registry]] for each: %w", ErrConfig)
	}
	seen := map[string]bool{}
	for i := range c.Registries {
		t := &c.Registries[i]
		if t.Prefix == "" {
			t.Prefix = t.Location
		}
		t.Prefix = strings.TrimRight(t.Prefix, "/")
		wild := strings.HasPrefix(t.Prefix, "*.")
		bad := func(format string, a ...any) (registriesConf, error) {
			return c, fmt.Errorf("[[registry]] %q: %s: %w", t.Prefix, fmt.Sprintf(format, a...), ErrConfig)
		}
		switch {
		case t.Prefix == "":
			return bad("it has neither a prefix nor a location")
		case wild && (strings.ContainsAny(t.Prefix, "/:@") || strings.Contains(t.Prefix[1:], "*")):
			return bad("a prefix with a * is *.HOST")
		case !wild && !isLocation(t.name()):
			return bad("the prefix is no HOST[:PORT][/PATH[:TAG]]")
		case seen[t.Prefix]:
			return bad("the file has two tables with this prefix")
		}
		seen[t.Prefix] = true
		if t.Location == "" && !wild {
			t.Location = t.name()
		}
		t.Location = strings.TrimRight(t.Location, "/")
		if t.Location != "" && !isLocation(t.Location) {
			return bad("the location %q is no HOST[:PORT][/PATH]", t.Location)
		}
		for j := range t.Mirrors {
			m := &t.Mirrors[j]
			m.Location = strings.TrimRight(m.Location, "/")
			if !isLocation(m.Location) {
				return bad("the location %q of a mirror is no HOST[:PORT][/PATH]", m.Location)
			}
			switch m.Pull {
			case "", "all", "digest-only", "tag-only":
				if t.DigestOnly && m.Pull != "" {
					return bad("pull-from-mirror and mirror-by-digest-only say the same thing twice")
				}
			default:
				return bad("pull-from-mirror = %q: want all, digest-only or tag-only", m.Pull)
			}
		}
	}
	return c, nil
}

// isLocation says whether s is a host or something below one.
func isLocation(s string) bool {
	r, err := reference.Parse(s + "/x")
	return err == nil && r.Name() == s+"/x"
}

// name is the prefix without tag and digest.
func (t *registryTable) name() string {
	name, _, _ := strings.Cut(t.Prefix, "@")
	if slash := strings.LastIndexByte(name, '/'); slash >= 0 {
		if colon := strings.IndexByte(name[slash:], ':'); colon >= 0 {
			name = name[:slash+colon]
		}
	}
	return name
}

// matches says how much of a reference's name the prefix covers, in bytes; -1 if it does not match. A host alone does not match the same
// host with a port.
func (t *registryTable) matches(ref reference.Ref) int {
	name := ref.Name()
	if suffix, wild := strings.CutPrefix(t.Prefix, "*"); wild {
		host, _, _ := strings.Cut(name, "/")
		if strings.HasSuffix(hostname(host), suffix) {
			return len(host)
		}
		return -1
	}
	rest, found := strings.CutPrefix(ref.String(), t.Prefix)
	if !found || rest != "" && rest[0] != '/' && (!strings.Contains(t.Prefix, "/") || rest[0] != ':' && rest[0] != '@') {
		return -1
	}
	return min(len(t.Prefix), len(name))
}

// placesOf is where ref is to be looked for, in order: the mirrors, then the place itself.
func placesOf(ref reference.Ref, conf []registryTable) ([]place, error) {
	var best *registryTable
	for i := range conf {
		if t := &conf[i]; t.matches(ref) >= 0 && (best == nil || len(t.Prefix) > len(best.Prefix)) {
			best = t
		}
	}
	if best == nil {
		return []place{{location: ref.Name()}}, nil
	}
	if best.Blocked {
		return nil, hinted{fmt.Errorf("%s is %w", best.Prefix, ErrBlocked), "it is " + best.fromFile + " that says so"}
	}
	rest := ref.Name()[best.matches(ref):]
	below := func(location string) string {
		if location == "" {
			return ref.Name()
		}
		return location + rest
	}
	var places []place
	for _, m := range best.Mirrors {
		byDigest := ref.Digest != ""
		if m.Pull == "digest-only" && !byDigest || m.Pull == "tag-only" && byDigest || best.DigestOnly && m.Pull == "" && !byDigest {
			continue
		}
		places = append(places, place{location: below(m.Location), insecure: m.Insecure, mirror: true})
	}
	places = append(places, place{location: below(best.Location), insecure: best.Insecure})
	for _, p := range places {
		if !strings.Contains(p.location, "/") {
			return nil, fmt.Errorf("%s: [[registry]] %q leads to %q, which is a host and no repository: %w", best.fromFile, best.Prefix, p.location, ErrConfig)
		}
	}
	return places, nil
}
