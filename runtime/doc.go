// Package runtime makes containers, runs them, and remembers them.
//
// On disk, below the store's root:
//
//	containers/ID/              locked by flock as long as the container's monitor lives
//	containers/ID/config.json   how it was made; written again only for another name or restart policy. Its snapshot has a copy of it, and
//	                            it knows what the snapshot stands on: each is made again of the other
//	containers/ID/exit.json     how it ended, last time; or that it has begun, until its end is known
//	containers/ID/log, log.1    what it printed: package logs
//	containers/names/NAME       a symbolic link to ../ID: making it is the test that the name is free. It counts where ID's record says the
//	                            same name. names/ itself is locked by whoever rewrites a record
//
// and below the run root, which a reboot may empty, and which several stores may share:
//
//	containers/STORE/ID/              STORE is a hash of the store's path
//	containers/STORE/ID/state.json    its first process and when that started, its monitor, and when it is started again
//	containers/STORE/ID/attach        the monitor's socket
//	containers/STORE/ID/exec/EXECID.json   a command that runs beside the first process; locked by its parent
//	containers/STORE/ID/hosts, hostname, resolv.conf   what is mounted in it
//	containers/STORE/ID/pause         there while its user has paused it
//	containers/STORE/ID/paused        held by whoever has stopped it for the time of a copy; one that nobody holds was left by a kill
//	containers/STORE/ID/stopping      there when its user ends it: it is not started again
//	containers/STORE/events, events.1 what happened: package events
//	mounts/STORE/ID/                  where a container or an image is mounted on the host when nobody says where
//
// The monitor is the process that waits for the container. For one that runs in the foreground and is removed at its end (run --rm without
// a terminal) that is the command line itself, and the container has its streams. Every other has a monitor of its own, which holds its
// terminal or pipes, its log and its socket, starts it again by its restart policy, and outlives the command that started it.
//
// Whether a container lives is asked of the lock and never guessed from a pid. A container whose lock is free and which has no end on
// record lost its monitor: whoever looks next ends what is left of it, takes its cgroups away and records that.
//
// Records have a checksum (rowdb.Seal). A container that has lost its config.json is not taken for one that is being made, or removed: it
// stays, and Check tells of it.
package runtime
