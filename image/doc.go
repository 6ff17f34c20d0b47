// Package image turns names into manifests, manifests into layers, and layers into trees of the snapshot store.
//
// Rows live in images/meta.db:
//
//	images    image ID (the config's digest) → what there is to know of the image
//	names     name → image ID and the manifest's digest under that name
//	named     image ID, NUL, name: the same, from the other side
//	uses      blob digest, NUL, image ID; and "chain:" chain ID, NUL, image ID: who needs what, so that removing walks no other image
//	packed    diff ID, space, the way: the blob that a layer made here was compressed to for a push
//
// The order of a pull is what makes a crash harmless: blobs and trees are verified and renamed into place, the filesystem is synced
// once, one transaction commits the chain's snapshots, one names the image. Whatever a name reaches is whole; what a crash left behind
// is reached by none.
//
// What a pull found here or has made it holds by a lease (snapshot.Lease) until the image has its name. Removing takes the rows first, in
// one transaction that locks what nobody needs by then and nobody holds, and then moves that into the trash. Files that say what rows say
// (names/, index.json) are written while the rows are locked; a name's record goes before its row changes, so that a record is never
// older than the rows. Whoever needs both databases locks images' before snapshots'.
//
// Look, LookLayer, LookChain and LookTar open what there is to be looked into as a View: its layers' indexes as one stack (package
// snapshot/diff), read as far as somebody asks. Nothing is held meanwhile: what is removed under a view is missed when it is opened.
package image
