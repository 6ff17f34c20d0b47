// Package initproc is the first process of a container with --init: a program of some 800 bytes that reaps what is left to it, passes
// signals on to the command, and ends as the command ends. init.c is its source; the compiled forms are part of this package, so that
// nothing of the image is needed, and hack/init.sh makes them.
//
// It runs from a file in memory that is sealed and was made for this one start: the container's root can neither write to it nor lead
// anything to another container's. It is executed by its descriptor, so it needs no path, no /proc and no mount that allows execution.
//
// It starts nothing itself. The start plan makes a second process; the first becomes init, and then the second the command. So a command
// that is not there is told as it is without --init, by the same step and with the same exit status, and init has nothing that could
// fail. Nor does the command ever see a first process that still has the memory of the one that started it. The command is the leader of a session of its own, whose terminal is the container's, as it is without
// --init. It is a child of init, which gets:
//
//	descriptor 0   a pidfd of the command; 1 and 2 are the container's, as some write to /proc/1/fd/1
//	signals        all blocked, since before there was a command: none is missed, and init takes one after the other. SIGCHLD it keeps
//	argv           layerctl-init -- COMMAND…, for whoever looks; init reads none of it
//
// Its exit status is the command's, or 128 and the number of the signal that ended it. In a pid namespace that is not the container's own
// it is not process 1; the plan makes it a subreaper then (PR_SET_CHILD_SUBREAPER, prctl(2)).
package initproc
