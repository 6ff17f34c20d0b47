package diff

import (
	"context"
	"path"
	"slices"
)

// moves is Compare with the files that moved: a regular file with content that is added, and one of the same content that is deleted, are
// one change. Of several a file of the same base name is taken, then the first in order. All changes are held in memory, and only files of
// a size that both sides have are read for a digest that is not known.
func moves(ctx context.Context, a, b *Stack, o Options, yield func(Change, error) bool) {
	var all []compared
	var failed error
	compare(ctx, a, b, o, func(c compared) bool {
		failed = c.err
		all = append(all, c)
		return true
	})
	if failed != nil {
		yield(Change{}, failed)
		return
	}
	sizes := map[int64]bool{} // of deleted files
	for i := range all {
		if c := &all[i]; c.Kind == Deleted && c.Old.Type == TypeFile && c.Old.Size > 0 {
			sizes[c.Old.Size] = false
		}
	}
	for i := range all {
		if c := &all[i]; c.Kind == Added && c.New.Type == TypeFile {
			if _, ok := sizes[c.New.Size]; ok {
				sizes[c.New.Size] = true
			}
		}
	}
	type content struct {
		sum  [16]byte
		size int64
	}
	deleted := map[content][]int{}
	for i := range all {
		c := &all[i]
		if c.Kind != Deleted || c.Old.Type != TypeFile || !sizes[c.Old.Size] {
			continue
		}
		if err := digest(c.old, c.Old); ignoreVanished(err) != nil {
			yield(Change{}, err)
			return
		}
		if known(c.Old) {
			key := content{c.Old.Content, c.Old.Size}
			deleted[key] = append(deleted[key], i)
		}
	}
	cmp := comparer{o: o}
	match := func(sameName bool) error {
		for i := range all {
			c := &all[i]
			if c.Kind != Added || c.New.Type != TypeFile || !sizes[c.New.Size] {
				continue
			}
			if err := digest(c.new, c.New); err != nil {
				if ignoreVanished(err) != nil {
					return err
				}
				continue
			}
			key := content{c.New.Content, c.New.Size}
			from := deleted[key]
			at := 0
			if sameName {
				at = slices.IndexFunc(from, func(j int) bool { return path.Base(all[j].Path) == path.Base(c.Path) })
			}
			if at < 0 || at >= len(from) {
				continue
			}
			old := &all[from[at]]
			c.Kind, c.From, c.Old, c.old = Moved, old.Path, old.Old, old.old
			old.Kind = 0
			deleted[key] = slices.Delete(from, at, at+1)
			differs, err := cmp.differs(c)
			if err != nil {
				return err
			}
			c.Differs = differs
		}
		return nil
	}
	for _, sameName := range []bool{true, false} {
		if err := match(sameName); err != nil {
			yield(Change{}, err)
			return
		}
	}
	for i := range all {
		if all[i].Kind != 0 && !yield(all[i].Change, nil) {
			return
		}
	}
}
