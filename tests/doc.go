// Package tests drives the built binary against the real things: Debian's docker-registry, trees made by mmdebstrap and busybox, umoci,
// skopeo and podman as peers, the kernel. One call (newEnv) gives a test its store; when the test ends, nothing of it may be left: no
// mount, cgroup, process or directory.
package tests
