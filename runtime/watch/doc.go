// Package watch wakes who follows a file when something in its directory changes: inotify(7).
package watch
