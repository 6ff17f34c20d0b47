// Package events keeps a diary of what happens to containers and images, and shows it.
//
// On disk, in a directory of the run root: events, and events.1, what it was before its last rotation. A line an event, a JSON object:
//
//	{"time":1764090000123456789,"type":"container","action":"start","id":"…","attributes":{"name":"work"}}
//
// The time is in nanoseconds since 1970. Every process of a store appends, a line by one write(2) in O_APPEND mode, and none waits for
// another or for the disk; a reboot empties the run root, and with it the diary. A line that is no event is passed over.
package events
