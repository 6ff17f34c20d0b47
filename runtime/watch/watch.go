package watch

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dir tells of changes in a directory until it is closed. One that was not opened tells of nothing.
type Dir struct {
	// Changed has an element after something was made, renamed, written or closed in the directory; several changes may have one.
	Changed <-chan struct{}
	// Done is closed when there is no more to wait for.
	Done <-chan struct{}

	f      *os.File
	cancel context.CancelFunc
}

// rest is how long changes are collected: a file that is written in small pieces does not wake its followers for each of them.
const rest = 2 * time.Millisecond

// Open begins to watch a directory: until the context ends, or, where until is not zero, that time comes. What happened before is the
// caller's to look at.
func Open(ctx context.Context, dir string, until time.Time) (*Dir, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s (the sysctls fs.inotify.max_user_* say how much may be watched): %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	const what = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, what); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %s (the sysctls fs.inotify.max_user_* say how much may be watched): %w", dir, err)
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		buf := make([]byte, 4096)
		for {
			// What the events are does not matter: whoever is woken looks at all there is.
			if _, err := f.Read(buf); err != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
			time.Sleep(rest)
		}
	}()
	var cancel context.CancelFunc
	if until.IsZero() {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithDeadline(ctx, until)
	}
	return &Dir{Changed: changed, Done: ctx.Done(), f: f, cancel: cancel}, nil
}

// Close ends it, and closes Changed and Done.
func (d *Dir) Close() error {
	if d.f == nil {
		return nil
	}
	d.cancel()
	return d.f.Close()
}
