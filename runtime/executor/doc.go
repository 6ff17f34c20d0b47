// Package executor makes a process by walking a start plan.
//
// The child is made by clone3 and does nothing but raw system calls until it becomes the command: no Go code that could allocate, grow
// a stack or be preempted runs in it. That is what the syscall package does for os/exec, and it is done with the same three means: the
// runtime's BeforeFork and AfterFork around the clone, a stub in assembly that returns twice, and one nosplit function that never
// returns in the child.
//
// There are two walkers of one plan. The fast one (vfork) shares the parent's memory until the command begins, and the parent's thread
// waits meanwhile; it is for a plan of which no step can block and whose pid namespace is new, for there the child's memory is the
// parent's. The other one (fork) copies. It is for a process in a pid namespace that is not new, where others see it before it is the
// command: those cannot look into it, for it is not dumpable, and who starts it has called BecomeUnwritable, so that they cannot write our
// program through it either.
//
// The child notes the number of each step in a shared page before it does it, and the error after; so a failure is reported as "mount
// proc at /proc: permission denied (step 17 of 41)".
package executor
