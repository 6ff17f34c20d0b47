// Package registry is the remote side of images: manifests and blobs of one repository, at its registry and the registry's mirrors.
//
// It speaks the distribution specification's pulling and pushing over net/http, and takes registries as they are: an answer that passes
// (429, 5xx) is waited out, a connection that is cut or stalls is taken up again at its byte, and what comes is held against what was
// asked for. What is put goes to the registry itself, never to a mirror. Credentials are Docker's and Podman's, and are shown to nobody but the registry that they are for.
//
//	registry.go     Repository: Head, Manifest, Blob; sources in their order
//	source.go       one place: requests, redirects, TLS or not, what may be sent where
//	auth.go         challenges and tokens
//	credentials.go  auth files and credential helpers
//	certs.go        certs.d: authorities and certificates of ours
//	mirrors.go      registries.conf: which places a name leads to
//	blob.go         a blob over several connections
//	push.go         a blob into a repository, in parts; manifests
//	retry.go        what passes, how long it is waited for, stalls
//	errors.go       answers and network errors in one line that says which host did what
//
// It is not over go-containerregistry's client: that one asks for /v2/ before everything, refuses a token server with a private
// address, knows no ranges, and brings in Docker's configuration with initialisers that cost each start.
package registry
