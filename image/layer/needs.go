package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// needs is the file of that name: what of a layer depends on the layers below.
type needs struct {
	Parents   []rawName    `json:"parents,omitempty"`   // directories that the layer uses and does not bring
	Links     [][2]rawName `json:"links,omitempty"`     // hard links to what only a layer below can have: name, target
	Whiteouts []rawName    `json:"whiteouts,omitempty"` // names that must hide something

	size int
}

// maxNeeds bounds the names in needs, in bytes: they are in memory when they are written, and when they are settled.
const maxNeeds = 64 << 20

// note adds a name to one of the lists.
func (n *needs) note(list *[]rawName, name string) error {
	*list = append(*list, rawName(name))
	return n.grow(len(name))
}

func (n *needs) grow(bytes int) error {
	if n.size += bytes + 16; n.size > maxNeeds {
		return fmt.Errorf("%d of its entries depend on the layers below: %w", n.count(), ErrLimit)
	}
	return nil
}

func (n needs) count() int { return len(n.Parents) + len(n.Links) + len(n.Whiteouts) }

func (n needs) write(dir *os.File) error {
	if n.count() == 0 {
		if err := unix.Unlinkat(int(dir.Fd()), "needs", 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("write needs: %w", err)
		}
		return nil
	}
	return writeAt(dir, "needs", func(w io.Writer) error { return json.NewEncoder(w).Encode(n) })
}

func readNeeds(dir string) (n needs, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "needs"))
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, fmt.Errorf("read needs: %w", err)
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("read needs: %w: %w", ErrMalformed, err)
	}
	return n, nil
}

// rawName is a name of a layer in JSON. JSON has no way to say bytes that are not UTF-8, and a name that comes back as another one
// would be settled in its place: such a name is written as a quoted Go string, and so is one that looks like it.
type rawName string

// MarshalText implements encoding.TextMarshaler.
func (n rawName) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(n)) && !strings.HasPrefix(string(n), `"`) {
		return []byte(n), nil
	}
	return []byte(strconv.Quote(string(n))), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *rawName) UnmarshalText(b []byte) error {
	s := string(b)
	if strings.HasPrefix(s, `"`) {
		var err error
		if s, err = strconv.Unquote(s); err != nil {
			return fmt.Errorf("name %.80q: %w", b, err)
		}
	}
	*n = rawName(s)
	return nil
}
