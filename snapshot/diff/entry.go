package diff

import (
	"iter"
	"os"
	"strings"
	"time"
)

// The types of an entry, as in a tar header, and of what only a layer has.
const (
	TypeFile     = '0'
	TypeHardlink = '1'
	TypeSymlink  = '2'
	TypeChar     = '3'
	TypeBlock    = '4'
	TypeDir      = '5'
	TypeFifo     = '6'
	TypeSocket   = 's' // of a directory that was walked; no layer has one
	TypeWhiteout = 'w'
	TypeOpaque   = 'O' // a directory that hides what is below
)

// Entry is one name of a layer, or of a view of several.
type Entry struct {
	Path     string // relative and clean; "." is the root
	Type     byte
	Mode     uint32 // permission bits, setuid, setgid and sticky
	UID, GID uint32
	Size     int64
	Dev      uint64 // of a device
	ModTime  time.Time
	Content  [16]byte // the first half of the SHA-256 of a regular file's content; all zero where nobody has read it
	Link     string   // a symbolic link's target, or the path of the file that a hard link names
	Xattrs   map[string]string
}

// IsDir says whether an entry is a directory, one that hides what is below it among them.
func (e *Entry) IsDir() bool { return e.Type == TypeDir || e.Type == TypeOpaque }

// ComparePaths is the order of everything here: '/' comes before every other byte, so that a directory's content follows it directly,
// and "." comes first.
func ComparePaths(a, b string) int { return comparePaths(a, b) }

// CompareTo is ComparePaths for a path that a cursor holds.
func CompareTo(a []byte, b string) int { return comparePaths(a, b) }

func comparePaths[A, B string | []byte](a A, b B) int {
	n := min(len(a), len(b))
	for i := 0; i < n; i++ {
		if a[i] != b[i] {
			x, y := a[i], b[i]
			switch {
			case len(a) == 1 && a[0] == '.':
				return -1
			case len(b) == 1 && b[0] == '.':
				return 1
			case x == '/':
				return -1
			case y == '/':
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// within says whether a path is dir or below it.
func within[A, B string | []byte](path A, dir B) bool {
	n := len(dir)
	return n == 1 && dir[0] == '.' || len(path) >= n && string(path[:n]) == string(dir) && (len(path) == n || path[n] == '/')
}

// Within says whether a path that a cursor holds is dir or below it.
func Within(path []byte, dir string) bool { return within(path, dir) }

// Clean makes what a user typed ("/etc/", "./etc", "etc") the path of an entry. ".." goes up, but never over the root.
func Clean(path string) string {
	parts := make([]string, 0, 8)
	for _, p := range strings.Split(path, "/") {
		switch p {
		case "", ".":
		case "..":
			parts = parts[:max(len(parts)-1, 0)]
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return "."
	}
	return strings.Join(parts, "/")
}

// Source is a whole view of files.
type Source interface {
	// Entries yields every name in the order of ComparePaths, "." first; whiteouts and opaque directories are resolved. An error ends it.
	Entries() iter.Seq2[Entry, error]
	// Open opens the content of the regular file at an entry's path, following no link. It returns fs.ErrNotExist where there is none.
	Open(path string) (*os.File, error)
}

// Layer is what one layer brings: its own entries, whiteouts among them.
type Layer interface {
	// Cursor goes over the entries, from the first on.
	Cursor() Cursor
	// Open opens the content of a regular file that the layer brings, following no link.
	Open(path string) (*os.File, error)
	// ID tells layers apart: two with the same one are the same, entry by entry. It is "" where nobody knows.
	ID() string
}

// Cursor goes over one layer's entries in order, and decodes of each only what is asked for. It begins before the first.
type Cursor interface {
	// Next goes to the next entry; it is false at the end and after an error.
	Next() bool
	// Seek goes to the first entry at or behind a path, and never back.
	Seek(path string) bool
	// Path and Type are the entry's. The path is valid until the cursor moves.
	Path() []byte
	Type() byte
	// Entry is the whole of it; an error is Err's, too.
	Entry() (Entry, error)
	Err() error
	Close()
}
