// Package cgroup makes a container's control groups: layerctl/ID in the v1 hierarchies that a container needs (devices, which says what
// device nodes may be used, and freezer), or in the v2 tree where that is mounted alone.
//
// The directory layerctl goes with the last container in it.
package cgroup
