package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// Reindex writes the index of the layer unpacked at dir (which holds fs) as Apply would, from what the tree has: every file is read. Of a
// file with several names, what is still whole of the index there says which one is the file and which are links; else it is the first.
// The caller compares the outcome with a sum of the index that was written with the tree before it is believed.
func Reindex(ctx context.Context, dir string, w io.Writer) error {
	x, err := newIndexWriter(w)
	if err != nil {
		return err
	}
	tree := diff.UpperLayer(strings.TrimSuffix(dir, "/") + "/fs")
	c := tree.Cursor()
	defer c.Close()
	links := linksOf(filepath.Join(dir, "index"))
	files := map[uint64]string{} // the name that is the file, of those that have several
	for c.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := c.Entry()
		if err != nil {
			return err
		}
		if ino, names := c.(diff.Inode).Inode(); names > 1 && !e.IsDir() && e.Type != TypeWhiteout {
			file, ok := files[ino]
			if !ok {
				if file = links[e.Path]; file == "" {
					file = e.Path
				}
				files[ino] = file
			}
			if file != e.Path {
				e = Entry{Path: e.Path, Type: TypeHardlink, Link: file, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime}
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

// linksOf are the hard links in those blocks of an index that are whole.
func linksOf(index string) map[string]string {
	links := map[string]string{}
	x, err := OpenIndex(index)
	if err != nil {
		return links
	}
	defer x.Close()
	for at := int64(len(indexMagic)); ; {
		n, _, _, err := x.header(x.file, x.size, at)
		if err != nil || n == 0 {
			return links
		}
		if block, records, _, err := x.block(at, nil); err == nil {
			d := decoder{data: block}
			for range records {
				if e := d.entry(); !d.bad && e.Type == TypeHardlink {
					links[e.Path] = e.Link
				}
			}
		}
		at += blockHeader + n
	}
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
