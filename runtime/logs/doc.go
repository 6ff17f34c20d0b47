// Package logs keeps what a container prints, and shows it.
//
// On disk, in the container's directory: log, which is being written, and with rotation log.1 and so on, the older the higher. A line a
// record, in the format that Kubernetes defines for container runtimes ("CRI logging"):
//
//	2026-11-25T17:00:00.123456789Z stdout F what it printed
//
// The time is UTC in a fixed width, so that times are compared as text. F is a line that ends there; P is a part of one, which goes on in
// the next record of its stream: a line is cut at 16 KiB, and what has no newline yet is written as it comes, so that a prompt is seen
// and nothing is lost with the monitor. The contents of a stream's records, with a newline after each F, are byte for byte what the
// container printed there.
//
// There is one writer, the container's monitor; readers take no lock. Each file has a mark that says which was the log before it
// (trusted.layerctl.after, an extended attribute), by which a reader learns that one in between is gone. Nothing is synced: a power cut may
// take the end. A line that is no record is shown as it is.
package logs
