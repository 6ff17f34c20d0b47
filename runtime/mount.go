package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Mount mounts a container's own root, without what is mounted in it while it runs, at the directory at path on the host: the overlay that
// the container has, or gets when it is started while it is mounted.
func (s *Store) Mount(ctx context.Context, c *Container, path string) error {
	fail := func(err error) error { return fmt.Errorf("mount container %s: %w", c.Name, err) }
	f, err := s.OpenFiles(ctx, c, true)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	own, err := f.Own()
	if err != nil {
		return fail(err)
	}
	defer own.Close()
	failpoint.Hit("mount/opened")
	if err := s.snaps.MountHost(ctx, snapshotKey(c.ID), own, path); err != nil {
		return fail(err)
	}
	return nil
}

// HostMount is a place on the host where a container or an image is mounted.
type HostMount struct {
	snapshot.HostMount
	Container string // its ID; "" for an image
}

// Mounts lists what is mounted on the host of containers and images, in the order in which it was mounted.
func (s *Store) Mounts(ctx context.Context) ([]HostMount, error) {
	all, err := s.snaps.HostMounts(ctx)
	if err != nil {
		return nil, err
	}
	var list []HostMount
	for _, m := range all {
		id, _ := strings.CutPrefix(m.Key, snapshotKey(""))
		if id == m.Key {
			id = ""
		}
		list = append(list, HostMount{m, id})
	}
	return list, nil
}

// HostDir makes the directory where what has an ID is mounted when nobody says where.
func (s *Store) HostDir(id string) (string, error) {
	dir := filepath.Join(s.hostDirs(), strings.TrimPrefix(id, "sha256:"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a directory to mount at: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir) // as the kernel shows it
	if err != nil {
		return "", fmt.Errorf("make a directory to mount at: %w", err)
	}
	return real, nil
}

// hostDirs is where HostDir makes them: not in the containers' volatile state, which is removed with all that is in it.
func (s *Store) hostDirs() string { return filepath.Join(s.rroot, "mounts", filepath.Base(s.run)) }

// Unmount takes a mount down, and the directory that HostDir made for it.
func (s *Store) Unmount(ctx context.Context, m HostMount) error {
	if err := s.snaps.Unmount(ctx, m.HostMount, false); err != nil {
		return err
	}
	if dirs, err := filepath.EvalSymlinks(s.hostDirs()); err == nil && filepath.Dir(m.Path) == dirs {
		unix.Rmdir(m.Path)
	}
	return nil
}

// release takes down what is mounted on the host of a container that is about to be removed, whoever uses it.
func (s *Store) release(ctx context.Context, id string) error {
	err := s.snaps.Release(ctx, snapshotKey(id))
	unix.Rmdir(filepath.Join(s.hostDirs(), id)) // where nothing is mounted any more; the kernel says EBUSY of others
	return err
}

// sweepHostDirs removes the directories of HostDir that nothing is mounted at: somebody else unmounted it.
func (s *Store) sweepHostDirs() {
	entries, _ := os.ReadDir(s.hostDirs())
	for _, e := range entries {
		unix.Rmdir(filepath.Join(s.hostDirs(), e.Name()))
	}
}
