package snapshot

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// fsTopDirFlag is FS_TOPDIR_FL of linux/fs.h.
const fsTopDirFlag = 0x00020000

func setInodeFlag(f *os.File, flag int) {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&flag == 0 {
		unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|flag)
	}
}

// overlayXattr says whether an attribute is overlayfs' own: it says how layers are stacked, not what is in them.
func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// ReadXattrs reads the extended attributes of path itself, but for overlayfs' own, which say how layers are stacked and not what is
// in them.
func ReadXattrs(path string) (map[string]string, error) {
	raw, err := pathXattrs(path)
	xattrs := make(map[string]string, len(raw))
	for name, value := range raw {
		xattrs[name] = string(value)
	}
	return xattrs, err
}

// pathXattrs reads the extended attributes of path itself, but for overlayfs' own.
func pathXattrs(path string) (map[string][]byte, error) {
	size, err := unix.Llistxattr(path, nil)
	if err == unix.ENOTSUP || size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(path, list); err != nil {
		return nil, err
	}
	xattrs := map[string][]byte{}
	for _, name := range strings.Split(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if name == "" || overlayXattr(name) {
			continue
		}
		n, err := unix.Lgetxattr(path, name, nil)
		if err != nil {
			return nil, err
		}
		value := make([]byte, n)
		if n > 0 {
			if n, err = unix.Lgetxattr(path, name, value); err != nil {
				return nil, err
			}
		}
		xattrs[name] = value[:n]
	}
	return xattrs, nil
}
