package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrNoStats says that a container has no groups that count: the host does not let us make any.
var ErrNoStats = errors.New("the container has no cgroups that count")

// Stats is what the groups have counted since they were made. What no controller counts here is 0.
type Stats struct {
	Time                  time.Time     // when it was read
	CPU                   time.Duration // of all processors together
	Memory, MemoryLimit   uint64        // bytes; without the files that nobody has used for long, as Docker counts. Without a limit, the machine's
	BlockRead, BlockWrite uint64        // bytes from and to disks; without v2's controller, of the processes that are there and those that they have reaped
	Tasks                 int           // processes and threads
}

// Stats reads what the groups have counted. It is ErrNoStats where the groups are not there.
func (g *Group) Stats() (s Stats, err error) {
	dir := g.last()
	if dir == "" {
		return s, ErrNoStats
	}
	if _, err := os.Lstat(dir); err != nil {
		return s, ErrNoStats
	}
	s.Time = time.Now()
	if g.v2 {
		s.CPU = time.Duration(field(filepath.Join(dir, "cpu.stat"), "usage_usec")) * time.Microsecond
	} else if dir := g.in("cpuacct"); dir != "" {
		s.CPU = time.Duration(number(filepath.Join(dir, "cpuacct.usage")))
	}
	machine := field("/proc/meminfo", "MemTotal:") * 1024
	if dir, v1 := g.counting("memory"); v1 {
		stat := fields(filepath.Join(dir, "memory.stat"))
		s.Memory = less(number(filepath.Join(dir, "memory.usage_in_bytes")), stat["total_inactive_file"])
		s.MemoryLimit = stat["hierarchical_memory_limit"]
	} else if dir != "" {
		s.Memory = less(number(filepath.Join(dir, "memory.current")), field(filepath.Join(dir, "memory.stat"), "inactive_file"))
		s.MemoryLimit = number(filepath.Join(dir, "memory.max"))
	}
	if s.MemoryLimit == 0 || s.MemoryLimit > machine {
		s.MemoryLimit = machine
	}
	if len(g.Dirs) == 1 && g.v2 {
		s.BlockRead, s.BlockWrite = blocks(filepath.Join(dir, "io.stat"))
	} else {
		s.BlockRead, s.BlockWrite = g.processBlocks()
	}
	list := "tasks"
	if g.v2 {
		list = "cgroup.threads"
	}
	tasks, err := numbers(dir, list)
	s.Tasks = len(tasks)
	return s, err
}

// OOMKills says how many of the container's processes the kernel has ended because memory ran out, the container's or the machine's
// (oom_kill in memory.oom_control of v1, and in memory.events of v2). It must be asked before the groups are removed.
func (g *Group) OOMKills() int {
	dir, v1 := g.counting("memory")
	switch {
	case v1:
		return int(field(filepath.Join(dir, "memory.oom_control"), "oom_kill"))
	case dir != "":
		return int(field(filepath.Join(dir, "memory.events"), "oom_kill"))
	}
	return 0
}

// counting is the group of a v1 controller, or else the one in the v2 tree, if its controllers are there.
func (g *Group) counting(controller string) (dir string, v1 bool) {
	if dir := g.in(controller); dir != "" {
		return dir, true
	}
	if g.v2 && len(g.Dirs) == 1 {
		return g.Dirs[0], false
	}
	return "", false
}

func less(a, b uint64) uint64 {
	if b > a {
		return a // the two were not read at the same moment
	}
	return a - b
}

// number reads a file that has one; 0 for none, and for "max".
func number(file string) uint64 {
	b, _ := os.ReadFile(file)
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// fields reads a file of lines "name number".
func fields(file string) map[string]uint64 {
	b, _ := os.ReadFile(file)
	m := map[string]uint64{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) >= 2 {
			m[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
		}
	}
	return m
}

func field(file, name string) uint64 { return fields(file)[name] }

// processBlocks adds up what the processes have read and written, with the children that they have reaped (proc(5), io). v1's blkio counts
// neither what is written behind a process's back nor, in newer kernels, anything without a limit.
func (g *Group) processBlocks() (read, write uint64) {
	pids, _ := g.Processes()
	for _, pid := range pids {
		m := fields("/proc/" + strconv.Itoa(pid) + "/io")
		read += m["read_bytes:"]
		write += less(m["write_bytes:"], m["cancelled_write_bytes:"])
	}
	return read, write
}

// blocks adds up lines "MAJOR:MINOR rbytes=BYTES wbytes=BYTES …" (Documentation/admin-guide/cgroup-v2.rst, io.stat).
func blocks(file string) (read, write uint64) {
	b, _ := os.ReadFile(file)
	for _, f := range strings.Fields(string(b)) {
		name, value, _ := strings.Cut(f, "=")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch name {
		case "rbytes":
			read += n
		case "wbytes":
			write += n
		}
	}
	return read, write
}
