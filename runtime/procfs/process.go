package procfs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/layerctl/layerctl/runtime/cgroup"
)

// Container is a container that runs: what it is called, and its first process on the host.
type Container struct {
	ID, Name string
	Pid      int
}

// Process is a process of a container.
type Process struct {
	Pid          int   // on the host
	ContainerPid int   // in the container's pid namespace; 0 for a process outside of it
	NSpid        []int // in each pid namespace that it is in, from the host's inwards (proc(5), status)
	UID          int   // its effective user, as the host counts them
	Command      string
}

// Pids are the container's processes on the host, in order: those in its cgroups. Of a container that has none, because its host does not
// let us make them, they are those in its pid namespace.
func (c Container) Pids() []int {
	pids, _ := cgroup.Of(c.ID).Processes()
	if !slices.Contains(pids, c.Pid) {
		pids = c.inPidNamespace()
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func (c Container) inPidNamespace() []int {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.Pid))
	if err != nil {
		return nil
	}
	if host, err := os.Readlink("/proc/self/ns/pid"); err != nil || host == own {
		return []int{c.Pid} // the host's own: which of its processes are the container's, nobody can tell
	}
	var pids []int
	for _, pid := range all() {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err == nil && ns == own {
			pids = append(pids, pid)
		}
	}
	return pids
}

// all are the processes of the host.
func all() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// read reads what there is to know of a process; false for one that has gone.
func read(pid int) (Process, bool) {
	p := Process{Pid: pid, NSpid: []int{}}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, false
	}
	name := ""
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		fields := strings.Fields(value)
		switch key {
		case "Name":
			name = strings.TrimPrefix(value, "\t")
		case "Uid":
			if len(fields) > 1 {
				p.UID, _ = strconv.Atoi(fields[1])
			}
		case "NSpid":
			for _, f := range fields {
				n, _ := strconv.Atoi(f)
				p.NSpid = append(p.NSpid, n)
			}
		}
	}
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	p.Command = strings.Join(strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"), " ")
	if p.Command == "" {
		p.Command = "[" + name + "]" // it has ended, or runs in the kernel: as ps(1) shows them
	}
	return p, true
}
