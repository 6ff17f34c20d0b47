package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"math"
	"os"
	"slices"
)

// Describe makes a layer of the tree at fs as it lies there, and reads it once: it writes the index, and the needs where the layer does
// not stand alone, into dir, and returns the diff ID, which is that of the canonical tar. Content is not touched; overlayfs' own
// attributes are taken away, but for the one that makes a directory opaque, and whiteouts lose their time, so that the tree is what Apply
// would make of that tar. Nobody else may write to it meanwhile.
//
// What no layer carries, sockets and marks of an overlay inside a container, stays in the tree and is counted in Result.Left.
func Describe(ctx context.Context, fs, dir *os.File, warn func(string)) (Result, error) {
	warnings := &fewWarnings{warn: warn}
	defer warnings.end()
	d := &description{sum: sha256.New()}
	var failed error
	err := writeAt(dir, "index", func(out io.Writer) (err error) {
		if d.index, err = newIndexWriter(out); err != nil {
			return err
		}
		h := &summing{h: sha256.New(), limit: math.MaxInt64}
		tar := newTarStream(ctx, func(p *slab) error { return h.add(p.buf[:p.used]) }, d.use)
		p := &packer{ctx: ctx, opt: PackOptions{Marks: true, Warn: warnings.say}, w: tar, tar: tar, links: map[[2]uint64]string{}}
		if failed = tar.end(p.run(fs)); failed != nil {
			return failed
		}
		d.result.DiffID, d.result.TarSize, d.result.Left = "sha256:"+hex.EncodeToString(h.h.Sum(nil)), h.n, p.left
		return d.index.end()
	})
	if failed != nil {
		return Result{}, failed // it names the file in the tree
	}
	if err != nil {
		return Result{}, err
	}
	slices.Sort(d.needs.Whiteouts)
	d.result.Needs = d.needs.count()
	return d.result, d.needs.write(dir)
}

// description makes an index of what is told of a tar.
type description struct {
	index  *indexWriter
	sum    hash.Hash // of the content of the file that is told next
	needs  needs
	result Result
}

func (d *description) use(p *slab) error {
	for _, t := range p.told {
		if t.entry == nil {
			d.sum.Write(p.buf[t.from:t.to])
			continue
		}
		if err := d.entry(t.entry); err != nil {
			return err
		}
	}
	return nil
}

func (d *description) entry(e *Entry) error {
	switch e.Type {
	case TypeFile:
		copy(e.Content[:], d.sum.Sum(nil))
		d.sum.Reset()
	case TypeWhiteout:
		if err := d.needs.note(&d.needs.Whiteouts, e.Path); err != nil {
			return err
		}
	}
	d.result.count(e)
	return d.index.add(e)
}
