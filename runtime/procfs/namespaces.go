package procfs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// kinds are the kinds of namespaces (namespaces(7)), as /proc/PID/ns calls them, with nsenter(1)'s letters for them.
var kinds = [...]struct{ name, letter string }{
	{"cgroup", "C"}, {"ipc", "i"}, {"mnt", "m"}, {"net", "n"}, {"pid", "p"}, {"time", "T"}, {"user", "U"}, {"uts", "u"},
}

// inodes are the namespaces of a process, in the order of kinds; 0 for one that it does not have any more.
type inodes [len(kinds)]uint64

// Namespace is a namespace that processes of a container are in.
type Namespace struct {
	Type       string
	Inode      uint64   // its name, as in /proc/PID/ns
	Host       bool     // it is the host's own
	Containers []string // the names of the other containers with processes in it
	Others     []int    // processes in it that are no container's; not told of the host's
	Processes  []int    // the container's processes in it, on the host
	Enter      string   // the command that enters it; "" where it is the host's
}

// Namespaces are the namespaces of a container: of its first process, and then any others that its processes have made or entered.
type Namespaces struct {
	ID, Name   string
	Pid        int    // its first process, on the host
	Enter      string // the command that enters them all
	Namespaces []Namespace
	Processes  []Process
}

type namespace struct {
	kind  int
	inode uint64
}

// ListNamespaces tells the namespaces of some containers, and who shares them of all that run. A container that has ended meanwhile is left
// out.
func ListNamespaces(of, running []Container) []Namespaces {
	running = slices.DeleteFunc(slices.Clone(running), func(c Container) bool {
		return slices.ContainsFunc(of, func(o Container) bool { return o.ID == c.ID })
	})
	running = append(running, of...) // one may have been started since the others were listed
	owner := map[int]int{}           // by process; the index in running
	for i, c := range running {
		for _, pid := range c.Pids() {
			owner[pid] = i
		}
	}
	host, ok := namespacesOf(1)
	if !ok { // the first process may not be looked at everywhere
		host, _ = namespacesOf(os.Getpid())
	}
	members := map[namespace][]int{}
	for _, pid := range all() {
		ns, ok := namespacesOf(pid)
		if !ok {
			continue
		}
		for kind, inode := range ns {
			if inode != 0 {
				members[namespace{kind, inode}] = append(members[namespace{kind, inode}], pid)
			}
		}
	}
	var list []Namespaces
	for _, c := range of {
		if n, ok := c.namespaces(running, owner, members, host); ok {
			list = append(list, n)
		}
	}
	return list
}

func (c Container) namespaces(running []Container, owner map[int]int, members map[namespace][]int, host inodes) (Namespaces, bool) {
	n := Namespaces{ID: c.ID, Name: c.Name, Pid: c.Pid, Enter: fmt.Sprintf("nsenter -t %d -a", c.Pid), Namespaces: []Namespace{}, Processes: []Process{}}
	first, ok := read(c.Pid)
	if !ok {
		return n, false
	}
	level := len(first.NSpid) - 1
	own, _ := namespacesOf(c.Pid)
	var in []namespace
	for ns, pids := range members {
		if slices.ContainsFunc(pids, func(pid int) bool { return isOf(running, owner, pid, c.ID) }) {
			in = append(in, ns)
		}
	}
	slices.SortFunc(in, func(a, b namespace) int { // the first process's first
		if x, y := a.inode == own[a.kind], b.inode == own[b.kind]; x != y {
			if x {
				return -1
			}
			return 1
		}
		if a.kind != b.kind {
			return a.kind - b.kind
		}
		return int(int64(a.inode) - int64(b.inode))
	})
	for _, ns := range in {
		s := Namespace{Type: kinds[ns.kind].name, Inode: ns.inode, Host: ns.inode == host[ns.kind], Containers: []string{}, Others: []int{}, Processes: []int{}}
		for _, pid := range members[ns] {
			switch i, owned := owner[pid]; {
			case !owned && !s.Host:
				s.Others = append(s.Others, pid)
			case owned && running[i].ID == c.ID:
				s.Processes = append(s.Processes, pid)
			case owned:
				s.Containers = append(s.Containers, running[i].Name)
			}
		}
		slices.Sort(s.Containers)
		s.Containers = slices.Compact(s.Containers)
		if !s.Host {
			through := s.Processes[0]
			if slices.Contains(s.Processes, c.Pid) {
				through = c.Pid
			}
			s.Enter = fmt.Sprintf("nsenter -t %d -%s", through, kinds[ns.kind].letter)
		}
		n.Namespaces = append(n.Namespaces, s)
	}
	for _, pid := range sortedOf(running, owner, c.ID) {
		p, ok := read(pid)
		if !ok {
			continue
		}
		if len(p.NSpid) > level {
			p.ContainerPid = p.NSpid[level]
		}
		n.Processes = append(n.Processes, p)
	}
	return n, true
}

func isOf(running []Container, owner map[int]int, pid int, id string) bool {
	i, ok := owner[pid]
	return ok && running[i].ID == id
}

func sortedOf(running []Container, owner map[int]int, id string) (pids []int) {
	for pid := range owner {
		if isOf(running, owner, pid, id) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// namespacesOf reads the namespaces of a process; false for one that has gone, or may not be looked at.
func namespacesOf(pid int) (ns inodes, ok bool) {
	for i, k := range kinds {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, k.name))
		if err != nil {
			continue // one that has ended and is not reaped has left most of them
		}
		_, number, _ := strings.Cut(link, ":[")
		if ns[i], err = strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); err == nil {
			ok = true
		}
	}
	return ns, ok
}
