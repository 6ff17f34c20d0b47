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

// unified is where a host with v1 hierarchies has the v2 tree, if it does.
const unified = mountPoint + "/unified"

// hierarchies are the directories in which a container gets a group: in v1 hierarchies, and in the v2 tree. The last one tells which
// processes are the container's, and stops and ends them.
//
// Each is paid for by every start, so there is none for what another one tells, too, or the processes themselves. The v2 tree beside v1's
// hierarchies has no controllers, but counts the time of processors, and it freezes and kills better than v1's freezer.
func hierarchies() (v1 []string, v2 string) {
	switch Version() {
	case "2":
		return nil, mountPoint
	case "1":
		names := []string{"devices", "memory", "cpuacct", "freezer"}
		var st unix.Statfs_t
		if unix.Statfs(unified, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			v2, names = unified, names[:2]
		}
		for _, name := range names {
			dir := filepath.Join(mountPoint, name)
			if _, err := os.Lstat(filepath.Join(dir, "tasks")); err == nil {
				v1 = append(v1, dir)
			}
		}
	}
	return v1, v2
}

// Group is a container's control groups.
type Group struct {
	Dirs []string // one a hierarchy
	v2   bool     // the last one is in a v2 tree
}

// Of names the groups of a container, whether they exist or not.
func Of(id string) *Group {
	v1, v2 := hierarchies()
	g := &Group{v2: v2 != ""}
	for _, h := range v1 {
		g.Dirs = append(g.Dirs, filepath.Join(h, parentName, id))
	}
	if g.v2 {
		g.Dirs = append(g.Dirs, filepath.Join(v2, parentName, id))
	}
	return g
}

// last is the group that tells and rules the processes; "" without groups.
func (g *Group) last() string {
	if len(g.Dirs) == 0 {
		return ""
	}
	return g.Dirs[len(g.Dirs)-1]
}

// in is the group in a v1 hierarchy; "" where there is none.
func (g *Group) in(name string) string {
	for _, dir := range g.V1() {
		if strings.HasPrefix(dir, filepath.Join(mountPoint, name)+"/") {
			return dir
		}
	}
	return ""
}

// Found names the groups that a container has: none where the host did not let us make them.
func Found(id string) *Group {
	g := Of(id)
	if len(g.Dirs) > 0 {
		if _, err := os.Lstat(g.Dirs[0]); errors.Is(err, fs.ErrNotExist) {
			g.Dirs = nil
		}
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
			switch {
			case dir == g.in("devices"):
				err = limitDevices(dir)
			case g.v2 && len(g.Dirs) == 1: // beside v1's hierarchies the v2 tree has no controllers
				err = enableControllers(filepath.Dir(filepath.Dir(dir)))
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

// enableControllers lets the groups below our parent in the v2 tree at root count memory and I/O. A controller that the host has not, or
// does not give to this part of the tree, is done without. Groups that are there already get it, too.
func enableControllers(root string) error {
	parent := filepath.Join(root, parentName)
	wanted := [...]string{"memory", "io"}
	enabled := func(dir string) map[string]bool {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		set := map[string]bool{}
		for _, name := range strings.Fields(string(b)) {
			set[name] = true
		}
		return set
	}
	have := enabled(parent)
	if have[wanted[0]] && have[wanted[1]] {
		return nil
	}
	for _, dir := range [...]string{root, parent} {
		have := enabled(dir)
		for _, name := range wanted {
			if have[name] {
				continue
			}
			err := write(filepath.Join(dir, "cgroup.subtree_control"), "+"+name)
			switch {
			case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EROFS), errors.Is(err, unix.EOPNOTSUPP):
			default:
				return fmt.Errorf("let cgroups count %s: %w", name, err)
			}
		}
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

// LimitsDevices says whether the groups keep a container from device nodes that are not its own. In the v2 tree that takes a BPF program, which
// this version does not have.
func (g *Group) LimitsDevices() bool { return g.in("devices") != "" }

// V1 are the directories that the container's first process joins itself.
func (g *Group) V1() []string {
	if g.v2 && len(g.Dirs) > 0 {
		return g.Dirs[:len(g.Dirs)-1]
	}
	return g.Dirs
}

// OpenV2 opens the directory in which the first process is to be started; nil where there is none.
func (g *Group) OpenV2() (*os.File, error) {
	if !g.v2 || len(g.Dirs) == 0 {
		return nil, nil
	}
	f, err := os.Open(g.last())
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return f, nil
}

// Kill ends every process in the groups, and those that they make meanwhile.
func (g *Group) Kill() error {
	dir := g.last()
	if dir == "" {
		return nil
	}
	if g.v2 {
		err := write(filepath.Join(dir, "cgroup.kill"), "1")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	}
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
	if g.last() == "" {
		return nil, nil
	}
	return processes(g.last())
}

func processes(dir string) ([]int, error) { return numbers(dir, "cgroup.procs") }

// numbers reads the list of processes or threads of a group and of the groups that were made below it.
func numbers(dir, file string) (pids []int, err error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil // it has been removed
	}
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", dir, err)
	}
	for _, line := range strings.Fields(string(b)) {
		// 0 is a process of another pid namespace, which we must not signal: kill(0) is our own group.
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	for _, sub := range below(dir) {
		more, err := numbers(sub, file)
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// below are the groups directly below one: made by a container that may.
func below(dir string) (subs []string) {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Nlink <= 2 {
		return nil // each directory in it would be a link to it
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			subs = append(subs, filepath.Join(dir, e.Name()))
		}
	}
	return subs
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

// Remove takes the groups away. Their parents stay for the next container: making and removing them costs as much as the groups.
func (g *Group) Remove() error {
	var first error
	for _, dir := range g.Dirs {
		switch err := remove(dir); {
		case err == nil:
			failpoint.Hit("cgroup/removed")
		case err != unix.ENOENT && first == nil:
			first = fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return first
}

// RemoveParents takes away the directories that hold the groups of containers, where there is no container.
func RemoveParents() {
	for _, dir := range Of("").Dirs {
		unix.Rmdir(dir)
	}
}

// remove takes a group away, and what was made below it.
func remove(dir string) error {
	err := unix.Rmdir(dir)
	if err == unix.EBUSY {
		if subs := below(dir); len(subs) > 0 {
			for _, sub := range subs {
				if err := remove(sub); err != nil && err != unix.ENOENT {
					return err
				}
			}
			err = unix.Rmdir(dir)
		}
	}
	return err
}
