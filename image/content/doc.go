// Package content keeps blobs by their digest: manifests, configs and layers as they came.
//
// On disk it is an OCI image layout (image-spec, image-layout.md), which skopeo and crane can read:
//
//	oci-layout, index.json     the layout's own; the index names each image whose blobs are all here
//	blobs/sha256/HEX           a blob, whole and verified
//	ingest/HEX/                a blob on its way: data, and lock, which is held by flock by whoever is bringing it.
//	                           Without a holder, data is what a pull that broke off has left: the next one goes on after it
//	ingest/ID/                 a spool: the files of an archive that came as a stream, by number; and lock
//
// A blob appears under its digest by rename after its bytes were verified. It is on disk once the store was synced; nothing names it
// before that.
package content
