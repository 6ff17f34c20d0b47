// Package record keeps, for each name of an image, one small file with all that `run` needs of it, so that starting a container
// opens no database.
//
// The files lie in names/ below the image store, one a name ("docker.io%library%ubuntu:latest.json"); they are written with the row that
// names the image, replaced by rename, and can be made again from the rows.
package record
