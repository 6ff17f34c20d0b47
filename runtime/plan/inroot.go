package plan

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const maxLinks = 40 // as many symbolic links as the kernel follows in one name

// OpenBelow opens a path as a process would whose root is the directory root: no link leads out of it, and none of /proc's is followed
// (openat2(2), RESOLVE_IN_ROOT).
func OpenBelow(root *os.File, path string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(root.Fd()), path, &how)
		// EAGAIN: something was renamed or mounted, anywhere, while ".." was being looked at.
		if err != unix.EINTR && (err != unix.EAGAIN || try == 1000) {
			return fd, err
		}
	}
}

// openInRoot opens a path inside a root for use as a mount's target (O_PATH), making missing directories, and the file itself, on the
// way; also where a link leads to that is there and its end is not, as systemd-resolved leaves /etc/resolv.conf. Paths are not cleaned:
// what ".." means is for the kernel to say.
func openInRoot(root *os.File, rel string, dir bool, depth int) (*os.File, error) {
	flags := unix.O_PATH
	if dir {
		flags |= unix.O_DIRECTORY
	}
	rel = strings.Trim(rel, "/")
	if rel == "" {
		rel = "."
	}
	open := func() (*os.File, error) {
		fd, err := OpenBelow(root, rel, flags)
		if err != nil {
			return nil, fmt.Errorf("find /%s in the root: %w", rel, err)
		}
		return os.NewFile(uintptr(fd), rel), nil
	}
	f, err := open()
	if err == nil || !errors.Is(err, unix.ENOENT) || rel == "." {
		return f, err
	}
	if depth >= maxLinks {
		return nil, fmt.Errorf("find /%s in the root: %w", rel, unix.ELOOP)
	}
	above, base := ".", rel
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		above, base = rel[:i], rel[i+1:]
	}
	parent, err := openInRoot(root, above, true, depth+1)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	mode := uint32(0o644)
	if dir {
		mode = 0o755
		err = unix.Mkdirat(int(parent.Fd()), base, mode)
	} else {
		err = unix.Mknodat(int(parent.Fd()), base, unix.S_IFREG|mode, 0)
	}
	if err == unix.EEXIST {
		var target [unix.PathMax]byte
		n, lerr := unix.Readlinkat(int(parent.Fd()), base, target[:])
		if lerr != nil {
			return open() // ".." of what has just been made, or somebody else was quicker
		}
		to := string(target[:n])
		if to[0] != '/' {
			to = above + "/" + to
		}
		return openInRoot(root, to, dir, depth+1)
	}
	if err == nil {
		err = unix.Fchmodat(int(parent.Fd()), base, mode, 0) // whatever the caller's umask is
	}
	if err != nil {
		return nil, fmt.Errorf("make /%s in the root: %w", rel, err)
	}
	return open()
}
