// Package monitor is what lies between a container's terminal and the user's: the frames that the two ends exchange, the end that holds
// the container's terminal, and the end that holds the user's.
package monitor
