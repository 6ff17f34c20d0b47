// Package failpoint ends the process, as kill -9 would, or stops it, at a named place between two durable steps.
//
// A test builds the binary with the tag "failpoints" and sets
//
//	LAYERCTL_FAILPOINT=NAME      die at the first hit of NAME
//	LAYERCTL_FAILPOINT=NAME:N    at its N-th
//	LAYERCTL_FAILPOINT=@N        at the N-th hit of any name
//	LAYERCTL_FAILPOINT_STOP=...  stop there until SIGCONT, as SIGSTOP would
//	LAYERCTL_FAILPOINT_LOG=FILE  append the name of each hit, a line each: what there is to die at
//
// A process that goes on with another's work (Environ) counts on from there.
//
// Without the tag, Hit is an empty function that the compiler leaves out.
package failpoint
