// Package report writes what there is to see of an image as one HTML page.
//
// The page is a file of its own: its script and its style are in it, and its content security policy allows these two by their digests
// and nothing else, so that it can load nothing and run nothing that an image put into it. Text from an image is escaped by html/template
// or is in JSON, and is put into the document by the script as text; what does not print is shown by its number.
//
// The same image gives the same bytes: there is no clock in it. Its length is bounded: of the files, which may be millions, those are
// drawn one by one that take the most bytes, some 10,000 in a megabyte, and the others of each directory as a sum.
package report
