package layer

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/direct"
)

// writeFile makes a regular file with all its attributes while it is open. Blocks of zeroes become holes in all but small files.
func (w *writer) writeFile(parent int, base string, e *Entry, o op) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if o.pieces != nil {
		err = writePieces(fd, o.pieces, e.Size)
	} else {
		err = writeContent(fd, 0, o.data)
	}
	if err != nil {
		return err
	}
	if e.UID != 0 || e.GID != 0 {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	for name, value := range e.Xattrs {
		if err := w.xattr(e, name, unix.Fsetxattr(fd, name, []byte(value), 0)); err != nil {
			return err
		}
	}
	if e.Mode != 0o600 || len(e.Xattrs) > 0 {
		if err := unix.Fchmod(fd, e.Mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if err := keptACL(e, func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) }); err != nil {
		return err
	}
	return utimens(fd, "", e.ModTime)
}

const (
	holeSize = 4096

	// Files from here on are written past the page cache: half of the bytes of a Debian image, and few of its files. What a container
	// begins with, its libraries and most programs, is smaller, and stays in memory.
	directSize = 4 << 20
	directHole = 64 << 10 // there each write waits for the disk, so small holes do not pay
)

var zeroes [directHole]byte

// writeContent writes data at an offset. It skips aligned blocks of zeroes in data of 64 KiB and more.
func writeContent(fd int, at int64, data []byte) error {
	if len(data) < 64<<10 {
		return pwriteAll(fd, at, data)
	}
	return writeSparse(fd, at, data, holeSize, pwriteAll)
}

// writeSparse writes data at an offset, but for aligned blocks of zeroes of a size.
func writeSparse(fd int, at int64, data []byte, size int, write func(int, int64, []byte) error) error {
	start := 0
	hole := false
	for i := 0; i < len(data); i += size {
		block := data[i:min(i+size, len(data))]
		zero := len(block) == size && bytes.Equal(block, zeroes[:size])
		if zero == hole {
			continue
		}
		if zero {
			if err := write(fd, at+int64(start), data[start:i]); err != nil {
				return err
			}
		}
		start, hole = i, zero
	}
	if !hole {
		return write(fd, at+int64(start), data[start:])
	}
	return unix.Ftruncate(fd, at+int64(len(data)))
}

// errShort says that a file's content did not come whole; whoever sends it knows why.
var errShort = fmt.Errorf("content ends early: %w", io.ErrUnexpectedEOF)

func writePieces(fd int, pieces <-chan []byte, size int64) error {
	write, hole := pwriteAll, holeSize
	if size >= directSize {
		f := direct.New(fd)
		write, hole = func(_ int, at int64, p []byte) error { return f.WriteAt(p, at) }, directHole
	}
	at := int64(0)
	for p := range pieces {
		if err := writeSparse(fd, at, p, hole, write); err != nil {
			return err
		}
		at += int64(len(p))
		direct.Release(p)
	}
	if at != size {
		return errShort
	}
	return nil
}

func pwriteAll(fd int, at int64, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// setAttributes gives a name that is no regular file its owner, extended attributes, mode and time, without following it. What a
// directory hands down to what is made in it, its group by the setgid bit and its default ACL, waits for setLate: the layer says of
// each of its entries what they have.
func (w *writer) setAttributes(parent int, base string, e *Entry) error {
	if e.Type == TypeDir || e.UID != 0 || e.GID != 0 {
		if err := unix.Fchownat(parent, base, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	// The name was made just now by us and nobody else writes here; the magic link names the directory that we hold.
	full := ""
	if len(e.Xattrs) > 0 {
		full = "/proc/self/fd/" + strconv.Itoa(parent) + "/" + base
	}
	for name, value := range e.Xattrs {
		if name == aclDefault && e.Type == TypeDir {
			continue
		}
		if err := w.xattr(e, name, unix.Lsetxattr(full, name, []byte(value), 0)); err != nil {
			return err
		}
	}
	mode := e.Mode
	if e.Type == TypeDir {
		mode &^= unix.S_ISGID
	}
	if e.Type != TypeSymlink {
		if err := unix.Fchmodat(parent, base, mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if err := keptACL(e, func(name string, b []byte) (int, error) { return unix.Lgetxattr(full, name, b) }); err != nil {
		return err
	}
	return setTime(parent, base, e.ModTime)
}

// setLate gives an open directory what must come after all that is made in it.
func (w *writer) setLate(fd int, e *Entry) error {
	if value, ok := e.Xattrs[aclDefault]; ok {
		if err := w.xattr(e, aclDefault, unix.Fsetxattr(fd, aclDefault, []byte(value), 0)); err != nil {
			return err
		}
	}
	if e.Mode&unix.S_ISGID != 0 {
		if err := unix.Fchmod(fd, e.Mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return utimens(fd, ".", e.ModTime)
}

// keptACL puts into the entry what became of its ACL: the mode is set after it, as containerd does, and where the two disagree the mode
// wins, and one that says nothing more than the mode is not kept.
func keptACL(e *Entry, get func(string, []byte) (int, error)) error {
	value, ok := e.Xattrs[aclAccess]
	if !ok {
		return nil
	}
	b := make([]byte, len(value)+64)
	n, err := get(aclAccess, b)
	if err == unix.ENODATA {
		delete(e.Xattrs, aclAccess)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read attribute %s: %w", aclAccess, err)
	}
	e.Xattrs[aclAccess] = string(b[:n])
	return nil
}

// xattr judges how setting an attribute went: a filesystem that cannot hold them is not the layer's fault, and neither is the kernel's
// rule that only files and directories have user attributes (Docker leaves them out as well).
func (w *writer) xattr(e *Entry, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case err == unix.ENOTSUP:
		if !w.xattrOff {
			w.opt.Warn("the store's filesystem does not hold the attribute " + name + " of " + e.Path + ", and perhaps others")
			w.xattrOff = true
		}
		delete(e.Xattrs, name)
		return nil
	case err == unix.EPERM && strings.HasPrefix(name, "user.") && e.Type != TypeFile && e.Type != TypeDir:
		w.opt.Warn(e.Path + ": attribute " + name + " was left out: only files and directories can have one")
		delete(e.Xattrs, name)
		return nil
	case err == unix.EINVAL, err == unix.EACCES: // no capability or ACL that the kernel understands; a default ACL on a file
		return fmt.Errorf("set attribute %s: %w: %w", name, ErrMalformed, err)
	case err == unix.ENOSPC, err == unix.E2BIG, err == unix.ERANGE:
		return fmt.Errorf("set attribute %s of %d bytes, which the store's filesystem has no room for (ext4 holds some 4000 a file): %w", name, len(e.Xattrs[name]), err)
	}
	return fmt.Errorf("set attribute %s: %w", name, err)
}

// clock is the times that a filesystem keeps. An index tells the times that the tree has: those of the layer, as far as they can be kept.
type clock struct{ min, max, grain int64 }

// newClock tries an open file of the filesystem with times that no filesystem keeps as they are.
func newClock(fd int) (c clock, err error) {
	for _, try := range []struct {
		sec int64
		is  *int64
	}{{math.MinInt64, &c.min}, {math.MaxInt64, &c.max}} {
		var st unix.Stat_t
		ts := unix.Timespec{Sec: try.sec}
		if err := unix.UtimesNanoAt(fd, "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH); err != nil {
			return c, fmt.Errorf("set time: %w", err)
		}
		if err := unix.Fstat(fd, &st); err != nil {
			return c, err
		}
		*try.is = st.Mtim.Sec
	}
	var st unix.Stat_t
	if err := utimens(fd, "", time.Unix(1, 999_999_999)); err != nil {
		return c, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return c, err
	}
	c.grain = 1_000_000_000 - st.Mtim.Nsec
	return c, nil
}

// keep is what the filesystem makes of a time (timestamp_truncate in the kernel's fs/inode.c).
func (c clock) keep(t time.Time) time.Time {
	sec, nsec := t.Unix(), int64(t.Nanosecond())
	if sec <= c.min || sec >= c.max {
		return time.Unix(min(max(sec, c.min), c.max), 0)
	}
	return time.Unix(sec, nsec-nsec%c.grain)
}

func setTime(parent int, base string, t time.Time) error { return utimens(parent, base, t) }

// utimens sets the modification time of a name in a directory, or of the open file itself with an empty name. The time of the last
// access is set to the same, so that it says nothing about when the layer was unpacked.
func utimens(fd int, base string, t time.Time) error {
	ts := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	times := []unix.Timespec{ts, ts}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if base == "" {
		flags = unix.AT_EMPTY_PATH
	}
	if err := unix.UtimesNanoAt(fd, base, times, flags); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
