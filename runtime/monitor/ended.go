package monitor

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Ended is End of one run of a container that will be started again: who is here is told, and whoever comes later waits for the next run.
func (h *Hub) Ended(code int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	data := binary.BigEndian.AppendUint32(nil, uint32(code))
	for c := range h.clients {
		c.finish(frameExit, data)
	}
}

// Signal asks the monitor to send the container a signal.
func (c *Conn) Signal(sig unix.Signal) error { return c.send(frameSignal, []byte{byte(sig)}) }
