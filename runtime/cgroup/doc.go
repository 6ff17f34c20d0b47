// Package cgroup makes a container's control groups, layerctl/ID: in v1 hierarchies devices, which says what device nodes may be used,
// and memory, and in the v2 tree that is mounted beside them, or alone; without it, in v1's cpuacct and freezer.
//
// What they count is Stats, what they stopped Freeze and Thaw; Kill ends all that is in them. Which processes are a container's is known
// from them and from nothing else.
//
// The directory layerctl stays when the last container in it has gone, until RemoveParents.
package cgroup
