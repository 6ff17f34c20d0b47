// Package files copies files between the host, containers and images, and to and from tar streams, by the rules of docker cp
// (docs.docker.com, "docker container cp").
//
// What is copied goes as a tar through a pipe: layer.Pack makes it, and extract takes it. Both sides are hostile: a container may exchange
// directories for links while it is looked at, and a stream may name what it likes. So names are looked up from an open root directory by
// openat2(RESOLVE_IN_ROOT), and below what was found by single components that are never followed; owners, modes and attributes are set by
// descriptors. A link in a container leads to where it leads for the container, and never out of it.
//
// Owners and what hangs on them follow from where a copy goes. On the host, files are the caller's, and lose what they were given for
// another owner: setuid and setgid, capabilities, ACLs; devices are left out. In a container they are root's, and keep setuid, setgid and
// capabilities where their owner was root before. With Archive, and from a tar stream, everything is kept.
package files
