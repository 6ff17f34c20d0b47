package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// A snapshot that is mounted on the host stays so when the command that mounted it is gone, and no process holds its lock. What is mounted
// is asked of the kernel, whose mount tables are right after any death, and empty after a reboot: each of our overlays names its active
// snapshot's directory there. So that nobody reads the tables for nothing, there is a file beside the upper, shared, from before the first
// such mount until somebody finds none. It is empty; whoever attaches or uses a mount of a container that runs holds it by flock: from the
// lock to the last look the container may end, and its upper must not be mounted anew meanwhile.
//
// An upper that is mounted on the host is never mounted a second time: who needs it mounted gets a clone of that mount. An image is mounted
// as a view of its own, which keeps its layers, and goes with the mount.

// viewPrefix begins the keys of the views that are mounted on the host.
const viewPrefix = "mount/"

// ErrMounted is an ErrInUse of a snapshot that is mounted on the host.
var ErrMounted = fmt.Errorf("%w", ErrInUse)

// HostMount is a place where an active snapshot or a view is mounted, in this mount namespace.
type HostMount struct {
	Key, Path string
	Labels    map[string]string // of a view

	active string // the snapshot's directory, as the kernel has it
	id     uint64 // the kernel's
}

// HostMounts lists what is mounted in this mount namespace, in the order in which it was mounted.
func (s *Store) HostMounts(context.Context) ([]HostMount, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var list []HostMount
	for _, m := range overlaysIn(table) {
		dir := s.path("active", filepath.Base(m.active))
		rec, err := readRecordFile(dir)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !m.isOf(dir) {
			continue // another store's
		}
		if err != nil {
			return nil, err
		}
		m.Key, m.Labels = rec.Key, rec.Labels
		list = append(list, m)
	}
	return list, nil
}

// overlaysIn reads from the form of /proc/PID/mountinfo (proc(5)) the overlays of active snapshots.
func overlaysIn(table []byte) []HostMount {
	var list []HostMount
	for line := range bytes.Lines(table) {
		before, after, found := strings.Cut(strings.TrimRight(string(line), "\n"), " - ")
		fields := strings.Fields(before)
		options, ours := strings.CutPrefix(after, "overlay ")
		if !found || !ours || len(fields) < 6 {
			continue
		}
		dir := activeIn(options)
		id, err := strconv.ParseUint(fields[0], 10, 64)
		if dir == "" || err != nil {
			continue
		}
		list = append(list, HostMount{Path: unescapeMount(fields[4]), active: dir, id: id})
	}
	return list
}

// activeIn finds in an overlay's source and options the directory of an active snapshot. Of a path with one of the characters that part
// options from each other, only the end is found.
func activeIn(options string) string {
	const mark = "/active/"
	for from := 0; ; {
		at := strings.Index(options[from:], mark)
		if at < 0 {
			return ""
		}
		at += from
		from = at + len(mark)
		if name, _, slash := strings.Cut(options[from:], "/"); slash && len(name) == 32 && strings.Trim(name, "0123456789abcdef") == "" {
			return unescapeMount(options[strings.LastIndexAny(options[:at], " =,:")+1 : from+len(name)])
		}
	}
}

// isOf says whether it is of the active snapshot in dir, whose name it has: unless it names a directory that is there, and another one. A
// store that was copied has the names of the first.
func (m *HostMount) isOf(dir string) bool {
	var named, ours unix.Stat_t
	return !filepath.IsAbs(m.active) || unix.Stat(m.active, &named) != nil || unix.Stat(dir, &ours) != nil || named.Dev == ours.Dev && named.Ino == ours.Ino
}

// unescapeMount undoes what the kernel does with a blank, a tab, a newline and a backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mountOf finds a mount of the active snapshot in dir: here, or else in another process's mount namespace, where it cannot be used from here.
func mountOf(dir string) (m HostMount, here bool, err error) {
	mark := []byte("/active/" + filepath.Base(dir) + "/")
	look := func(table string) (HostMount, bool, error) {
		b, err := os.ReadFile(table)
		if err != nil || !bytes.Contains(b, mark) {
			return HostMount{}, false, err
		}
		for _, m := range overlaysIn(b) {
			if filepath.Base(m.active) == filepath.Base(dir) && m.isOf(dir) {
				return m, true, nil
			}
		}
		return HostMount{}, false, nil
	}
	if m, here, err = look("/proc/self/mountinfo"); here || err != nil {
		return m, here, err
	}
	var st unix.Stat_t
	seen := map[uint64]bool{}
	if unix.Stat("/proc/self/ns/mnt", &st) == nil {
		seen[st.Ino] = true
	}
	pids, err := dirNames("/proc")
	for _, pid := range pids {
		if !isNumber(pid) || unix.Stat("/proc/"+pid+"/ns/mnt", &st) != nil || seen[st.Ino] {
			continue
		}
		seen[st.Ino] = true
		if m, found, _ := look("/proc/" + pid + "/mountinfo"); found { // a process that is gone by now has no mounts
			return m, false, nil
		}
	}
	return HostMount{}, false, err
}

// Share keeps the active snapshot under key from being mounted anew, committed by a move or removed while somebody uses the mount that a
// container has. That there is a container which has one, its caller looks after this.
func (s *Store) Share(_ context.Context, key string) (*os.File, error) {
	path := filepath.Join(s.activeDir(key), "shared")
	for {
		f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("snapshot %s: %w", key, ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		if err := flock.Lock(context.Background(), f, unix.LOCK_SH, ""); err != nil { // waits for a look at the mounts, and no longer
			return nil, err
		}
		if isAt(f, path) {
			return f, nil
		}
		f.Close()
	}
}

// lockMount takes the lock of an active snapshot, to write or unix.LOCK_SH to read, and finds out where it is mounted on the host. It is
// ErrInUse where another has it, where somebody uses it through a container's mount, or where it is mounted out of reach.
func lockMount(dir string, how int) (lock *os.File, on *HostMount, err error) {
	path := filepath.Join(dir, "lock")
	if how == unix.LOCK_SH {
		lock, err = os.Open(path) // also on a disk that cannot be written
	}
	if lock == nil {
		lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := flock.Try(lock, how); err == unix.EWOULDBLOCK {
		return nil, nil, fmt.Errorf("it is mounted: %w", ErrInUse)
	} else if err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	shared, err := os.Open(filepath.Join(dir, "shared"))
	if errors.Is(err, fs.ErrNotExist) {
		return lock, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer shared.Close()
	if err := flock.Try(shared, unix.LOCK_EX); err == unix.EWOULDBLOCK {
		return nil, nil, fmt.Errorf("its files are being copied: %w", ErrInUse)
	} else if err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	m, here, err := mountOf(dir)
	// A container that is being started has a copy of the host's mounts for a moment, whatever is unmounted here meanwhile.
	for try := 0; err == nil && m.active != "" && !here && try < 20; try++ {
		time.Sleep(10 * time.Millisecond)
		m, here, err = mountOf(dir)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case here:
		return lock, &m, nil
	case m.active != "":
		return nil, nil, fmt.Errorf("it is mounted at %s in another mount namespace: %w", m.Path, ErrMounted)
	}
	if how == unix.LOCK_EX {
		err = os.Remove(shared.Name())
	}
	return lock, nil, err
}

// clone makes a detached mount of the one that is there: the same overlay, not a second one over its upper.
func (m *HostMount) clone(readOnly bool) (*os.File, error) {
	at, err := m.open()
	if err != nil {
		return nil, err
	}
	defer at.Close()
	fd, err := unix.OpenTree(int(at.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("clone mount of %s: %w", m.Path, err)
	}
	if readOnly {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	} else {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("clone mount of %s: %w", m.Path, err)
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

// open opens the root of the mount, and of no other that lies over it.
func (m *HostMount) open() (*os.File, error) {
	fd, err := unix.Open(m.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", m.Path, err)
	}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if err == nil && st.Mnt_id != m.id {
		err = fmt.Errorf("something else is mounted over it, or it was unmounted just now: %w", ErrInUse)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("look at %s: %w", m.Path, err)
	}
	return os.NewFile(uintptr(fd), m.Path), nil
}

// MountHost attaches root, a detached mount of the active snapshot under key, at the directory at path on the host. The snapshot must be
// held: by Attach, or by Share where a container has it mounted.
func (s *Store) MountHost(ctx context.Context, key string, root *os.File, path string) error {
	fail := func(err error) error { return fmt.Errorf("mount at %s: %w", path, err) }
	shared, err := s.Share(ctx, key)
	if err != nil {
		return fail(err)
	}
	defer shared.Close()
	failpoint.Hit("mount/shared")
	if err := s.mayMount(s.activeDir(key), path); err != nil {
		return fail(err)
	}
	if err := attach(root, path); err != nil {
		return fail(err)
	}
	failpoint.Hit("mount/attached")
	return nil
}

// MountView mounts the committed snapshot of that name read-only at the directory at path on the host. It stays, with what is below it,
// until it is unmounted.
func (s *Store) MountView(ctx context.Context, name, path string, labels map[string]string) (err error) {
	fail := func(err error) error { return fmt.Errorf("mount snapshot %s at %s: %w", name, path, err) }
	var key string
	var lock *os.File
	for lock == nil {
		key = viewPrefix + newID()
		if err := s.create(ctx, key, name, KindView, []Opt{WithVolatile(), WithLabels(labels)}); err != nil {
			return fail(err)
		}
		failpoint.Hit("mount/viewed")
		lock, err = lockActive(s.activeDir(key))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrInUse) {
			continue // a sweep takes it for what a crash left
		}
		if err != nil {
			return fail(errors.Join(err, s.Remove(ctx, key)))
		}
	}
	defer func() {
		lock.Close()
		if err != nil {
			err = errors.Join(err, s.Remove(ctx, key))
		}
	}()
	dir, rec, err := s.readRecord(key)
	if err != nil {
		return fail(err)
	}
	m := overlay{lowers: s.lowerDirs(rec), source: filepath.Join(dir, "fs")}
	if err := os.Mkdir(m.source, 0o755); err != nil {
		return fail(err)
	}
	if len(m.lowers) == 1 { // the kernel stacks two or more
		m.lowers = append(m.lowers, m.source)
	}
	if err := checkDepth(len(m.lowers)); err != nil {
		return fail(err)
	}
	root, _, err := s.mountDetached(m, false)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	return s.MountHost(ctx, key, root, path)
}

// mayMount refuses what would not be found again, or would be in the way.
func (s *Store) mayMount(dir, path string) error {
	if fs := filepath.Join(dir, "fs"); len(fs) > 255 || strings.Contains(fs, `\`) {
		return fmt.Errorf("the store's path is longer than 255 bytes or has a backslash, so the kernel's mount table would not show whose mount it is: %w", ErrUnavailable)
	}
	root, err := filepath.EvalSymlinks(filepath.Dir(s.root))
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(root, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return fmt.Errorf("it lies in the store: %w", ErrInvalid)
	}
	return nil
}

func attach(root *os.File, path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(int(root.Fd()), "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// Unmount takes a mount down, and the view that was made for it. It is ErrInUse where a process uses it, and where force does not say that
// it is only to be out of sight.
func (s *Store) Unmount(ctx context.Context, m HostMount, force bool) error {
	at, err := m.open()
	if err != nil {
		return err
	}
	at.Close()
	flags := unix.UMOUNT_NOFOLLOW
	if force {
		flags |= unix.MNT_DETACH
	}
	switch err := unix.Unmount(m.Path, flags); err {
	case nil:
	case unix.EBUSY:
		return fmt.Errorf("unmount %s: a process uses it: %w", m.Path, ErrInUse)
	default:
		return fmt.Errorf("unmount %s: %w", m.Path, err)
	}
	failpoint.Hit("umount/unmounted")
	if strings.HasPrefix(m.Key, viewPrefix) {
		if err := s.Remove(ctx, m.Key); err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	}
	if lock, err := lockActive(s.activeDir(m.Key)); err == nil { // forgets what was shared where nothing is any more
		lock.Close()
	}
	return nil
}

// Release takes down every mount of an active snapshot that is about to be removed, whoever uses it.
func (s *Store) Release(ctx context.Context, key string) error {
	dir := s.activeDir(key)
	if _, err := os.Lstat(filepath.Join(dir, "shared")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	list, err := s.HostMounts(ctx)
	for _, m := range list {
		if m.Key == key {
			err = errors.Join(err, s.Unmount(ctx, m, true))
		}
	}
	if rerr := os.Remove(filepath.Join(dir, "shared")); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// SweepViews removes the views that were mounted on the host and are not any more: somebody unmounted them, or a reboot or a crash did.
func (s *Store) SweepViews(context.Context) error {
	names, err := dirNames(s.path("active"))
	for _, name := range names {
		err = errors.Join(err, s.sweepView(name))
	}
	return err
}

func (s *Store) sweepView(name string) error {
	dir := s.path("active", name)
	rec, err := readRecordFile(dir)
	if err != nil || rec.Kind != KindView || !strings.HasPrefix(rec.Key, viewPrefix) {
		return nil // what is damaged is for Check
	}
	lock, err := lockActive(dir)
	if errors.Is(err, ErrInUse) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.dropActive(dir, rec)
}
