// Package archive reads and writes images as files: what docker, podman and skopeo call docker-archive, oci-archive and oci-dir.
//
// It knows members, names and JSON, but neither layers nor the store: whoever reads an archive asks it for a manifest or a blob by
// digest, as of a registry, and verifies every byte. What Docker's form has instead of manifests is said in their words, by a manifest
// made up of it.
//
// # The forms that are read
//
//	oci-dir         an OCI image layout: oci-layout, index.json, blobs/sha256/<hex>
//	oci-archive     the same in a tar
//	docker-archive  a tar with manifest.json, which names a config and layers for each image; what docker writes since 25 is an OCI
//	                layout, too, and is read as one, because that keeps the manifests' digests
//	the old one     a tar with repositories, and for each layer <id>/json, which names its parent, and <id>/layer.tar
//
// A tar on disk is read by random access: one pass over its headers, then each member where it lies. One that comes as a stream is read
// once, and its members are spooled. No member is ever given a name in the file system, and links between members are followed by name,
// within the archive.
//
// # The forms that are written
//
// The same three, each the same bytes whenever it is written: members in a fixed order, with no times and no owners. A docker-archive
// has the old form's files, too, its layers being links to those of the new one.
package archive
