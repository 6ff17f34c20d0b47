package reference

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid is what Parse returns for anything that is no reference.
var ErrInvalid = errors.New("invalid reference")

const (
	defaultRegistry = "docker.io"
	defaultTag      = "latest"
	localRegistry   = "localhost" // names that came from no registry
	maxName         = 255
	maxTag          = 128
)

// Ref is a parsed reference. Tag and Digest may both be set; then the digest decides.
type Ref struct{ Registry, Repository, Tag, Digest string }

// Parse reads a reference and fills in what is left out. The tag "latest" is filled in only where there is no digest.
func Parse(s string) (Ref, error) {
	bad := func(why string) (Ref, error) { return Ref{}, fmt.Errorf("%.300q: %s: %w", s, why, ErrInvalid) }
	var r Ref
	rest, digest, found := strings.Cut(s, "@")
	if found {
		if !ValidDigest(digest) {
			return bad("the digest is not sha256: and 64 hex digits")
		}
		r.Digest = digest
	}
	if rest == "" {
		return bad("there is no name")
	}
	slash := strings.LastIndexByte(rest, '/')
	if colon := strings.IndexByte(rest[slash+1:], ':'); colon >= 0 {
		r.Tag = rest[slash+1+colon+1:]
		rest = rest[:slash+1+colon]
		if !validTag(r.Tag) {
			return bad("the tag is not 1 to 128 letters, digits, dots, dashes and underscores")
		}
	} else if r.Digest == "" {
		r.Tag = defaultTag
	}
	first, path, found := strings.Cut(rest, "/")
	if found && (strings.ContainsAny(first, ".:[") || first == localRegistry || strings.ToLower(first) != first) {
		if !validHost(first) {
			return bad("the registry's name is malformed")
		}
		r.Registry, r.Repository = first, path
	} else {
		r.Registry, r.Repository = defaultRegistry, rest
		if !found {
			r.Repository = "library/" + rest
		}
	}
	if r.Registry == "index.docker.io" {
		r.Registry = defaultRegistry
	}
	if len(r.Repository) > maxName {
		return bad("the name is longer than 255 bytes")
	}
	// Docker refuses these, too.
	if bare := r.FamiliarName(); r.Registry == localRegistry || r.Registry == defaultRegistry {
		if bare = strings.TrimPrefix(bare, localRegistry+"/"); bare == "sha256" || ValidDigest("sha256:"+bare) {
			return bad("it would be taken for an image's ID")
		}
	}
	for _, part := range strings.Split(r.Repository, "/") {
		if !validComponent(part) {
			if strings.ToLower(part) != part {
				return bad("a repository's name is in lower case")
			}
			return bad("the repository's name is malformed")
		}
	}
	return r, nil
}

// Name is the reference without tag and digest: "docker.io/library/ubuntu".
func (r Ref) Name() string { return r.Registry + "/" + r.Repository }

// String is the canonical form: "docker.io/library/ubuntu:latest".
func (r Ref) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// FamiliarName is Name as a person writes it: "ubuntu".
func (r Ref) FamiliarName() string {
	if r.Registry != defaultRegistry {
		return r.Name()
	}
	return strings.TrimPrefix(r.Repository, "library/")
}

// Candidates are the canonical forms that a name typed by a user may mean among the names that are here: without a registry, one that
// came from none, then Docker Hub's.
func Candidates(s string) []string {
	r, err := Parse(s)
	if err != nil {
		return nil
	}
	if first, _, found := strings.Cut(s, "/"); r.Registry == defaultRegistry && !(found && strings.Contains(first, ".")) {
		local, err := Parse(localRegistry + "/" + s)
		if err == nil {
			return []string{local.String(), r.String()}
		}
	}
	return []string{r.String()}
}

// Local is what a new name means that a user gives an image: without a registry, one that came from none.
func Local(s string) (Ref, error) {
	c := Candidates(s)
	if len(c) == 0 {
		return Parse(s)
	}
	return Parse(c[0])
}

// IsLocal says whether a name came from no registry.
func IsLocal(r Ref) bool { return r.Registry == localRegistry }

// ValidDigest says whether s is sha256: and 64 lower-case hex digits.
func ValidDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

func validTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && (c < 'A' || c > 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// validComponent: letters and digits, with single dots, one or two underscores or any number of dashes between them.
func validComponent(s string) bool {
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && (isLower(s[i]) || isDigit(s[i])) {
			i++
		}
		if i == start {
			return false
		}
		if i == len(s) {
			return true
		}
		start = i
		for i < len(s) && s[i] == s[start] {
			i++
		}
		n := i - start
		switch s[start] {
		case '-':
		case '.':
			if n > 1 {
				return false
			}
		case '_':
			if n > 2 {
				return false
			}
		default:
			return false
		}
	}
	return false
}

func validHost(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || strings.Trim(s[1:end], "0123456789abcdefABCDEF:") != "" || end == 1 {
			return false
		}
		host, port = "x", strings.TrimPrefix(s[end+1:], ":")
		if s[end+1:] != "" && (port == "" || s[end+1] != ':') {
			return false
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
		if port == "" {
			return false
		}
	}
	if strings.Trim(port, "0123456789") != "" || len(port) > 5 {
		return false
	}
	for _, label := range strings.Split(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !isLower(c) && !isDigit(c) && (c < 'A' || c > 'Z') && c != '-' {
				return false
			}
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
