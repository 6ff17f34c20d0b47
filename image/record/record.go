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
		if json.Unmarshal(b, &r) != nil || r.Name != name || r.Chain == "" {
			continue // damaged, or another name's: the rows know better
		}
		return &r, nil
	}
	return nil, fmt.Errorf("%s: %w", ref, ErrNotFound)
}

// Write replaces the file of r's name. It is on disk when Write returns: a filesystem without a journal may otherwise show an older
// record's bytes under the name after a power cut, and they would be believed.
func Write(images string, r *Record) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = snapshot.WriteFile(Path(images, r.Name), b, true)
	}
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Name, err)
	}
	return nil
}

// Remove takes the file of a name away, if there is one.
func Remove(images, name string) error {
	if err := os.Remove(Path(images, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of %s: %w", name, err)
	}
	return nil
}
