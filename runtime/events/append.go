package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/flock"
)

// Event is something that happened. The actions are Docker's: create, start, die (attribute exitCode), destroy, stop, kill (signal), pause,
// unpause, rename (oldName), update, attach, detach, exec_create, exec_start, exec_die (exitCode), oom, restart and commit of containers; pull,
// push, import, load, save, tag, untag and delete of images.
type Event struct {
	Time       time.Time
	Type       string // Container or Image
	Action     string
	ID         string            // of the container or the image
	Attributes map[string]string // name, image, a container's labels, and what the action has to say
}

// The types of events.
const (
	Container = "container"
	Image     = "image"
)

// maxSize is how large a file of the diary grows.
const maxSize = 4 << 20

// Append adds an event to the diary in a directory. Without a time it happens now. It is on the path of every start, and nothing depends on
// it: an error is the caller's to tell or to drop.
func Append(dir string, e Event) error {
	if err := add(filepath.Join(dir, "events"), e); err != nil {
		return fmt.Errorf("record an event: %w", err)
	}
	return nil
}

func add(path string, e Event) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	size, err := unix.Seek(fd, 0, unix.SEEK_END)
	if err != nil {
		return &os.PathError{Op: "seek", Path: path, Err: err}
	}
	if size >= maxSize {
		rotated, err := rotate(path)
		if err != nil {
			return err
		}
		if rotated {
			return add(path, e)
		}
	}
	line := make([]byte, 0, 512)
	if size > 0 {
		var last [1]byte
		if n, _ := unix.Pread(fd, last[:], size-1); n == 1 && last[0] != '\n' { // a full disk has left half a line
			line = append(line, '\n')
		}
	}
	line = appendEvent(line, e)
	if n, err := unix.Write(fd, line); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	} else if n < len(line) {
		return &os.PathError{Op: "write", Path: path, Err: unix.ENOSPC}
	}
	return nil
}

// rotate begins a new file where the present one is full, and nobody else is at it: then it says false, and the file may grow.
func rotate(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if flock.Try(f, unix.LOCK_EX) != nil {
		return false, nil
	}
	// Another may have done it in between.
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	if there, err := os.Lstat(path); err != nil || !os.SameFile(ours, there) || ours.Size() < maxSize {
		return true, nil
	}
	return true, os.Rename(path, path+".1")
}

// timeKey is what a line begins with.
const timeKey = `{"time":`

// appendEvent appends an event as a line. encoding/json would need a struct and a map's reflection for what is a few strings.
func appendEvent(b []byte, e Event) []byte {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b = append(b, timeKey...)
	b = strconv.AppendInt(b, e.Time.UnixNano(), 10)
	b = appendText(append(b, `,"type":`...), e.Type)
	b = appendText(append(b, `,"action":`...), e.Action)
	b = appendText(append(b, `,"id":`...), e.ID)
	if len(e.Attributes) > 0 {
		b = append(b, `,"attributes":{`...)
		for i, k := range slices.Sorted(maps.Keys(e.Attributes)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, k), ':')
			b = appendText(b, e.Attributes[k])
		}
		b = append(b, '}')
	}
	return append(b, "}\n"...)
}

// appendText appends a string as JSON has it.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // a string always can be
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
