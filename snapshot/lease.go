package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/flock"
)

// Lease is what an operation in flight relies on, or has made and nothing names yet: trees, chains, blobs. Each is held by a shared
// flock on the thing itself, so a lease ends with its process, however that ends, and leaves nothing behind that somebody would have
// to judge.
//
// Whoever deletes takes the exclusive lock, without waiting, then looks whether a row names the thing, and keeps the lock until the
// thing is out of the way; what is held is passed over. Whoever relies on a thing holds it before he looks for it, and until a row of
// his names it. So either the deleter sees the lock, or he sees the row, or the other finds the thing gone and makes it anew.
//
// The zero Lease holds nothing. It may be used from several goroutines.
type Lease struct {
	mu   sync.Mutex
	held []io.Closer
}

// Hold keeps everybody from deleting the file or directory at path, which is not followed. It is ErrNotFound where there is none.
func (l *Lease) Hold(path string) error {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ENOENT {
			return fmt.Errorf("hold %s: %w", path, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("hold %s: %w", path, err)
		}
		f := os.NewFile(uintptr(fd), path)
		// Waits for a deleter's last steps, and no longer.
		if err := flock.Lock(context.Background(), f, unix.LOCK_SH, "waiting for another process that removes "+path); err != nil {
			return fmt.Errorf("hold: %w", err)
		}
		if isAt(f, path) {
			l.Keep(f)
			return nil
		}
		f.Close() // it was deleted while we waited; perhaps there is a new one
	}
}

// Keep lets go of c, too, when the lease ends.
func (l *Lease) Keep(c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, c)
}

// Close ends the lease: what was made and is named by now stays, the rest is for whoever sweeps.
func (l *Lease) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, c := range l.held {
		err = errors.Join(err, c.Close())
	}
	l.held = nil
	return err
}

// LockIdle locks the file or directory at path for its deletion. It returns nil where somebody holds it, or where it is gone.
func LockIdle(path string) *os.File {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), path)
	if flock.Try(f, unix.LOCK_EX) != nil || !isAt(f, path) {
		f.Close()
		return nil
	}
	return f
}

// holdNew holds f, which was made at path a moment ago, and says whether it was swept before that.
func holdNew(f *os.File, path string) bool {
	return flock.Lock(context.Background(), f, unix.LOCK_SH, "") == nil && isAt(f, path)
}

// isAt says whether f is what path leads to.
func isAt(f *os.File, path string) bool {
	var ours, there unix.Stat_t
	return unix.Fstat(int(f.Fd()), &ours) == nil && unix.Lstat(path, &there) == nil && ours.Dev == there.Dev && ours.Ino == there.Ino
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
