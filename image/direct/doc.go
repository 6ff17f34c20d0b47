// Package direct writes large files to the disk without leaving them in the page cache.
//
// A pull writes a blob that nobody reads again, and files of which a container will read a little. Through the page cache they cost a
// copy of every byte, push out what others use, and are in the way of the sync at the end; written directly they cost nothing but the
// disk's time, in which others compute. Where a filesystem cannot, all this is an ordinary write.
package direct
