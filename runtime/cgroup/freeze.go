package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoFreezer says that a container's groups have none: the host does not let us make groups, or has no freezer.
var ErrNoFreezer = errors.New("the container has no freezer cgroup")

// freezer is the file that stops and lets go, and what is written to it.
func (g *Group) freezer() (file, stop, start string, err error) {
	dir := g.last()
	if dir == "" {
		return "", "", "", ErrNoFreezer
	}
	file, stop, start = filepath.Join(dir, "freezer.state"), "FROZEN", "THAWED"
	if g.v2 {
		file, stop, start = filepath.Join(dir, "cgroup.freeze"), "1", "0"
	}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return "", "", "", ErrNoFreezer
	}
	return file, stop, start, nil
}

// Freeze stops every process in the groups, and returns when all of them have stopped. On an error none is.
func (g *Group) Freeze(ctx context.Context) error {
	file, stop, _, err := g.freezer()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	frozen := g.frozenV1
	if g.v2 {
		frozen = g.frozenV2
	}
	if err = write(file, stop); err == nil {
		err = frozen(ctx)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("freeze cgroup: %w", err), g.Thaw())
	}
	return nil
}

// Frozen says whether the processes in the groups are stopped.
func (g *Group) Frozen() (bool, error) {
	file, stop, _, err := g.freezer()
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)) == stop, err
}

// frozenV1 waits. The kernel tells nobody when v1's freezer has stopped all, and each look makes it try again.
func (g *Group) frozenV1(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(g.last(), "freezer.state"))
		if err != nil || strings.TrimSpace(string(b)) == "FROZEN" {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// frozenV2 waits for the event (Documentation/admin-guide/cgroup-v2.rst, cgroup.events).
func (g *Group) frozenV2(ctx context.Context) error {
	f, err := os.Open(filepath.Join(g.last(), "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 256)
	for {
		n, err := f.ReadAt(b, 0)
		if n == 0 {
			return err
		}
		if strings.Contains(string(b[:n]), "frozen 1\n") {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// It is a matter of milliseconds. Go's poller does not wait for POLLPRI, so that ctx is looked at in between.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, 200); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// Thaw lets the processes go on.
func (g *Group) Thaw() error {
	file, _, start, err := g.freezer()
	if err == nil {
		err = write(file, start)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoFreezer) || errors.Is(err, unix.ENODEV) {
		return nil // it has ended
	}
	if err != nil {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}
