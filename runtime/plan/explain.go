package plan

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Explain prints the plan in the words of mount(8), unshare(1) and cgroup files, from the very steps that would be walked: a text to
// follow, and in part to paste. ROOT stands for where the merged root is mounted.
func (c *Compiled) Explain(w io.Writer) error {
	b := bufio.NewWriter(w)
	if c.entered {
		c.steps(b)
		return b.Flush()
	}
	fmt.Fprintln(b, "# 1. Before there is a process: the merged root, mounted but attached nowhere yet.")
	for _, s := range c.rootSteps {
		fmt.Fprintln(b, s)
	}
	v2 := ""
	if c.Plan.CgroupFD >= 0 {
		v2, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", c.Plan.CgroupFD))
	}
	if len(c.cgroups) > 0 || v2 != "" {
		fmt.Fprintln(b, "\n# 2. The container's cgroups.")
		for _, dir := range c.cgroups {
			fmt.Fprintln(b, "mkdir -p", quote(dir))
		}
		if v2 != "" {
			fmt.Fprintln(b, "mkdir -p", quote(v2), " # clone3 CLONE_INTO_CGROUP: the new process begins in it")
		}
	}
	fmt.Fprint(b, "\n# 3. A new process in new namespaces.\n"+c.pidJoined+"unshare")
	for _, f := range namespaceFlags {
		if c.unshared&f.flag != 0 && f.flag != unix.CLONE_NEWCGROUP { // that comes later
			fmt.Fprint(b, " "+f.word)
		}
	}
	fmt.Fprint(b, " bash\n\n# 4. In it, ")
	c.steps(b)
	return b.Flush()
}

// steps prints what the process does.
func (c *Compiled) steps(b *bufio.Writer) {
	fmt.Fprintf(b, "%d system calls; these are the ones that matter.\n", len(c.Plan.Steps))
	for _, s := range c.Plan.Steps {
		if s.Shell != nowhere {
			fmt.Fprintln(b, s.Shell)
		}
	}
}
