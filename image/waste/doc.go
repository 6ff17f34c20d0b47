// Package waste finds the bytes that an image carries for nothing, from the indexes of its layers alone.
//
// A byte is counted once, for the first of these reasons that holds:
//
//	overwritten   a later layer brings another file under that name, or a directory
//	rewritten     a later layer brings the same content under that name again, for the sake of its owner, mode or time
//	deleted       a later layer deletes the name, or a directory above it
//	cached        it is in the end's view, in a directory that only speeds up a package manager, or in /tmp
//	duplicate     it is in the end's view, and another layer has the same content there under another name
//
// Content that is there twice within one layer is counted apart, as twins: no layer is to blame, and most often it is meant.
//
// Size is that of content as files have it, hard links once; a file that is hidden under one name and in the view by another link of its
// layer is not wasted. Efficiency is what is left: 100 × (1 − wasted / all bytes in all layers), and 100 where there are none.
//
// Memory is some 100 bytes for each file in the end's view, and for each hidden one.
package waste
