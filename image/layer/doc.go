// Package layer handles one layer as a stream: Apply turns a layer's tar into a tree, Pack turns a tree into the canonical tar.
//
// It is the one place that touches hostile bytes. Apply works by descriptors of directories and single path components, with
// O_NOFOLLOW and O_EXCL; nothing that a layer planted is followed out of the tree, because nothing is ever resolved by the kernel over
// more than one component.
//
// # What Apply makes
//
// Given an empty directory (a tree's, in the store) it makes
//
//	fs/      the tree. OCI whiteouts (image-spec, layer.md) are overlayfs' own: a 0/0 character device, and trusted.overlay.opaque=y
//	index    the layer index
//	needs    only where the layer does not stand alone: what of it depends on the layers below (see Settlement)
//
// and settling a layer may add
//
//	unsettled   the index before names changed, from which the layer is settled for other layers below
//
// What a layer says is taken as containerd takes it: a later entry replaces an earlier one of its name, two directories merge, a whiteout
// hides what is below and nothing that the layer itself brings, and names resolve within the root over the links that lie there.
//
// # Limits
//
// Memory does not grow with a layer. What a tree takes is bounded by the disk, as for every other tool: a layer whose files have more
// bytes than are free on the tree's filesystem when it begins, holes counted, is refused with ENOSPC before they are written, and
// running out of inodes ends it. There is no bound on the ratio: 10 GB of zeroes in 10 MB are a legal layer, take no disk, and cost the
// seconds that it takes to inflate them. Besides there may be 10 million entries, 1 TiB of tar, 1 MiB in a pax header, 4,096 levels of
// directories, 64 KiB in a path and 64 MiB of names that depend on the layers below.
//
// # Canonical tar, format 1
//
// The tar of a tree is the same bytes wherever and whenever it is made; its SHA-256 is the diff ID of an imported layer. Entries come
// in the order of a walk that sorts each directory's names by byte, a directory before what is in it, beginning with "./". Names are
// "./"-less and directories end in a slash. Each header is ustar; a pax header goes before it where ustar cannot say it: a name or link
// target over 100 bytes or with bytes above 127, an id over 2097151, a size of 8 GiB or more, a time before 1970, after 2242 or with a
// fraction of a second, extended attributes (SCHILY.xattr.NAME). Pax records are sorted by key, their header's own fields are fixed.
// A whiteout is an empty file .wh.NAME in the place of NAME; the mark of an opaque directory, .wh..wh..opq, follows the directory. Theirs
// are mode, owner and time 0. There are no user and group names and no other times. Of hard-linked names the first is the file and the others are links to it.
// Sockets are left out, overlayfs' own attributes and those that a machine's security modules set (security.*, but for capabilities), too.
//
// # The index, version 1
//
// One record an entry, sorted by path with '/' before every other byte, so that a directory's content follows it. After the line
// "layerctl-index 1\n" come blocks; each is
//
//	uint32 length of the block's data, uint32 number of records, uint32 CRC-32C of the data (all little-endian), then the data
//
// and after the last one a block of length 0. A record is: a type byte; uvarints of how many bytes of the path it shares with the
// record before it in its block and how many follow; those bytes; uvarint mode, uid, gid, size, device; varint seconds and uvarint
// nanoseconds of the modification time; 16 bytes of the content's SHA-256 for a regular file; a length-prefixed link target; and the
// number of extended attributes with length-prefixed names and values. Blocks hold about 64 KiB. A search reads the headers, twelve bytes a
// block, and then, as a binary search does, a few blocks for their first path; whatever block is read is verified before anything in it
// is believed. An index takes some 40 bytes a name: 343 kB for a Debian of 8,743 names and 170 MB.
//
// The sum of the whole file is in the tree's row (package snapshot). An index that is damaged, missing or of another version is made again
// of the tree (Reindex) when somebody looks into the layer, and believed if it has that sum.
package layer
