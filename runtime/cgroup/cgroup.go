package cgroup

import (
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
)

const (
	mountPoint = "/sys/fs/cgroup"
	parentName = "layerctl"
)

// Version is "2" where the v2 tree is all there is, "1" where the controllers are in v1 hierarchies, "" without any.
func Version() string {
	var st unix.Statfs_t
	if unix.Statfs(mountPoint, &st) != nil {
		return ""
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	if _, err := os.Lstat(filepath.Join(mountPoint, "devices", "tasks")); err == nil {
		return "1"
	}
	return ""
}

// hierarchies are the directories in which a container gets a group.
func hierarchies() []string {
	switch Version() {
	case "2":
		return []string{mountPoint}
	case "1":
		dirs := []string{filepath.Join(mountPoint, "devices")}
		freezer := filepath.Join(mountPoint, "freezer")
		if _, err := os.Lstat(filepath.Join(freezer, "tasks")); err == nil {
			dirs = append(dirs, freezer)
		}
		return dirs
	}
	return nil
}

// Group is a container's control groups.
type Group struct {
	Dirs []string // one a hierarchy
	v2   bool
}

// Of names the groups of a container, whether they exist or not.
func Of(id string) *Group {
	g := &Group{v2: Version() == "2"}
	for _, h := range hierarchies() {
		g.Dirs = append(g.Dirs, filepath.Join(h, parentName, id))
	}
	return g
}

// deviceRules are what a container may do with device nodes (Docker's list): make any node, and use the harmless ones and terminals.
var deviceRules = [...]string{"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"}

// Make makes the groups. A host that does not let us, as inside another container, gives a Group without directories: the container then
// stays in the caller's.
func (g *Group) Make() error {
	for i, dir := range g.Dirs {
		err := g.mkdir(dir)
		failpoint.Hit("cgroup/made")
		if err == nil {
			if !g.v2 && strings.HasPrefix(dir, mountPoint+"/devices/") {
				err = limitDevices(dir)
			}
			if err == nil {
				continue
			}
			g.Remove()
			return err
		}
		for _, made := range g.Dirs[:i] {
			os.Remove(made)
		}
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			g.Dirs = nil
			return nil
		}
		return fmt.Errorf("make cgroup %s: %w", dir, err)
	}
	return nil
}

// mkdir makes a group and, where it is missing, the parent, which somebody else's Remove may take away in between.
func (g *Group) mkdir(dir string) error {
	for {
		err := os.Mkdir(dir, 0o755)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Mkdir(filepath.Dir(dir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

func limitDevices(dir string) error {
	if err := write(filepath.Join(dir, "devices.deny"), "a"); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "devices.allow"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("limit devices: %w", err)
	}
	defer f.Close()
	for _, rule := range deviceRules {
		if _, err := f.WriteString(rule); err != nil {
			return fmt.Errorf("allow devices %q: %w", rule, err)
		}
	}
	return nil
}

func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// LimitsDevices says whether the groups keep a container from device nodes that are not its own. On v2 that takes a BPF program, which
// this version does not have.
func (g *Group) LimitsDevices() bool { return !g.v2 && len(g.Dirs) > 0 }

// V1 are the directories that the container's first process joins itself.
func (g *Group) V1() []string {
	if g.v2 {
		return nil
	}
	return g.Dirs
}

// OpenV2 opens the directory in which the first process is to be started; nil where there is none.
func (g *Group) OpenV2() (*os.File, error) {
	if !g.v2 || len(g.Dirs) == 0 {
		return nil, nil
	}
	f, err := os.Open(g.Dirs[0])
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return f, nil
}

// Kill ends every process in the groups, and those that they make meanwhile.
func (g *Group) Kill() error {
	if len(g.Dirs) == 0 {
		return nil
	}
	if g.v2 {
		err := write(filepath.Join(g.Dirs[0], "cgroup.kill"), "1")
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	dir := g.Dirs[len(g.Dirs)-1]
	// Frozen, they cannot make new ones while the list is read; the signal takes effect when they thaw.
	frozen := filepath.Join(dir, "freezer.state")
	write(frozen, "FROZEN")
	pids, err := processes(dir)
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
	write(frozen, "THAWED")
	return err
}

// Processes are the processes in the groups, as the host numbers them, in no order.
func (g *Group) Processes() ([]int, error) {
	if len(g.Dirs) == 0 {
		return nil, nil
	}
	return processes(g.Dirs[len(g.Dirs)-1])
}

func processes(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", dir, err)
	}
	var pids []int
	for _, line := range strings.Fields(string(b)) {
		// 0 is a process of another pid namespace, which we must not signal: kill(0) is our own group.
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Empty says whether no process is left in the groups.
func (g *Group) Empty() bool {
	for _, dir := range g.Dirs {
		if pids, _ := processes(dir); len(pids) > 0 {
			return false
		}
	}
	return true
}

// Wait waits until the processes that are in the groups now have ended, and no longer than until then.
func (g *Group) Wait(until time.Time) {
	for _, dir := range g.Dirs {
		pids, _ := processes(dir)
		for _, pid := range pids {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it is gone
			}
			for err = unix.EINTR; err == unix.EINTR && time.Now().Before(until); {
				_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(until).Milliseconds())+1)
			}
			unix.Close(fd)
		}
	}
}

// Remove takes the groups away, and the parent with the last one.
func (g *Group) Remove() error {
	var first error
	for _, dir := range g.Dirs {
		switch err := unix.Rmdir(dir); {
		case err == nil:
			failpoint.Hit("cgroup/removed")
		case err != unix.ENOENT && first == nil:
			first = fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		unix.Rmdir(filepath.Dir(dir))
	}
	return first
}
