package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// ended is exit.json: how a container has ended, last time; or that it has begun, of one whose end is not recorded yet.
type ended struct {
	ExitCode              int
	Error                 string `json:",omitempty"`
	Begun                 bool   `json:",omitempty"`
	OOMKilled             bool   `json:",omitempty"`
	Stopped               bool   `json:",omitempty"` // by the user
	RestartCount          int    `json:",omitempty"`
	StartedAt, FinishedAt time.Time
}

// running is state.json.
type running struct {
	Version   int
	Pid       int    // of the first process; 0 between two runs
	PidStart  uint64 // when it began, in clock ticks since the machine did (proc(5), /proc/PID/stat): another process that has its pid later began later
	StartedAt time.Time
	Monitor   int       // its pid
	Restarts  int       // how often it has been started again by its policy
	RestartAt time.Time // between two runs: when the next begins
	Last      *ended    `json:",omitempty"` // and how the last one ended: exit.json is about the next as soon as that begins
	ExitCode  *int      `json:",omitempty"` // of one that is being removed: for those who have the file open
}

// stateVersion is the form of state.json.
const stateVersion = 1

// startTime is when a process began: the 22nd word of /proc/PID/stat, of which the second, in parentheses, may be anything.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	words := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(words) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: %w", pid, fs.ErrInvalid)
	}
	return strconv.ParseUint(string(words[19]), 10, 64)
}

// copyLabel is the label of a container's snapshot that has a copy of config.json, of a container that is kept: each is made again of the
// other where it is damaged or lost.
const copyLabel = "layerctl.container"

// seal marshals a record of a container with its checksum.
func seal(id, name string, v any) ([]byte, error) { return rowdb.Seal(id+"/"+name, v) }

// readBytes reads a small file. An empty one, or one of zeroes, is what a power cut leaves of a file that was not made durable: it is not
// there.
func readBytes(path string) (b []byte, err error) {
	err = withBytes(path, func(lent []byte) error { b = bytes.Clone(lent); return nil })
	return b, err
}

// buffers are for withBytes: a list of containers reads thousands of files.
var buffers sync.Pool

// maxRecord is how large a record may be: some files of variables and labels (maxGivenFile) make the largest.
const maxRecord = 64 << 20

// withBytes is readBytes for whoever keeps nothing of the bytes. It does without an os.File, which asks the kernel twice as much. What
// stands in the place of a record and cannot be one, as a directory, a pipe or a link, is snapshot.ErrDamaged.
func withBytes(path string, use func([]byte) error) error {
	fail := func(err error) error { return &fs.PathError{Op: "read", Path: path, Err: err} }
	other := func() error { return fail(fmt.Errorf("it is no record: %w", snapshot.ErrDamaged)) }
	var fd int
	err := error(unix.EINTR)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err == unix.ELOOP || err == unix.ENXIO {
		return other()
	}
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	buf, _ := buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
		*buf = make([]byte, 8<<10)
	}
	defer buffers.Put(buf)
	n := 0
	for {
		got, err := unix.Read(fd, (*buf)[n:])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EISDIR || err == unix.EAGAIN {
			return other()
		}
		if err != nil {
			return fail(err)
		}
		if n += got; got == 0 || n < len(*buf) { // a regular file gives what it has
			break
		}
		if n >= maxRecord {
			return other()
		}
		*buf = append(*buf, make([]byte, len(*buf))...)
	}
	b := (*buf)[:n]
	var st unix.Stat_t
	if n == 0 && unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return other()
	}
	if len(bytes.Trim(b, "\x00")) == 0 {
		return fail(fs.ErrNotExist)
	}
	return use(b)
}

// readVolatile reads a small file below the run root.
func readVolatile(path string, v any) error {
	return withBytes(path, func(b []byte) error { return json.Unmarshal(b, v) })
}

// readRecord reads one of a container's records. One that is not as it was written is snapshot.ErrDamaged.
func (s *Store) readRecord(id, name string, v any) error {
	return withBytes(s.path(id, name), func(b []byte) error {
		if err := rowdb.Unseal(id+"/"+name, b, v); err != nil {
			return fmt.Errorf("read %s: %w", s.path(id, name), snapshot.ErrDamaged)
		}
		return nil
	})
}

// readConfig reads config.json. It is fs.ErrNotExist for a container that is being made or removed, and ErrDamaged for one that has lost it.
func (s *Store) readConfig(id string) (c Config, err error) {
	var j configJSON // and not Config, whose own UnmarshalJSON has all of it parsed twice
	err = s.readRecord(id, "config.json", &j)
	c = j.config()
	if errors.Is(err, fs.ErrNotExist) && s.lostConfig(id) {
		err = fmt.Errorf("read %s: it is missing: %w", s.path(id, "config.json"), snapshot.ErrDamaged)
	}
	if err == nil && c.ID != id {
		err = fmt.Errorf("read %s: it is another container's: %w", s.path(id, "config.json"), snapshot.ErrDamaged)
	}
	return c, err
}

// lostConfig says of a container without config.json whether it was there once and was not removed: the container has ended or written
// something, its snapshot is still there, and it is one that is kept.
func (s *Store) lostConfig(id string) bool {
	if _, err := os.Lstat(s.path(id, "removed.json")); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	left := s.snaps.Remains(snapshotKey(id))
	if !left.Upper {
		return false
	}
	if _, err := os.Lstat(s.path(id, "exit.json")); err == nil {
		return true // only of those that are kept
	}
	return left.Written && left.Labels[copyLabel] != ""
}

// recorded says whether a container has a record, or may have one that cannot be read now.
func (s *Store) recorded(id string) bool {
	_, err := s.readConfig(id)
	return !errors.Is(err, fs.ErrNotExist)
}

// claimed are the keys of the snapshots that containers have.
func (s *Store) claimed() (keys []string, err error) {
	ids, err := s.ids()
	for _, id := range ids {
		if s.recorded(id) {
			keys = append(keys, snapshotKey(id))
		}
	}
	return keys, err
}

// Paths are where a container's own files are on the host; "" for what is not there now.
type Paths struct{ Hosts, Hostname, ResolvConf, Log string }

// Paths says where a container's own files are.
func (s *Store) Paths(c *Container) (p Paths) {
	for to, path := range map[*string]string{&p.Hosts: s.volatile(&c.Config, "hosts"), &p.Hostname: s.volatile(&c.Config, "hostname"),
		&p.ResolvConf: s.volatile(&c.Config, "resolv.conf"), &p.Log: s.path(c.ID, "log")} {
		if exists(path) {
			*to = path
		}
	}
	return p
}
