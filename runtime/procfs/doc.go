// Package procfs tells what runs in containers, as the kernel shows it in /proc: their processes, with the numbers that these have on the
// host and inside, and the namespaces that they are in.
//
// A container's processes are those in its cgroups. A pid is a number that the kernel gives to somebody else once its process has gone, so
// what is read of one that was listed a moment ago is for looking at, and nothing here acts on it.
package procfs
