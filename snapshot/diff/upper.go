package diff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// Kind is the letter that docker diff prints.
type Kind byte

// The kinds of a change, as docker diff documents them: a file or directory was added, changed or deleted. Moved is Compare's.
const (
	Added   Kind = 'A'
	Changed Kind = 'C'
	Deleted Kind = 'D'
	Moved   Kind = 'R' // a file that was deleted elsewhere, with its content
)

// Change is one line of a diff. Path and From begin with a slash.
type Change struct {
	Kind     Kind
	Path     string
	From     string // where a file that moved was before
	Old, New *Entry // by Compare alone: what both views have; nil where one has nothing
	Differs  Fields // by Compare alone: what of a name that both have, or of a file that moved
}

// Upper calls fn for each change that upper makes to the merged view of lowers (highest first), parents before what is in them and
// names in byte order. Paths for which skip answers true are left out, with all that is in them.
//
// A directory is Changed when its owner, mode, times or attributes differ or a name in it was added or deleted; any other file that is
// in both is Changed. A directory that was removed and made again is Changed, with the names that are now missing Deleted. A name
// that is another type of file now is Changed.
func Upper(ctx context.Context, upper string, lowers []string, skip func(path string) bool, fn func(Change) error) error {
	return Uppers(ctx, []string{upper}, lowers, skip, fn)
}

// Uppers is Upper for the changes of several layers at once, highest first: an upper, and what commits have made of earlier ones.
func Uppers(ctx context.Context, uppers, lowers []string, skip func(path string) bool, fn func(Change) error) error {
	stack, err := snapshot.OpenStack(lowers)
	if err != nil {
		return err
	}
	defer stack.Close()
	var root merged
	defer func() { root.close() }()
	for _, upper := range uppers {
		fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", upper, err)
		}
		root = append(root, os.NewFile(uintptr(fd), upper))
	}
	w := walker{ctx: ctx, skip: skip}
	if _, err := w.dir(root, stack.Root(), "/", false); err != nil {
		return err
	}
	for _, c := range w.changes {
		if c.Kind == 0 {
			continue
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

type walker struct {
	ctx     context.Context
	skip    func(string) bool
	changes []Change
}

func (w *walker) add(kind Kind, path string) {
	w.changes = append(w.changes, Change{Kind: kind, Path: path})
}

// merged is one directory of the uppers: the directories of that name that merge, highest first.
type merged []*os.File

func (m merged) close() {
	for _, d := range m {
		d.Close()
	}
}

// names lists what is in any of them, whiteouts too, sorted.
func (m merged) names() ([]string, error) {
	var all []string
	for _, d := range m {
		names, err := d.Readdirnames(-1)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// lookup finds a name, and the first of the directories that has it.
func (m merged) lookup(name string) (st unix.Stat_t, at int, err error) {
	err = unix.ENOENT
	for at = range m {
		if err = unix.Fstatat(int(m[at].Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
			break
		}
	}
	return st, at, err
}

// enter opens the directory name, which the first of m has. hides says that it covers what the layers below the uppers have.
func (m merged) enter(name string) (sub merged, hides bool, err error) {
	for _, d := range m {
		fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch {
		case err == unix.ENOENT:
			continue
		case len(sub) > 0 && (err == unix.ENOTDIR || err == unix.ELOOP):
			return sub, true, nil // a whiteout, or what the directory has taken the place of
		case err != nil:
			sub.close()
			return nil, false, err
		}
		sub = append(sub, os.NewFile(uintptr(fd), name))
		if snapshot.IsOpaque(fd) {
			return sub, true, nil
		}
	}
	if len(sub) == 0 {
		return nil, false, unix.ENOENT
	}
	return sub, false, nil
}

// dir records the changes in one directory of the uppers. below is the same directory in the layers, nil where they have none; opaque
// says that the upper's hides it. The answer is whether a name in it was added or deleted.
func (w *walker) dir(d merged, below *snapshot.Dir, at string, opaque bool) (renamed bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	names, err := d.names()
	if err != nil {
		return false, fmt.Errorf("read %s of the upper: %w", at, err)
	}
	if opaque {
		// What the directory held before is gone unless it was made again.
		hidden, err := below.Names()
		if err != nil {
			return false, fmt.Errorf("read %s below: %w", at, err)
		}
		have := make(map[string]bool, len(names))
		for _, n := range names {
			have[n] = true
		}
		for _, n := range hidden {
			if !have[n] {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		full := path.Join(at, name)
		if w.skip != nil && w.skip(full) {
			continue
		}
		did, err := w.entry(d, below, name, full)
		if err != nil {
			return false, err
		}
		renamed = renamed || did
	}
	return renamed, nil
}

// entry records what became of one name, and answers whether it was added or deleted.
func (w *walker) entry(d merged, below *snapshot.Dir, name, full string) (renamed bool, err error) {
	st, at, err := d.lookup(name)
	missing := err == unix.ENOENT || err == nil && snapshot.IsWhiteout(&st)
	if err != nil && err != unix.ENOENT {
		return false, fmt.Errorf("look at %s in the upper: %w", full, err)
	}
	var was unix.Stat_t
	existed := false
	if below != nil {
		was, err = below.Lookup(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("look at %s below: %w", full, err)
		}
		existed = err == nil
	}
	switch {
	case missing && !existed:
		return false, nil // a whiteout of nothing, or a file that a running container took away just now
	case missing:
		w.add(Deleted, full)
		return true, nil
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return !existed, w.subdir(d[at:], below, name, full, &st, &was, existed)
	case existed:
		w.add(Changed, full)
		return false, nil
	}
	w.add(Added, full)
	return true, nil
}

func (w *walker) subdir(d merged, below *snapshot.Dir, name, full string, st, was *unix.Stat_t, existed bool) error {
	sub, opaque, err := d.enter(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s of the upper: %w", full, err)
	}
	defer sub.close()
	slot := len(w.changes)
	w.add(Added, full)
	if existed {
		w.changes[slot].Kind = Changed
	}
	if !existed || was.Mode&unix.S_IFMT != unix.S_IFDIR {
		_, err := w.dir(sub, nil, full, false)
		return err
	}
	under, err := below.Enter(name)
	if err != nil {
		return fmt.Errorf("open %s below: %w", full, err)
	}
	defer under.Close()
	renamed, err := w.dir(sub, under, full, opaque)
	if err != nil {
		return err
	}
	if !renamed && !opaque {
		same, err := sameDir(int(sub[0].Fd()), st, under, was)
		if err != nil {
			return fmt.Errorf("compare %s: %w", full, err)
		}
		if same {
			w.changes[slot].Kind = 0 // it is in the upper only to hold what is in it
		}
	}
	return nil
}

func sameDir(fd int, st *unix.Stat_t, under *snapshot.Dir, was *unix.Stat_t) (bool, error) {
	if st.Mode != was.Mode || st.Uid != was.Uid || st.Gid != was.Gid || st.Mtim != was.Mtim {
		return false, nil
	}
	a, err := xattrs(fd)
	if err != nil {
		return false, err
	}
	b, err := xattrs(under.Top())
	if err != nil {
		return false, err
	}
	return maps.Equal(a, b), nil
}

// xattrs reads an open directory's attributes, but for overlayfs' own.
func xattrs(fd int) (map[string]string, error) {
	return snapshot.ReadXattrs("/proc/self/fd/" + strconv.Itoa(fd) + "/.")
}
