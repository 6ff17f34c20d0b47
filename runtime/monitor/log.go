package monitor

import "time"

// The streams of a container.
const (
	Stdout = 'o' // and a terminal
	Stderr = 'e'
)

// Log keeps what a container prints, for those who come later or read slower than it prints. It is used by several goroutines at once.
//
// Its positions grow with what is appended; what they count is the log's own matter.
type Log interface {
	// Append adds what the container has printed on a stream. It never fails and waits for nothing but the file system: what cannot be
	// kept is the log's to tell. The bytes are the caller's again when it returns.
	Append(stream byte, b []byte, t time.Time)
	// Mark is the position behind all that was appended. What waits for the rest of its line is written as a part of a line, so that
	// Next gives it, too.
	Mark() int64
	// Next hands what was appended from a position on to f, in order and byte for byte, piece by piece, until there is no more or max
	// bytes or somewhat more were handed out, and returns the position behind that. f must not keep the bytes. Where some of it is not
	// there any more (the file was rotated away, or could not be written), the error says so, and next is where there is more, or Mark.
	Next(from int64, max int, f func(stream byte, b []byte)) (next int64, err error)
	// Floor is the lowest position from which on Next gives everything, and will when b was appended. It is behind Mark where not even
	// that can be kept: on a full disk.
	Floor(b []byte) int64
}
