package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// certDirs are the directories that hold one directory a host, the user's own first (containers-certs.d(5), Docker's certs.d).
func certDirs() []string {
	var dirs []string
	if dir := configHome(); dir != "" {
		dirs = append(dirs, filepath.Join(dir, "containers/certs.d"))
	}
	return append(dirs, "/etc/containers/certs.d", "/etc/docker/certs.d")
}

// trust is what certs.d says about a host.
type trust struct {
	roots   *x509.CertPool // nil for the system's
	clients []tls.Certificate
}

// trustFor reads the first directory that there is for a host (HOST[:PORT]): *.crt are authorities beside the system's, *.cert with
// *.key are certificates of ours.
func trustFor(host string) (trust, error) {
	for _, base := range certDirs() {
		dir := filepath.Join(base, host)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var t trust
			if t, err = readTrust(dir, entries); err == nil {
				return t, nil
			}
		}
		return trust{}, fmt.Errorf("the certificates of %s: %w: %w", host, err, ErrConfig)
	}
	return trust{}, nil
}

func readTrust(dir string, entries []fs.DirEntry) (trust, error) {
	var t trust
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch stem, ext := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path); ext {
		case ".crt":
			b, err := os.ReadFile(path)
			if err != nil {
				return trust{}, err
			}
			if t.roots == nil {
				if t.roots, err = x509.SystemCertPool(); err != nil {
					return trust{}, fmt.Errorf("read the system's authorities: %w", err)
				}
			}
			if !t.roots.AppendCertsFromPEM(b) {
				return trust{}, fmt.Errorf("%s holds no certificate in PEM", path)
			}
		case ".cert":
			c, err := tls.LoadX509KeyPair(path, stem+".key")
			if errors.Is(err, fs.ErrNotExist) {
				return trust{}, fmt.Errorf("%s has no key %s.key beside it", path, stem)
			}
			if err != nil {
				return trust{}, fmt.Errorf("%s: %w", path, err)
			}
			t.clients = append(t.clients, c)
		case ".key":
			if _, err := os.Lstat(stem + ".cert"); err != nil {
				return trust{}, fmt.Errorf("%s has no certificate %s.cert beside it; an authority's certificate ends in .crt", path, stem)
			}
		}
	}
	return t, nil
}

// tlsFor is how a host is spoken to. Where the source's own host sends us may be under the same authority, as a token server beside a
// private registry is; but our certificate is only for the host that it was put there for.
func (t *transport) tlsFor(host string) (*tls.Config, error) {
	own := host == t.source.apiHost()
	if own {
		host = t.source.host
	}
	its, err := trustFor(host)
	if err != nil {
		return nil, err
	}
	if its.roots == nil && !own {
		ours, err := trustFor(t.source.host)
		if err != nil {
			return nil, err
		}
		its.roots = ours.roots
	}
	return &tls.Config{RootCAs: its.roots, Certificates: its.clients, InsecureSkipVerify: t.insecure, MinVersion: tls.VersionTLS12}, nil
}
