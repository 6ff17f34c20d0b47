package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

const ofContainer = "container:"

// sharing is a namespace of which a container may have another one's, or the host's.
type sharing struct {
	kind specs.LinuxNamespaceType
	word string // as the flag is called
	file string // below /proc/PID/ns
	mode string // "" for its own (for a network: "none"), "host", or "container:" and a name or ID
}

func sharings(pid, ipc, uts, network string) [4]sharing {
	return [4]sharing{{specs.PIDNamespace, "pid", "pid", pid}, {specs.IPCNamespace, "ipc", "ipc", ipc}, {specs.UTSNamespace, "uts", "uts", uts},
		{specs.NetworkNamespace, "network", "net", network}}
}

// CheckShared says whether a mode is one: "host" or "container:NAME".
func CheckShared(mode string) bool {
	return mode == "host" || strings.HasPrefix(mode, ofContainer) && len(mode) > len(ofContainer)
}

// resolveShared turns the names of containers whose namespaces are to be joined into IDs, and takes the host name from where it is shared.
func (s *Store) resolveShared(ctx context.Context, o CreateOptions) (CreateOptions, error) {
	given := o.Hostname
	for i, mode := range []*string{&o.PidMode, &o.IPCMode, &o.UTSMode, &o.Network} {
		name, other := strings.CutPrefix(*mode, ofContainer)
		word := sharings("", "", "", "")[i].word
		hostname := ""
		switch {
		case other:
			c, err := s.Lookup(ctx, name)
			if err != nil {
				return o, fmt.Errorf("share a %s namespace: %w", word, err)
			}
			*mode, hostname = ofContainer+c.ID, c.Hostname
		case *mode == "host" && word == "uts":
			name, err := os.Hostname()
			if err != nil {
				return o, fmt.Errorf("read the host's name: %w", err)
			}
			hostname = name
		}
		if hostname == "" || word != "uts" && word != "network" {
			continue
		}
		// As Docker: with the network the other's files in /etc come, and they say its name.
		if given != "" {
			return o, invalid("host name %s: the container has that of the %s namespace that it shares", given, word)
		}
		o.Hostname = cmp.Or(o.Hostname, hostname)
	}
	return o, nil
}

// shared are the namespaces of others that a container is started in.
type shared struct {
	spec   map[specs.LinuxNamespaceType]string // "host", or a path for those who read
	opened map[specs.LinuxNamespaceType]*os.File
	shm    string              // what is mounted at /dev/shm, for those who read; "" for a new one
	mounts map[string]*os.File // it, of another container
	net    *Container          // whose network it has
}

func (h *shared) close() {
	for _, f := range h.opened {
		f.Close()
	}
	for _, f := range h.mounts {
		f.Close()
	}
}

// share opens them. What is opened stays, whatever becomes of the container that it is of.
func (s *Store) share(ctx context.Context, c *Config) (_ *shared, err error) {
	h := &shared{}
	if c.PidMode+c.IPCMode+c.UTSMode == "" && c.Network == "none" {
		return h, nil
	}
	h.spec = map[specs.LinuxNamespaceType]string{}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	for _, of := range sharings(c.PidMode, c.IPCMode, c.UTSMode, c.Network) {
		id, other := strings.CutPrefix(of.mode, ofContainer)
		switch {
		case of.mode == "host":
			h.spec[of.kind] = "host"
			if of.kind == specs.IPCNamespace {
				h.shm = "/dev/shm"
			}
		case other:
			if err := s.join(ctx, h, of, id); err != nil {
				return nil, fmt.Errorf("join the %s namespace of container %.12s: %w", of.word, id, err)
			}
		}
	}
	return h, nil
}

func (s *Store) join(ctx context.Context, h *shared, of sharing, id string) error {
	c, err := s.load(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	first, err := s.process(c)
	if err != nil {
		return err
	}
	defer first.Close()
	ns, err := s.openNamespace(c, first, of.file)
	if err != nil {
		return unlessMoving(err)
	}
	if h.opened == nil {
		h.opened, h.mounts = map[specs.LinuxNamespaceType]*os.File{}, map[string]*os.File{}
	}
	h.opened[of.kind] = ns
	h.spec[of.kind] = fmt.Sprintf("/proc/%d/ns/%s", c.State.Pid, of.file)
	switch of.kind {
	case specs.NetworkNamespace:
		h.net = c
	case specs.IPCNamespace: // POSIX shared memory is files there (shm_overview(7))
		mnt, err := s.openNamespace(c, first, "mnt")
		if err != nil {
			return unlessMoving(err)
		}
		defer mnt.Close()
		if h.mounts["/dev/shm"], err = shmOf(mnt); err != nil {
			return err
		}
		h.shm = fmt.Sprintf("/proc/%d/root/dev/shm", c.State.Pid)
	}
	return nil
}

func unlessMoving(err error) error {
	if errors.Is(err, errMoving) {
		return errEnded
	}
	return err
}

// shmOf makes a detached mount of what a container has at /dev/shm, which nobody in it can have exchanged.
func shmOf(ns *os.File) (shm *os.File, err error) {
	err = inNamespace(ns, func() error {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
		dir, err := unix.Openat2(unix.AT_FDCWD, "/dev/shm", &how)
		if err != nil {
			return fmt.Errorf("open its /dev/shm: %w", err)
		}
		defer unix.Close(dir)
		var st unix.Statfs_t
		if err := unix.Fstatfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			return errors.Join(err, invalid("its /dev/shm is no tmpfs"))
		}
		fd, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("mount its /dev/shm: %w", err)
		}
		shm = os.NewFile(uintptr(fd), "shm")
		return nil
	})
	return shm, err
}

// inNamespace does something on a thread that is in a mount namespace, at its root: what the container's first process has made its root
// (chroot(2)) does not matter.
func inNamespace(ns *os.File, do func() error) error {
	// A thread of ours will be in the container's namespace: nobody may look into this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	return snapshot.OnPrivateThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the other threads: %w", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter its mount namespace: %w", err)
		}
		return do()
	})
}
