package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Reindex writes the index of the layer unpacked at dir (which holds fs) as Apply would, from what the tree has: every file is read. It is
// the index that was written with the tree, byte for byte, where the tree is whole and the first of the names of each file with several
// was the first in the layer, too. The caller compares it with a sum of that before it is believed.
func Reindex(ctx context.Context, dir string, w io.Writer) error {
	x, err := newIndexWriter(w)
	if err != nil {
		return err
	}
	tree := diff.UpperLayer(strings.TrimSuffix(dir, "/") + "/fs")
	c := tree.Cursor()
	defer c.Close()
	first := map[uint64]string{} // of the files that have several names
	for c.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := c.Entry()
		if err != nil {
			return err
		}
		if ino, links := c.(diff.Inode).Inode(); links > 1 && !e.IsDir() && e.Type != TypeWhiteout {
			if name, ok := first[ino]; ok {
				e = Entry{Path: e.Path, Type: TypeHardlink, Link: name, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime}
			} else {
				first[ino] = e.Path
			}
		}
		if e.Type == TypeWhiteout {
			e.ModTime = time.Unix(0, 0) // as Apply has it; a walk tells none
		}
		if e.Type == TypeFile {
			if err := readDigest(tree, &e); err != nil {
				return err
			}
		}
		if err := x.add(&e); err != nil {
			return err
		}
	}
	if err := c.Err(); err != nil {
		return err
	}
	return x.end()
}

func readDigest(tree diff.Layer, e *Entry) error {
	f, err := tree.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("read %q: %w", e.Path, err)
	}
	copy(e.Content[:], sum.Sum(nil))
	return nil
}
