// Package monitor is what lies between a container's streams and its users: the frames that the two ends exchange, the end that holds the
// container's terminal or pipes (Hub), and the end that holds the user's (Attach).
//
// A monitor listens at a socket, and has one stream more, to the command line that started it. Each client says first what it wants
// (Hello); then frames go both ways until the last one, which tells how the container ended.
//
// What the container prints is never held up by one who reads slowly as long as a log keeps it: such a client is fed from the log until it
// has caught up. What clients send waits for the container, in a few pieces a client, and never in the way of signals and window sizes;
// where the container's stdin is a pipe they are given an end of it, and write to it themselves. What a container without a terminal
// prints for one client alone is moved from pipe to pipe, and frames only say what is next.
//
// An idle hub has no timer, and a goroutine for each stream and client, without buffers. Its lock is held for moments: nothing is closed
// and nothing written that could wait while it is held.
package monitor
