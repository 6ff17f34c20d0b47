package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/plan"
)

// user is who a container runs as.
type user struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// maxDatabase bounds what is read of an image's passwd and group: they are the image's, and may be anything.
const maxDatabase = 4 << 20

// readInRoot reads a file of the image's, following its links within the root only. A missing one is empty.
func readInRoot(root *os.File, path string) (string, error) {
	fd, err := plan.OpenBelow(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read /%s of the image: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", errors.Join(err, invalid("/%s of the image is no regular file", path))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDatabase))
	if err != nil {
		return "", fmt.Errorf("read /%s of the image: %w", path, err)
	}
	return string(b), nil
}

// findUser reads USER[:GROUP], names or numbers, as the image's own /etc/passwd and /etc/group know them; names come first, as in Docker.
// Without a group, the user's own and the ones that list it are taken.
func findUser(root *os.File, s string) (user, error) {
	u := user{home: "/"}
	name, group, _ := strings.Cut(s, ":")
	withGroup := group != ""
	passwd, err := readInRoot(root, "etc/passwd")
	if err != nil {
		return u, err
	}
	if name == "" {
		name = "0"
	}
	number, numeric := parseID(name)
	known := ""
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 6 {
			continue
		}
		uid, ok := parseID(f[2])
		if !ok || f[0] != name && !(numeric && uid == number) {
			continue
		}
		gid, ok := parseID(f[3])
		if !ok {
			continue
		}
		u.uid, u.gid, known = uid, gid, f[0]
		if f[5] != "" {
			u.home = f[5]
		}
		break
	}
	switch {
	case known == "" && numeric:
		u.uid = number
	case known == "":
		return u, invalid("user %q: no such user in the image's /etc/passwd", name)
	}
	if u.uid == 0 && known == "" {
		u.home = "/root"
	}
	groups, err := readInRoot(root, "etc/group")
	if err != nil {
		return u, err
	}
	gnumber, gnumeric := parseID(group)
	found := false
	for line := range strings.Lines(groups) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 4 {
			continue
		}
		gid, ok := parseID(f[2])
		if !ok {
			continue
		}
		if withGroup {
			if !found && (f[0] == group || gnumeric && gid == gnumber) {
				u.gid, found = gid, true
			}
			continue
		}
		for _, member := range strings.Split(f[3], ",") {
			if member != "" && member == known && len(u.groups) < 1024 {
				u.groups = append(u.groups, gid)
			}
		}
	}
	switch {
	case withGroup && !found && gnumeric:
		u.gid = gnumber
	case withGroup && !found:
		return u, invalid("group %q: no such group in the image's /etc/group", group)
	}
	// The group that the process has is also one of the supplementary ones: who could leave it would get around a file's "no access" for it.
	u.groups = append([]uint32{u.gid}, u.groups...)
	return u, nil
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}
