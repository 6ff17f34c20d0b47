package record

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// ErrNotFound says that no name here is the one that was asked for. It may still be an ID or a digest.
var ErrNotFound = errors.New("no such image")

// Record is what running an image takes.
type Record struct {
	Name     string // canonical
	ID       string // the config's digest
	Digest   string // the manifest's; "" for an image that came from no registry
	Chain    string // the top layer's chain ID, which is the name of its snapshot
	OS       string
	Arch     string
	Settings Settings
}

// Settings are the image's wishes for a container (image-spec, config.md, "config").
type Settings struct {
	Env, Entrypoint, Cmd         []string
	User, WorkingDir, StopSignal string
	Labels                       map[string]string
	Volumes, ExposedPorts        []string
}

// Path is the file of a name below the image store.
func Path(images, name string) string {
	file := strings.ReplaceAll(name, "/", "%")
	if len(file) > 200 {
		sum := sha256.Sum256([]byte(name))
		file = hex.EncodeToString(sum[:])
	}
	return filepath.Join(images, "names", file+".json")
}

// Find returns the record of the image that ref names, trying its candidates in order.
func Find(images, ref string) (*Record, error) {
	for _, name := range reference.Candidates(ref) {
		b, err := os.ReadFile(Path(images, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the record of %s: %w", name, err)
		}
		var r Record
		if !rowdb.Sealed(where(name), b) || json.Unmarshal(b, &r) != nil {
			break // damaged, or emptied: only the rows know what this name means
		}
		return &r, nil
	}
	return nil, fmt.Errorf("%s: %w", ref, ErrNotFound)
}

func where(name string) string { return "names/" + name }

// Marshal is what the file of r's name holds.
func Marshal(r *Record) ([]byte, error) { return rowdb.Seal(where(r.Name), r) }

// Read reads the record at a path. It is rowdb.ErrDamaged where that is not as it was written.
func Read(path string) (*Record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Record
	if json.Unmarshal(b, &r) != nil || !rowdb.Sealed(where(r.Name), b) {
		return nil, fmt.Errorf("read record %s: %w", path, rowdb.ErrDamaged)
	}
	return &r, nil
}

// Write replaces the file of r's name. It is on disk when Write returns: a filesystem without a journal may otherwise show an older
// record's bytes under the name after a power cut, and they would be believed.
func Write(images string, r *Record) error {
	b, err := Marshal(r)
	if err == nil {
		err = snapshot.WriteFile(Path(images, r.Name), b, true)
	}
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Name, err)
	}
	return nil
}

// Remove takes the file of a name away, and says whether there was one.
func Remove(images, name string) (bool, error) {
	err := os.Remove(Path(images, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove the record of %s: %w", name, err)
	}
	return err == nil, nil
}
