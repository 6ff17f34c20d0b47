package layer

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
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
	if e.Mode != 0o600 {
		if err := unix.Fchmod(fd, e.Mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for name, value := range e.Xattrs {
		if err := w.xattr(e, name, unix.Fsetxattr(fd, name, []byte(value), 0)); err != nil {
			return err
		}
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
		return io.ErrUnexpectedEOF
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

// setAttributes gives a name that is no regular file its owner, mode, extended attributes and time, without following it.
func (w *writer) setAttributes(parent int, base string, e *Entry) error {
	if e.Type == TypeDir || e.UID != 0 || e.GID != 0 {
		if err := unix.Fchownat(parent, base, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	if e.Type != TypeSymlink {
		if err := unix.Fchmodat(parent, base, e.Mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if len(e.Xattrs) > 0 {
		// The name was made just now by us and nobody else writes here; the magic link names the directory that we hold.
		full := "/proc/self/fd/" + strconv.Itoa(parent) + "/" + base
		for name, value := range e.Xattrs {
			if err := w.xattr(e, name, unix.Lsetxattr(full, name, []byte(value), 0)); err != nil {
				return err
			}
		}
	}
	return setTime(parent, base, e.ModTime)
}

// xattr judges how setting an attribute went: a filesystem that cannot hold them is not the layer's fault.
func (w *writer) xattr(e *Entry, name string, err error) error {
	if err == unix.ENOTSUP {
		if !w.xattrOff {
			w.opt.Warn("the store's filesystem does not hold the attribute " + name + " of " + e.Path + ", and perhaps others")
			w.xattrOff = true
		}
		delete(e.Xattrs, name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("set attribute %s: %w", name, err)
	}
	return nil
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
