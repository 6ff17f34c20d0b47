// Package registry is the remote side of images: manifests and blobs of one repository, over go-containerregistry.
//
// It adds what a command line needs: errors in one line that say which host did what, plain HTTP for registries on loopback and on
// demand alone, and credentials from Docker's and Podman's files.
package registry
