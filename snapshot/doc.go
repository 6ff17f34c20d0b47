// Package snapshot keeps unpacked layers and the stacks they form, and mounts them.
//
// A tree is one layer unpacked, immutable and stored once. A committed snapshot is a stack: a tree on top of a parent; image code
// names it by its chain ID (OCI image-spec, config.md, "Layer ChainID"). An active snapshot is a private upper over a committed one,
// a view is the same without an upper. The verbs and their meanings are those of containerd's snapshotter interface: Prepare and View
// make an active snapshot under a key, Commit freezes it under a name, Remove refuses what has children.
//
// On disk, below the root that Open is given:
//
//	meta.db, meta.db.lock       rows of committed snapshots and of trees (bbolt, see package rowdb)
//	trees/N/fs, index, needs    a layer unpacked (and unsettled, see package layer); N is a short number because mount(2) has one page
//	                            for all lowers
//	trees/init/fs               the stubs that mounts need where an image lacks them; the lowest lower of every container
//	chains/H.json               a committed snapshot's trees, lowest first: all that a mount needs of the rows (H: see hashName); and its
//	                            row, so that Repair can make a lost database again
//	children/H/A                an active snapshot A stands on the committed snapshot H
//	active/A/record.json        an active snapshot or view; lock: held as long as a mount of it lives, but for those on the host
//	active/A/shared             it may be mounted on the host: the kernel's mount table says whether it is
//	active/A/fs, work           its upper and overlayfs' own directory; index, needs: for a moment, while it is committed
//	staging/ID/                 a tree being filled, held by flock on the directory
//	trash/ID                    removed, by rename; deleted at once, by the reaper, or by whoever empties it
//
// Invariants: a row is written after the bytes that it names are on disk, and removed before they go. What says the same as a row in
// another form (chains/, children/) is written after the row. Where a snapshot H is committed and has no directory children/H, whoever
// needs that makes it; where the directory is, H is committed or a crash was: removing the directory is how Remove finds out that nobody
// stands on H, making a file in it is how Prepare finds out that H is there, and the kernel decides which came first. A crash leaves
// files that no row reaches, never a row without its files; Sweep deletes them.
//
// An upper that is committed becomes a tree by one exchange of its directory with the one that the snapshot is going to have (see Move).
// So a tree can be an active snapshot's lower before its row is written; its directory then holds the snapshot's old record, and nobody
// sweeps it.
//
// What an operation relies on or has made, and nothing names yet, it holds by a Lease; nobody deletes what is held.
//
// Rows and small files carry a checksum of their own (rowdb.Seal), and a tree's row the sums of the files beside fs: Check believes
// nothing else. Repair exchanges a damaged tree in one step, and never one below a mount. An active snapshot without a record is half made,
// and swept, unless somebody claims it (ClaimedBy): then it has lost its record, which Repair writes again of what he knows.
//
// Preparing and mounting open no database: a container's start reads one small file and makes a few.
package snapshot
