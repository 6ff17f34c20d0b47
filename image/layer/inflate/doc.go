// Package inflate reads gzip streams (RFC 1952) of deflated data (RFC 1951), as the layers of images are packed, several times as fast
// as compress/gzip: where everything else of a pull overlaps, inflating is the wall.
//
// # How
//
// The decoder keeps the next 56 bits or more of the stream in a word and finds a symbol in one look at a table that is indexed by the
// stream's next bits; codes that are longer than the table's index lead to a second one. While there is enough input and room for one more
// round of the loop, nothing is checked within it but what a hostile stream can get wrong: codes that do not exist, and distances beyond
// what was written. The last bytes of the input go through a loop that counts every bit.
//
// What is decoded lies in the caller's own buffer, behind the last 32 KiB of what was decoded before it (History), to which matches refer:
// nothing is copied to be handed on.
//
// # What it promises
//
// Every byte of the input is checked as compress/gzip checks it: the header and its checksum, every table, every distance, the checksum
// and the length at the end of each member; members that follow one another are one stream, and anything else behind one is ErrCorrupt.
// The same streams are accepted and refused, with two exceptions that RFC 1952 asks for: a header with reserved flags, and one that ends
// within its name or comment, are refused here. The fuzz targets compare the two. Memory is a constant, and so is the time for each byte of input and output.
package inflate
