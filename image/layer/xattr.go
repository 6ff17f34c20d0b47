package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	opaqueXattr     = "trusted.overlay.opaque"
	opaqueUserXattr = "user.overlay.opaque"
)

// overlayXattr says whether an attribute is overlayfs' own.
func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// readXattrs reads an open file's extended attributes, but for overlayfs' own, of which own, which may be nil, is told.
func readXattrs(f *os.File, at string, own func(name string) error) (map[string]string, error) {
	fd := int(f.Fd())
	return collectXattrs(at, own,
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

func readXattrsPath(full, at string, own func(name string) error) (map[string]string, error) {
	return collectXattrs(at, own,
		func(b []byte) (int, error) { return unix.Llistxattr(full, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(full, name, b) })
}

func collectXattrs(at string, own func(name string) error, list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string]string, error) {
	n, err := list(nil)
	if n == 0 || err == unix.ENOTSUP {
		return nil, nil
	}
	names := make([]byte, n)
	if err == nil {
		n, err = list(names)
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %q: %w", at, err)
	}
	xattrs := map[string]string{}
	for _, name := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		if overlayXattr(name) {
			if own != nil {
				if err := own(name); err != nil {
					return nil, err
				}
			}
			continue
		}
		size, err := get(name, nil)
		if err == nil && size > 0 {
			value := make([]byte, size)
			size, err = get(name, value)
			xattrs[name] = string(value[:max(size, 0)])
		} else if err == nil {
			xattrs[name] = ""
		}
		if errors.Is(err, unix.ENODATA) {
			continue // taken away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s of %q: %w", name, at, err)
		}
	}
	return xattrs, nil
}
