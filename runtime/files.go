package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// Files is the root directory of a container, open for somebody outside of it. Everything below Root is the container's doing and may
// change under the hands of whoever looks: names are looked up in it by openat2(RESOLVE_IN_ROOT), or by single components.
type Files struct {
	Root *os.File // while the container runs, with all that is mounted in it
	Live bool     // the container runs, and may write meanwhile

	store *Store
	id    string
	ns    *os.File       // of a running container: its mount namespace
	share *os.File       // and what keeps its upper from being mounted anew when it ends
	mount *snapshot.Root // of a stopped one
}

// Close lets the root go.
func (f *Files) Close() error {
	if f.mount != nil {
		return f.mount.Close()
	}
	return errors.Join(f.Root.Close(), f.ns.Close(), f.share.Close()) // in this order
}

// Own is the container's own root without what is mounted in it: layers, and what was written over them. Who gets it closes it.
func (f *Files) Own() (*os.File, error) {
	if f.ns != nil {
		return rootIn(f.ns, 0)
	}
	fd, err := unix.FcntlInt(f.Root.Fd(), unix.F_DUPFD_CLOEXEC, 3) // nothing is mounted in it
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/"), nil
}

// Gone says whether the container was removed since its files were opened, so that they went while they were read.
func (f *Files) Gone() bool {
	_, err := os.Lstat(f.store.path(f.id, "config.json"))
	return errors.Is(err, fs.ErrNotExist)
}

// Stubs are the names in the container's root that are there only for mounts (snapshot.Store.Stubs).
func (s *Store) Stubs(ctx context.Context, c *Container) ([]string, error) {
	stubs, err := s.snaps.Stubs(ctx, snapshotKey(c.ID))
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return stubs, nil
}

// errMoving says that a container is between two states.
var errMoving = fmt.Errorf("it is being started or stopped: %w", ErrInUse)

// filesPatience is how long OpenFiles waits for whoever starts, commits or copies.
const filesPatience = 5 * time.Second

// OpenFiles opens a container's root, to write only where write says so. That of a running container is the one that the container has;
// a stopped one's is mounted for this, attached nowhere, and until it is closed nobody starts, commits or removes the container.
func (s *Store) OpenFiles(ctx context.Context, c *Container, write bool) (*Files, error) {
	for until := time.Now().Add(filesPatience); ; time.Sleep(20 * time.Millisecond) {
		f, err := s.openFiles(ctx, c, write)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, errMoving) && !errors.Is(err, snapshot.ErrInUse) || errors.Is(err, snapshot.ErrMounted) || time.Now().After(until) || ctx.Err() != nil {
			return nil, fmt.Errorf("open the files of container %s: %w", c.Name, err)
		}
		if c, err = s.load(ctx, c.ID); err != nil {
			return nil, err
		}
	}
}

func (s *Store) openFiles(ctx context.Context, c *Container, write bool) (*Files, error) {
	f := &Files{store: s, id: c.ID}
	switch {
	case c.starting:
		return nil, errMoving
	case c.State.Running():
		var err error
		if f.share, err = s.snaps.Share(ctx, snapshotKey(c.ID)); errors.Is(err, snapshot.ErrNotFound) {
			return nil, errMoving
		} else if err != nil {
			return nil, err
		}
		if f.ns, err = s.namespaceOf(c); err == nil {
			f.Root, err = rootIn(f.ns, unix.O_PATH|unix.O_DIRECTORY)
		}
		if err != nil {
			if f.ns != nil {
				f.ns.Close()
			}
			f.share.Close()
			return nil, err
		}
		f.Live = true
		return f, nil
	}
	attach := s.snaps.AttachReading
	if write {
		attach = s.snaps.Attach
	}
	var err error
	if f.mount, err = attach(ctx, snapshotKey(c.ID), snapshot.AttachOptions{Init: true}); err != nil {
		return nil, err
	}
	f.Root = f.mount.FD
	return f, nil
}

// namespaceOf opens the mount namespace of a running container. It is errMoving where the container has ended meanwhile.
func (s *Store) namespaceOf(c *Container) (*os.File, error) {
	pid, err := s.process(c)
	if errors.Is(err, ErrNotRunning) {
		return nil, errMoving
	}
	if err != nil {
		return nil, err
	}
	defer pid.Close()
	return s.openNamespace(c, pid, "mnt")
}

// openNamespace opens a namespace of a running container's first process, by its name below /proc/PID/ns.
func (s *Store) openNamespace(c *Container, first *os.File, name string) (*os.File, error) {
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(c.State.Pid), "ns", name))
	if unix.PidfdSendSignal(int(first.Fd()), 0, nil, 0) != nil || errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			ns.Close()
		}
		return nil, errMoving
	}
	return ns, err
}

// rootIn opens the root of a mount namespace: with flags of openat(2), or with 0 as a detached mount of its own without those in it.
func rootIn(ns *os.File, flags int) (root *os.File, err error) {
	err = inNamespace(ns, func() error {
		var fd int
		if flags != 0 {
			fd, err = unix.Open("/", flags|unix.O_CLOEXEC, 0)
		} else {
			fd, err = unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		}
		if err != nil {
			return fmt.Errorf("open its root: %w", err)
		}
		root = os.NewFile(uintptr(fd), "/")
		return nil
	})
	return root, err
}
