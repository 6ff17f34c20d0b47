// Package packages reads what a package manager says is installed in a root, and compares two such lists.
//
// It knows the databases of dpkg (one status file, or a file a package in status.d as in images without a shell), of apk, and of rpm in
// its three forms: SQLite, ndb and Berkeley DB. They are read where they lie, as files: none of these programs is run, and no library of
// theirs is linked. Only the name, the version, the architecture and the size of a package are taken.
//
// A database comes out of an image and may say anything. What is read of it at once is bounded, whatever lengths it claims; a page or a
// blob is visited no more often than the file has room for; and what does not parse is ErrMalformed.
package packages
