// Package plan compiles "this root, this command" into a start plan: the ordered list of system calls that turn a fresh process into
// the container's.
//
// What can be done before there is a process is done here, in plain Go: file systems that belong to no namespace are made detached, the
// device nodes are made in the detached /dev, and every mount's target is found inside the root, by openat2(RESOLVE_IN_ROOT), so that no
// link of the image leads a mount astray. What is left is data, with descriptors and strings for arguments; package executor walks it
// with raw system calls, Explain prints it, and an error names the step at which it stopped.
package plan
