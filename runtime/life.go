package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// claim makes a container's directory, where it is not there, and takes its lock.
func (s *Store) claim(ctx context.Context, id string, patience time.Duration) (*os.File, error) {
	for {
		if err := os.Mkdir(s.path(id), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		// Whoever lists the containers in between takes a directory without a record away.
		if f, err := s.hold(ctx, id, patience); !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
}

// hold takes the lock that says "monitored", a flock on the container's directory. It is in the store and not below the run root, so that
// all who use the store ask the same lock, whatever their run root. The kernel lets go of it when the last process that has it is gone.
// Where another holds it for longer than patience, the error is EWOULDBLOCK; where the directory is not there, fs.ErrNotExist.
func (s *Store) hold(ctx context.Context, id string, patience time.Duration) (*os.File, error) {
	path := s.path(id)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		err = flock.Lock(limited, f, unix.LOCK_EX, fmt.Sprintf("waiting for another process that has container %.12s", id))
		if err == nil {
			// Only who holds the lock takes the directory away: what is there now, stays.
			same, err := isAt(f, path)
			if err == nil && same {
				return f, nil
			}
			f.Close()
			if err != nil {
				return nil, err
			}
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = fmt.Errorf("lock %s: %w", path, unix.EWOULDBLOCK)
		}
		return nil, err
	}
}

// isAt says whether f is the file that a path leads to.
func isAt(f *os.File, path string) (bool, error) {
	var ours, there unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &ours); err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	err := unix.Lstat(path, &there)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return ours.Dev == there.Dev && ours.Ino == there.Ino, nil
}

// monitored says whether somebody holds a container's lock.
func (s *Store) monitored(id string) (bool, error) {
	for {
		fd, err := unix.Open(s.path(id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB)
			unix.Close(fd)
		}
		switch err {
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
			return true, nil
		case nil, unix.ENOENT:
			return false, nil
		}
		return false, fmt.Errorf("look whether container %.12s runs: %w", id, err)
	}
}

// bury ends what is left of a container whose monitor is gone, and records that nobody saw its end; one that was to be removed is.
func (s *Store) bury(ctx context.Context, c *Container) error {
	lock, err := s.hold(ctx, c.ID, 2*time.Second)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else is at it, or done
	}
	if err != nil {
		return fmt.Errorf("end what is left of container %.12s: %w", c.ID, err)
	}
	defer lock.Close()
	if !s.recorded(c.ID) { // somebody else was at it, and died
		return nil
	}
	if err := endProcesses(c.ID); err != nil {
		return err
	}
	failpoint.Hit("bury/ended")
	if c.AutoRemove {
		return s.remove(ctx, c.Config)
	}
	var r running
	if readVolatile(s.volatile(&c.Config, "state.json"), &r); r.Pid == 0 {
		return s.removeVolatile(&c.Config) // it had not begun, or was waiting to be started again: what is recorded stands
	}
	e := ended{ExitCode: 255, Error: "its monitor was killed; nobody saw how it ended", StartedAt: r.StartedAt, RestartCount: r.Restarts, FinishedAt: time.Now().UTC()}
	err = s.record(&recorded{Config: c.Config}, e, true)
	s.happened(&c.Config, "die", "exitCode", "255")
	failpoint.Hit("bury/recorded")
	if err == nil {
		err = s.removeVolatile(&c.Config)
	}
	return err
}

// endProcesses ends what runs in a container's cgroups and takes them away. Its lock must be held.
func endProcesses(id string) error {
	group := cgroup.Of(id)
	for until := time.Now().Add(2 * time.Second); ; {
		if err := group.Kill(); err != nil {
			return fmt.Errorf("end what is left of container %.12s: %w", id, err)
		}
		err := group.Remove()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(until) {
			return err
		}
		if group.Empty() {
			time.Sleep(time.Millisecond) // the last one is on its way out, is in no list any more, and v1 tells nobody when it has gone
		} else {
			group.Wait(until)
		}
	}
}

// remove takes away everything of a container that does not run. The record goes first, so that a crash leaves what no record reaches;
// that it went is on disk before anything else goes.
func (s *Store) remove(ctx context.Context, c Config) error {
	record, removed := s.path(c.ID, "config.json"), s.path(c.ID, "removed.json")
	names, err := s.lockNames(ctx, unix.LOCK_SH) // a record that is being rewritten would come again
	if err != nil {
		return err
	}
	defer names.Close()
	err = os.Rename(record, removed)
	unix.Flock(int(names.Fd()), unix.LOCK_UN)
	if err == nil && !c.AutoRemove {
		err = snapshot.SyncDir(s.path(c.ID))
	}
	failpoint.Hit("remove/unrecorded")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		if err = nil; c.AutoRemove { // whatever is mounted or copied of it
			err = s.release(ctx, c.ID)
		}
		if rerr := s.snaps.Remove(ctx, snapshotKey(c.ID)); !errors.Is(rerr, snapshot.ErrNotFound) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		os.Rename(removed, record) // it stays, and can be removed another time
		return err
	}
	failpoint.Hit("remove/snapshot")
	if err := flock.Lock(ctx, names, unix.LOCK_SH, ""); err == nil {
		s.unname(c.Name, c.ID) // where it was renamed meanwhile: the other one leads nowhere soon, and is swept
	}
	failpoint.Hit("remove/name")
	// The directory is the lock: it goes last.
	if c.Name != "" { // else it was never made to the end, and nobody was told of it
		s.happened(&c, "destroy")
	}
	err = s.removeVolatile(&c)
	failpoint.Hit("remove/volatile")
	return errors.Join(err, os.RemoveAll(s.path(c.ID)))
}

// sweep takes away a directory without a record: its maker is gone before the container was made, or its remover before it was removed.
func (s *Store) sweep(ctx context.Context, id string) {
	if s.recorded(id) {
		return
	}
	lock, err := s.claim(ctx, id, 0)
	if err != nil {
		return
	}
	defer lock.Close()
	if !s.recorded(id) && endProcesses(id) == nil && s.release(ctx, id) == nil {
		c, was := Config{ID: id}, configJSON{}
		if withBytes(s.path(id, "removed.json"), func(b []byte) error { return rowdb.Unseal(id+"/config.json", b, &was) }) == nil && was.ID == id {
			c = was.config()
		}
		s.remove(ctx, c)
	}
}

// sweepNames takes away what a crash left of containers that have no directory, names and volatile state, and names that are not, or not
// any more, those of the containers that they lead to. right are the names that records say.
func (s *Store) sweepNames(right map[string]bool) {
	names, _ := os.ReadDir(filepath.Join(s.dir, "names"))
	for _, n := range names {
		if right[n.Name()] {
			continue
		}
		target, err := os.Readlink(filepath.Join(s.dir, "names", n.Name()))
		// The directory is made before the name, so a name without one is nobody's.
		if id := filepath.Base(target); err == nil && s.strayName(n.Name(), id) {
			s.sweepName(n.Name(), id)
		}
	}
	states, _ := os.ReadDir(s.run)
	for _, e := range states {
		// It is made after the directory and goes before it, so this is of a store that is no more, whose containers may still run.
		id := e.Name()
		if len(id) != 64 {
			continue // the diary
		}
		if _, err := os.Lstat(s.path(id)); errors.Is(err, fs.ErrNotExist) && cgroup.Of(id).Remove() == nil {
			os.RemoveAll(s.runPath(id))
		}
	}
}

// Remove removes a container with what it wrote. One that runs is ErrInUse, or is ended first with force.
func (s *Store) Remove(ctx context.Context, c *Container, force bool) error {
	fail := func(err error) error { return fmt.Errorf("remove container %s: %w", c.Name, err) }
	var lock *os.File
	var err error
	until, lost := time.Now().Add(time.Minute), time.Now().Add(3*time.Second)
	for {
		if c.State.Running() {
			if !force {
				return fail(&kindError{"it is " + string(c.State.Status), ErrInUse})
			}
			if err := s.end(ctx, c); err != nil {
				return fail(err)
			}
		}
		patience := 20 * time.Millisecond // for those who only look
		if force {
			patience = 500 * time.Millisecond // its monitor is at its last steps, or at its first
		}
		if lock, err = s.hold(ctx, c.ID, patience); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		if c.starting && time.Now().After(lost) { // for ever, it seems: what says that it has begun is lost
			if err := s.endMonitor(ctx, s.findMonitor(c.ID), c.ID); err != nil {
				return fail(err)
			}
		}
		if !force || time.Now().After(until) {
			return fail(&kindError{"another command has it, or its monitor", ErrInUse})
		}
		now, err := s.load(ctx, c.ID)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return fail(err)
		}
		c = now
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was to be removed when it ended, and was
	}
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	// A command line that was killed in the middle of a start had the lock, too, in a child that is the container by now.
	err = endProcesses(c.ID)
	failpoint.Hit("remove/ended")
	if err == nil && force {
		err = s.release(ctx, c.ID)
	}
	if err == nil {
		err = s.remove(ctx, c.Config)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// end kills a running container. A monitor that does not see to what is left, because it is stopped itself, is killed, too: whoever finds
// the lock free does it.
func (s *Store) end(ctx context.Context, c *Container) error {
	none := time.Duration(0)
	err := s.stop(ctx, c, &none)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if !errors.Is(err, ErrInUse) || !s.isMonitor(c.monitor, c.ID) {
		return err
	}
	return s.endMonitor(ctx, c.monitor, c.ID)
}

// endMonitor kills a container's monitor, unless the process of that pid is a stranger.
func (s *Store) endMonitor(ctx context.Context, pid int, id string) error {
	p, err := openProcess(pid, 0)
	if err != nil || !s.isMonitor(pid, id) {
		return nil
	}
	defer p.Close()
	if err := unix.PidfdSendSignal(int(p.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill monitor %d: %w", pid, err)
	}
	_, err = await(ctx, p, time.Minute)
	return err
}

// isMonitor says whether a process has the container's lock, as its monitor has, and not only the pid that the monitor had.
func (s *Store) isMonitor(pid int, id string) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == s.path(id) {
			return true
		}
	}
	return false
}

// findMonitor finds a container's monitor where nothing says which it is; 0 for none. One that is the command line of a `run --rm` is not
// found: it may be anything.
func (s *Store) findMonitor(id string) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		b, _ := os.ReadFile(path)
		if !bytes.HasPrefix(b, []byte(monitor.Name+"\x00/")) || !bytes.HasSuffix(b, []byte("\x00"+id+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && s.isMonitor(pid, id) {
			return pid
		}
	}
	return 0
}
