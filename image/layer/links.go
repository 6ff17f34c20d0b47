package layer

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// links is what a writer knows of hard links. In the index one name of a file is the file, and the others say that name; which one that
// is follows from the order of the tar, as long as no link names a link, or a file whose name was taken by something else. After that
// relink finds it out again.
type links struct {
	first map[uint64]uint64 // of files with several names: inode → hash of the name that is the file; at most maxFirst
	late  *os.File          // hard links whose target was not there yet
	out   runWriter
	made  bool // there is a hard link
	odd   bool
}

const maxFirst = 1 << 16

var seed = maphash.MakeSeed()

func (l *links) close() {
	if l.late != nil {
		l.late.Close()
	}
}

// placeLink makes a hard link. One whose target is not in the layer (yet) is kept until the end.
func (w *writer) placeLink(e *Entry, o op) error {
	tbase := path.Base(o.target)
	var st unix.Stat_t
	target, err := w.findDir(path.Dir(o.target))
	if err == nil {
		e.Link = path.Join(target.real, tbase)
		err = unix.Fstatat(target.fd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	switch {
	case err == unix.ENOENT:
		return w.wait(o)
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return fmt.Errorf("a hard link to %q, which the layer deletes: %w", e.Link, ErrMalformed)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("a hard link to the directory %q: %w", e.Link, ErrMalformed)
	case e.Link == e.Path:
		return nil
	}
	for {
		// Opening the one directory may close the other; both are then opened again.
		parent, err := w.dir(path.Dir(o.entry.Path))
		if err != nil {
			return err
		}
		if target, err = w.findDir(path.Dir(o.target)); err == nil {
			if parent, err = w.dir(path.Dir(o.entry.Path)); err != nil {
				return err
			}
			err = unix.Linkat(target.fd, tbase, parent.fd, path.Base(e.Path), 0)
		}
		switch err {
		case nil:
			return w.linked(parent.fd, e, &st)
		case unix.ENOENT: // it lay in a directory whose name this link took
			return fmt.Errorf("a hard link in place of what holds its target %q: %w", o.target, ErrMalformed)
		case unix.EEXIST:
			if err := w.replace(parent.fd, path.Base(e.Path)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("hard link to %q: %w", o.target, err)
		}
	}
}

// linked notes a link that was made to a file of which st tells how it was before. The file takes the attributes that the link's header
// says, as containerd and Docker do it.
func (w *writer) linked(parent int, e *Entry, st *unix.Stat_t) error {
	w.links.made = true
	name := maphash.String(seed, e.Link)
	switch first, known := w.links.first[st.Ino]; {
	case st.Nlink == 1 && len(w.links.first) < maxFirst:
		w.links.first[st.Ino] = name
	case st.Nlink > 1 && (!known || first != name):
		w.links.odd = true
	}
	of := *e
	of.Path, of.Type = e.Link, typeOf(st)
	if of.Type == TypeSymlink {
		of.Mode = 0o777
	}
	if st.Mode&0o7777 != of.Mode || st.Uid != e.UID || st.Gid != e.GID || st.Mtim.Sec != e.ModTime.Unix() ||
		st.Mtim.Nsec != int64(e.ModTime.Nanosecond()) || len(e.Xattrs) > 0 {
		if err := unix.Fchownat(parent, path.Base(e.Path), int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
		if err := w.setAttributes(parent, path.Base(e.Path), &of); err != nil {
			return err
		}
		if err := w.log.add(markAttributes, of); err != nil {
			return err
		}
	}
	e.Mode, e.Xattrs = of.Mode, nil
	return w.log.add(markEntry, *e)
}

func typeOf(st *unix.Stat_t) byte {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return TypeDir
	case unix.S_IFLNK:
		return TypeSymlink
	case unix.S_IFCHR:
		return TypeChar
	case unix.S_IFBLK:
		return TypeBlock
	case unix.S_IFIFO:
		return TypeFifo
	}
	return TypeFile
}

// wait keeps a link for the end, in a file: there may be millions.
func (w *writer) wait(o op) error {
	if w.links.late == nil {
		f, err := tempFile(w.holds)
		if err != nil {
			return err
		}
		w.links.late, w.links.out = f, runWriter{w: bufio.NewWriter(f)}
	}
	o.entry.Link = o.target
	return w.links.out.add(&record{Entry: o.entry})
}

// lateLinks makes the links that had to wait. What is not in the layer at its end can only be below.
func (w *writer) lateLinks(n *needs) error {
	if w.links.late == nil {
		return nil
	}
	late := w.links.late
	w.links.late = nil
	defer late.Close()
	if err := w.links.out.w.Flush(); err != nil {
		return fmt.Errorf("sort the index: %w", err)
	}
	r, err := newRunReader(late)
	if err != nil {
		return err
	}
	for {
		rec, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		target := rec.Link
		rec.Link = ""
		here, err := w.inLayer(target)
		if err != nil {
			return fmt.Errorf("%q: %w", rec.Path, err)
		}
		if here {
			if err := w.do(op{entry: rec.Entry, target: target}); err != nil {
				return err
			}
			continue
		}
		parent, err := w.dir(path.Dir(rec.Path))
		if err != nil {
			return fmt.Errorf("%q: %w", rec.Path, err)
		}
		name := path.Join(parent.real, path.Base(rec.Path))
		n.Links = append(n.Links, [2]rawName{rawName(name), rawName(target)})
		if err := n.grow(len(name) + len(target)); err != nil {
			return err
		}
	}
}

// inLayer says whether the layer has something under a name.
func (w *writer) inLayer(name string) (bool, error) {
	var st unix.Stat_t
	d, err := w.findDir(path.Dir(name))
	if err == nil {
		err = unix.Fstatat(d.fd, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0), err
}

// maxOdd bounds the files that relink remembers.
const maxOdd = 1 << 20

// relink goes over a finished index once more and asks the tree which names are those of one file. Where the name that was the file is
// gone, the first of the others is it.
func (w *writer) relink(dir *os.File) error {
	type file struct {
		path string
		old  bool // the index has it as a file
	}
	files := map[uint64]file{}
	index := "/proc/self/fd/" + strconv.Itoa(w.holds) + "/index"
	x, err := OpenIndex(index)
	if err != nil {
		return err
	}
	defer x.Close()
	each := func(do func(e *Entry, parent openDir, st *unix.Stat_t) error) error {
		for e, err := range x.All() {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			parent := openDir{w.root, "."}
			if e.Path != "." {
				if parent, err = w.dir(path.Dir(e.Path)); err != nil {
					return fmt.Errorf("%q: %w", e.Path, err)
				}
			}
			if err := unix.Fstatat(parent.fd, path.Base(e.Path), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return fmt.Errorf("%q: %w", e.Path, err)
			}
			if err := do(&e, parent, &st); err != nil {
				return fmt.Errorf("%q: %w", e.Path, err)
			}
		}
		return nil
	}
	several := func(e *Entry, st *unix.Stat_t) bool {
		return e.Type == TypeHardlink || st.Nlink > 1 && e.Type != TypeDir && e.Type != TypeOpaque && e.Type != TypeWhiteout
	}
	if err := each(func(e *Entry, _ openDir, st *unix.Stat_t) error {
		if !several(e, st) {
			return nil
		}
		if f, ok := files[st.Ino]; !ok || !f.old && e.Type != TypeHardlink {
			files[st.Ino] = file{e.Path, e.Type != TypeHardlink}
		}
		if len(files) > maxOdd {
			return fmt.Errorf("one of more than %d files of several names, some of which take each other's place: %w", maxOdd, ErrLimit)
		}
		return nil
	}); err != nil {
		return err
	}
	inodes := w.result
	w.result.Inodes, w.result.Size = 0, 0
	if err := writeAt(dir, "index.new", func(out io.Writer) error {
		y, err := newIndexWriter(out)
		if err != nil {
			return err
		}
		if err := each(func(e *Entry, parent openDir, st *unix.Stat_t) error {
			if several(e, st) {
				f := files[st.Ino]
				if f.path == e.Path {
					err = describeInode(parent.fd, e, st, f.old)
				} else {
					*e = Entry{Path: e.Path, Type: TypeHardlink, Link: f.path, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime}
				}
			}
			if err != nil {
				return err
			}
			w.result.count(e)
			return y.add(e)
		}); err != nil {
			return err
		}
		return y.end()
	}); err != nil {
		w.result = inodes
		return err
	}
	return unix.Renameat(w.holds, "index.new", w.holds, "index")
}

// describeInode makes the entry of a file that has or had several names say what the tree has. A file that the index knew by a name that
// is gone is read for its digest.
func describeInode(parent int, e *Entry, st *unix.Stat_t, old bool) error {
	base := path.Base(e.Path)
	e.Mode, e.UID, e.GID, e.ModTime = st.Mode&0o7777, st.Uid, st.Gid, time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
	var err error
	if e.Xattrs, err = readXattrsPath("/proc/self/fd/"+strconv.Itoa(parent)+"/"+base, e.Path, nil); err != nil || old {
		return err
	}
	e.Type, e.Link = typeOf(st), ""
	switch e.Type {
	case TypeChar, TypeBlock:
		e.Dev = st.Rdev
	case TypeSymlink:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(parent, base, target)
		if err != nil {
			return err
		}
		e.Link = string(target[:n])
	case TypeFile:
		fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), e.Path)
		defer f.Close()
		sum := sha256.New()
		if e.Size, err = io.Copy(sum, f); err != nil {
			return err
		}
		copy(e.Content[:], sum.Sum(nil))
	}
	return nil
}

// removeAllAt deletes a directory of the tree with all that is in it, however deep: it holds no descriptor of a directory while it is in
// one below.
func removeAllAt(parent int, base string) error {
	type level struct {
		name  string
		names []string // still to be deleted
	}
	open := func(at int, name string) (*os.File, error) {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	d, err := open(parent, base)
	if err != nil {
		return err
	}
	defer func() { d.Close() }()
	levels := []level{{name: base}}
	enter := func(next *os.File, err error) error {
		if err == nil {
			d.Close()
			d = next
		}
		return err
	}
	for {
		here := &levels[len(levels)-1]
		if len(here.names) == 0 {
			again, err := open(int(d.Fd()), ".") // from its beginning
			if err != nil {
				return err
			}
			here.names, err = again.Readdirnames(256)
			again.Close()
			if err != nil && err != io.EOF {
				return err
			}
		}
		if len(here.names) == 0 {
			if len(levels) == 1 {
				return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
			}
			if err := enter(open(int(d.Fd()), "..")); err != nil {
				return err
			}
			if err := unix.Unlinkat(int(d.Fd()), here.name, unix.AT_REMOVEDIR); err != nil {
				return err
			}
			levels = levels[:len(levels)-1]
			continue
		}
		name := here.names[len(here.names)-1]
		here.names = here.names[:len(here.names)-1]
		err := unix.Unlinkat(int(d.Fd()), name, 0)
		if errors.Is(err, unix.EISDIR) {
			if err = enter(open(int(d.Fd()), name)); err == nil {
				levels = append(levels, level{name: name})
			}
		}
		if err != nil {
			return err
		}
	}
}
