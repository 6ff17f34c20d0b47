// Package flock takes the locks of flock(2) that keep processes of one store apart. A lock belongs to an open file: it ends when the last
// descriptor of that is closed, however the process ends, so none is ever left behind.
//
// Who waits sleeps in the kernel, is woken by it, and after a second tells what he waits for.
package flock
