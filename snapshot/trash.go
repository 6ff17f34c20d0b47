package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// ReaperName is the name under which a program that called DeleteDetached is started again, to call ReaperMain.
const ReaperName = "layerctl-reaper"

// What is deleted on the spot. Starting a process costs as much as deleting some hundred files; more than this is left to the reaper.
const (
	reapEntries = 300
	reapBytes   = 32 << 20
)

// DeleteDetached leaves what takes long to delete to a process of its own, or does not do that any more.
func (s *Store) DeleteDetached(yes bool) { s.detached = yes }

// Discard deletes a file or directory of the store, whatever is in it: it is moved into the trash, so that it is gone when Discard
// returns, and its bytes are freed then or a little later. What is not there is no error.
func (s *Store) Discard(path string) error {
	trash, err := s.moveToTrash(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.EXDEV) { // somebody has put a part of the store on another filesystem
		trash, err = path, nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", path, err)
	}
	return s.empty(trash)
}

// Trash is the half of Discard that does not take long. Tidy is the other one.
func (s *Store) Trash(path string) error {
	_, err := s.moveToTrash(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.EXDEV) {
		return s.empty(path)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", path, err)
	}
	return nil
}

// Tidy deletes what is in the trash, or sees to it that somebody does.
func (s *Store) Tidy() error {
	names, err := dirNames(s.path("trash"))
	if err != nil || len(names) == 0 {
		return err
	}
	if s.detached && Held(s.path("trash")) {
		return nil // the reaper is at it
	}
	for i, name := range names {
		names[i] = s.path("trash", name)
	}
	return s.empty(names...)
}

func (s *Store) moveToTrash(path string) (string, error) {
	trash := s.path("trash", filepath.Base(path)+"-"+newID()[:16])
	err := os.Rename(path, trash)
	failpoint.Hit("trash/moved")
	return trash, err
}

// empty deletes what was moved to these paths in the trash, or sees to it that somebody does.
func (s *Store) empty(paths ...string) error {
	d := deleter{trash: s.path("trash"), entries: math.MaxInt, bytes: math.MaxInt64}
	if s.detached {
		d.entries, d.bytes = reapEntries, reapBytes
	}
	var err error
	for _, path := range paths {
		derr := d.delete(path)
		if errors.Is(derr, errEnough) {
			if s.startReaper() == nil {
				break
			}
			d.entries, d.bytes = math.MaxInt, math.MaxInt64 // nobody else will
			derr = d.delete(path)
		}
		err = errors.Join(err, derr)
	}
	return err
}

// errEnough says that what is left to delete is for the reaper.
var errEnough = errors.New("more than is deleted on the spot")

// deleter deletes below the trash. It follows no link and enters no mount: what somebody has mounted there is not ours.
type deleter struct {
	trash   string
	entries int
	bytes   int64
	deep    []string // directories moved up, out of too great a depth
}

// maxDepth is how deep a deleter goes: every level costs a descriptor, and a layer may be as deep as it likes.
const maxDepth = 100

func (d *deleter) delete(path string) error {
	d.deep = append(d.deep, path)
	for len(d.deep) > 0 {
		path := d.deep[len(d.deep)-1]
		if err := d.removeAt(path); errors.Is(err, errEnough) {
			return err
		} else if err != nil {
			return fmt.Errorf("delete %s: %w", path, err)
		}
		// What it moved up came behind it in the list.
		for i, p := range d.deep {
			if p == path {
				d.deep = append(d.deep[:i], d.deep[i+1:]...)
				break
			}
		}
	}
	return nil
}

func (d *deleter) removeAt(path string) error {
	// The way to the store may lead through mounts, the way from there must not.
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return d.remove(parent, filepath.Base(path), 0)
}

func (d *deleter) remove(parent int, name string, depth int) error {
	if d.entries != math.MaxInt {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
			return nil
		} else if err != nil {
			return err
		}
		d.entries--
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 {
			d.bytes -= st.Blocks * 512
		}
		if d.entries < 0 || d.bytes < 0 {
			return errEnough
		}
	}
	switch err := unix.Unlinkat(parent, name, 0); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM: // POSIX's error for a directory, and Linux's
	default:
		return err
	}
	fd, err := unix.Openat2(parent, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS})
	if err == unix.ENOENT {
		return nil
	}
	if err == unix.EXDEV {
		return fmt.Errorf("something is mounted at %s", name)
	}
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	for range 3 { // somebody else may be deleting, too, and a directory that changes may show less than it has
		for {
			names, err := dir.Readdirnames(512)
			for _, n := range names {
				if depth == maxDepth {
					up := filepath.Join(d.trash, newID()[:16])
					if err := unix.Renameat(fd, n, unix.AT_FDCWD, up); err == nil {
						d.deep = append(d.deep, up)
						continue
					} else if err != unix.ENOENT {
						return err
					}
				}
				if err := d.remove(fd, n, depth+1); err != nil {
					return err
				}
			}
			if err == io.EOF || err == nil && len(names) == 0 || errors.Is(err, unix.ENOENT) { // it is gone while it is being read
				break
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // somebody else has just deleted it
			}
			if err != nil {
				return err
			}
		}
		err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		if err == unix.ENOENT {
			return nil
		}
		if err != unix.ENOTEMPTY && err != unix.EEXIST {
			return err
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return err
}

// EmptyTrash deletes everything that was removed and not deleted yet. That the reaper is at it, too, does not matter.
func (s *Store) EmptyTrash(ctx context.Context) error {
	names, err := dirNames(s.path("trash"))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		d := deleter{trash: s.path("trash"), entries: math.MaxInt, bytes: math.MaxInt64}
		err = errors.Join(err, d.delete(s.path("trash", name)))
		failpoint.Hit("trash/deleted")
	}
	if err != nil {
		return fmt.Errorf("empty the trash: %w", err)
	}
	return nil
}

// startReaper starts this program again to empty the trash, unless that is being done.
func (s *Store) startReaper() error {
	// The one who is at it looks once more after he has let go, so what is in the trash now will be seen.
	idle := LockIdle(s.path("trash"))
	if idle == nil {
		return nil
	}
	idle.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start reaper: %w", err)
	}
	defer null.Close()
	// What the caller was given without close-on-exec is not for the reaper: somebody may be waiting for its end of a pipe.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("start reaper: %w", err)
	}
	env := []string{}
	if failpoint.Enabled {
		env = os.Environ()
	}
	p, err := os.StartProcess("/proc/self/exe", []string{ReaperName, s.root}, &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{null, null, null}, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		return fmt.Errorf("start reaper: %w", err)
	}
	return p.Release()
}

// ReaperMain is the reaper's whole life: it empties the trash of the store that args name and ends. It returns the exit status.
func ReaperMain(args []string) int {
	if len(args) != 1 {
		return 2
	}
	// Everybody else goes first. The whole process group, since both calls speak of single threads.
	unix.Setpriority(unix.PRIO_PGRP, 0, 19)
	const whoPgrp, bestEffortLowest = 2, 2<<13 | 7 // linux/ioprio.h
	unix.Syscall(unix.SYS_IOPRIO_SET, whoPgrp, 0, bestEffortLowest)
	s := &Store{root: args[0]}
	for {
		lock := LockIdle(s.path("trash"))
		if lock == nil {
			return 0
		}
		failpoint.Hit("reaper/locked")
		err := s.EmptyTrash(context.Background())
		lock.Close()
		if err != nil {
			return 1 // prune says why
		}
		if names, err := dirNames(s.path("trash")); err != nil || len(names) == 0 {
			return 0
		}
	}
}

// SweepTemporary deletes what WriteFile left in a directory when it was killed. Whoever is writing holds his file.
func SweepTemporary(dir string) error {
	names, err := dirNames(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		if !isTemporary(name) {
			continue
		}
		if f := LockIdle(filepath.Join(dir, name)); f != nil {
			err = errors.Join(err, os.Remove(f.Name()))
			f.Close()
		}
	}
	return err
}

func isNumber(name string) bool {
	_, err := strconv.Atoi(name)
	return err == nil
}
