package cgroup

import (
	"path/filepath"
)

// What is asked of the kernel, in words of the shell, for those who want to see that before it is done.

// ExplainFreeze is what Freeze does.
func (g *Group) ExplainFreeze() ([]string, error) {
	file, stop, _, err := g.freezer()
	if err != nil {
		return nil, err
	}
	if g.v2 {
		return []string{"echo " + stop + " > " + file, "until grep -q 'frozen 1' " + filepath.Join(g.last(), "cgroup.events") + "; do sleep 0.01; done  # poll(2) tells"}, nil
	}
	return []string{"echo " + stop + " > " + file, "until grep -q " + stop + " " + file + "; do sleep 0.01; done  # each look makes the kernel try again"}, nil
}

// ExplainThaw is what Thaw does.
func (g *Group) ExplainThaw() []string {
	file, _, start, err := g.freezer()
	if err != nil {
		return nil
	}
	return []string{"echo " + start + " > " + file}
}

// ExplainKill is what Kill does.
func (g *Group) ExplainKill() []string {
	dir := g.last()
	switch {
	case dir == "":
		return nil
	case g.v2:
		return []string{"echo 1 > " + filepath.Join(dir, "cgroup.kill")}
	}
	state := filepath.Join(dir, "freezer.state")
	return []string{"echo FROZEN > " + state, "xargs kill -s KILL < " + filepath.Join(dir, "cgroup.procs"), "echo THAWED > " + state}
}

// ExplainRemove is what Remove does.
func (g *Group) ExplainRemove() (lines []string) {
	for _, dir := range g.Dirs {
		lines = append(lines, "rmdir "+dir)
	}
	return lines
}
