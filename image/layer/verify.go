package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// VerifyOptions say how closely Verify looks.
type VerifyOptions struct {
	Content bool   // read every file and compare its digest
	Scratch string // a directory of the same filesystem, for a nameless file that shows how that rounds times; "" for none
}

// Verified counts what Verify looked at: names, regular files, and their bytes.
type Verified struct{ Entries, Files, Bytes int64 }

// Verify compares the tree at dir (a tree's directory: fs, index) with its index and reports what differs, by the path in the layer; ""
// is the index itself. What it cannot read it reports, too; it returns an error only where it was interrupted. The walk and the index
// have the same order, so they are read side by side and memory does not grow with the tree.
func Verify(ctx context.Context, dir string, o VerifyOptions, report func(path, problem string)) (Verified, error) {
	v := &verifier{ctx: ctx, o: o, report: report, inodes: map[string]uint64{}, probe: -1}
	defer func() {
		if v.probe >= 0 {
			unix.Close(v.probe)
		}
	}()
	x, err := OpenIndex(filepath.Join(dir, "index"))
	if err != nil {
		report("", unwrapPath(err).Error())
		return v.n, nil
	}
	defer x.Close()
	next, stop := iter.Pull2(x.All())
	defer stop()
	v.next = next
	v.advance()
	root, err := unix.Open(filepath.Join(dir, "fs"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		report(".", "the tree is not there: "+err.Error())
		return v.n, nil
	}
	d := os.NewFile(uintptr(root), "fs")
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		report(".", err.Error())
		return v.n, nil
	}
	if err := v.visit(d, ".", ".", &st); err != nil {
		return v.n, err
	}
	if v.broken {
		return v.n, nil
	}
	for v.more {
		v.missing(v.now.Path)
		v.advance()
	}
	for _, l := range v.links {
		if v.inodes[l.target] != l.inode {
			report(l.path, fmt.Sprintf("is no longer the same file as %q", l.target))
		}
	}
	return v.n, nil
}

func unwrapPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

type verifier struct {
	ctx    context.Context
	o      VerifyOptions
	report func(path, problem string)
	n      Verified

	next   func() (Entry, error, bool)
	now    Entry // the index's next entry, while more
	more   bool
	broken bool   // the index could not be read to its end
	gone   string // the last path reported as missing, or as something else: what lies below is not told again

	inodes map[string]uint64 // of files with several names
	links  []hardLink
	probe  int // a nameless file on the tree's filesystem, once it was needed
	buf    []byte
}

type hardLink struct {
	path, target string
	inode        uint64
}

func (v *verifier) advance() {
	e, err, ok := v.next()
	v.now, v.more = e, ok
	if err != nil {
		v.report("", err.Error())
		v.more, v.broken = false, true
	}
}

func (v *verifier) missing(p string) {
	if v.gone != "" && strings.HasPrefix(p, v.gone+"/") {
		return
	}
	v.gone = p
	v.report(p, "is missing")
}

// visit compares a name and, for a directory, what is in it. d is the directory that holds it; for the root, it itself.
func (v *verifier) visit(d *os.File, name, at string, st *unix.Stat_t) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	for v.more && comparePaths(v.now.Path, at) < 0 {
		v.missing(v.now.Path)
		v.advance()
	}
	if v.broken {
		return nil
	}
	if !v.more || v.now.Path != at {
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK { // Pack leaves sockets out, and nothing makes one here
			v.report(at, "is not in the layer")
		}
		return nil
	}
	e := v.now
	v.advance()
	v.n.Entries++
	if !v.compare(d, name, &e, st) {
		v.gone = at
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	sub := d
	if at != "." {
		fd, err := openIn(d, name, at, unix.O_DIRECTORY)
		if err != nil {
			v.report(at, err.Error())
			v.gone = at
			return nil
		}
		defer fd.Close()
		sub = fd
	}
	names, err := sub.Readdirnames(-1)
	if err != nil {
		v.report(at, "cannot be read: "+unwrapPath(err).Error())
		v.gone = at
		return nil
	}
	slices.Sort(names)
	for _, n := range names {
		var st unix.Stat_t
		p := path.Join(at, n)
		if err := unix.Fstatat(int(sub.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if err != unix.ENOENT { // taken away since: it will be missed
				v.report(p, "cannot be read: "+err.Error())
			}
			continue
		}
		if err := v.visit(sub, n, p, &st); err != nil {
			return err
		}
	}
	return nil
}

// kindOf is an inode's type in the index's words; a directory's opacity is its attribute.
func kindOf(st *unix.Stat_t) byte {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return TypeFile
	case unix.S_IFDIR:
		return TypeDir
	case unix.S_IFLNK:
		return TypeSymlink
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return TypeWhiteout
		}
		return TypeChar
	case unix.S_IFBLK:
		return TypeBlock
	case unix.S_IFIFO:
		return TypeFifo
	}
	return typeSocket
}

// typeSocket is none of the index's types.
const typeSocket = 's'

var kindNames = map[byte]string{TypeFile: "a file", TypeDir: "a directory", TypeSymlink: "a symbolic link", TypeChar: "a character device",
	TypeBlock: "a block device", TypeFifo: "a fifo", TypeWhiteout: "a whiteout", typeSocket: "a socket"}

// compare says whether an entry is of the type that it should be, and reports everything that differs.
func (v *verifier) compare(d *os.File, name string, e *Entry, st *unix.Stat_t) bool {
	kind := kindOf(st)
	if st.Nlink > 1 && kind != TypeDir {
		v.inodes[e.Path] = st.Ino
	}
	if e.Type == TypeHardlink {
		// Owner, mode and content are those of the file that it names.
		v.links = append(v.links, hardLink{e.Path, e.Link, st.Ino})
		return true
	}
	want := e.Type
	if want == TypeOpaque {
		want = TypeDir
	}
	if kind != want {
		v.report(e.Path, fmt.Sprintf("is %s, was %s", kindNames[kind], kindNames[want]))
		return false
	}
	differs := func(what string, is, was any) { v.report(e.Path, fmt.Sprintf("%s %v, was %v", what, is, was)) }
	if kind != TypeSymlink && st.Mode&0o7777 != e.Mode {
		differs("mode", fmt.Sprintf("%04o", st.Mode&0o7777), fmt.Sprintf("%04o", e.Mode))
	}
	if st.Uid != e.UID || st.Gid != e.GID {
		differs("owner", fmt.Sprintf("%d:%d", st.Uid, st.Gid), fmt.Sprintf("%d:%d", e.UID, e.GID))
	}
	if t := time.Unix(st.Mtim.Sec, st.Mtim.Nsec); !t.Equal(e.ModTime) && !t.Equal(v.stored(e.ModTime)) {
		differs("time", t.UTC().Format(time.RFC3339Nano), e.ModTime.UTC().Format(time.RFC3339Nano))
	}
	if (kind == TypeChar || kind == TypeBlock) && st.Rdev != e.Dev {
		differs("device", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), fmt.Sprintf("%d:%d", unix.Major(e.Dev), unix.Minor(e.Dev)))
	}
	v.xattrs(d, name, e)
	switch kind {
	case TypeSymlink:
		target := make([]byte, unix.PathMax)
		if n, err := unix.Readlinkat(int(d.Fd()), name, target); err != nil {
			v.report(e.Path, "cannot be read: "+err.Error())
		} else if string(target[:n]) != e.Link {
			differs("leads to", strconv.Quote(string(target[:n])), strconv.Quote(e.Link))
		}
	case TypeFile:
		v.n.Files++
		v.n.Bytes += e.Size
		if st.Size != e.Size {
			differs("size", st.Size, e.Size)
		} else if v.o.Content {
			v.content(d, name, e)
		}
	}
	return true
}

func (v *verifier) content(d *os.File, name string, e *Entry) {
	f, err := openIn(d, name, e.Path, 0)
	if err != nil {
		v.report(e.Path, err.Error())
		return
	}
	defer f.Close()
	if v.buf == nil {
		v.buf = make([]byte, 256<<10)
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, v.buf); err != nil {
		v.report(e.Path, "cannot be read: "+unwrapPath(err).Error())
		return
	}
	if !bytes.Equal(sum.Sum(nil)[:len(e.Content)], e.Content[:]) {
		v.report(e.Path, "its content is damaged")
	}
}

// xattrs compares extended attributes. Labels that the machine's own security modules set are nobody's damage.
func (v *verifier) xattrs(d *os.File, name string, e *Entry) {
	full := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + name
	var list []byte
	if n, err := unix.Llistxattr(full, nil); err == nil && n > 0 {
		list = make([]byte, n)
		if n, err = unix.Llistxattr(full, list); err != nil {
			n = 0
		}
		list = list[:n]
	}
	opaque := false
	seen := 0
	for _, raw := range bytes.Split(list, []byte{0}) {
		attr := string(raw)
		want, known := e.Xattrs[attr]
		overlay := strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.")
		switch {
		case attr == "", !known && !overlay && strings.HasPrefix(attr, "security.") && attr != "security.capability":
			continue
		case !known && !overlay:
			v.report(e.Path, "has the attribute "+attr+", which is not in the layer")
			continue
		}
		value, err := getXattr(full, attr)
		switch {
		case err != nil:
			v.report(e.Path, "attribute "+attr+" cannot be read: "+err.Error())
		case overlay && strings.HasSuffix(attr, ".opaque") && string(value) == "y":
			opaque = true
		case overlay:
			v.report(e.Path, "has overlayfs' attribute "+attr+", which is not in the layer")
		case string(value) != want:
			v.report(e.Path, "attribute "+attr+" differs")
		}
		if known {
			seen++
		}
	}
	if seen < len(e.Xattrs) {
		var lost []string
		for attr := range e.Xattrs {
			if !slices.ContainsFunc(bytes.Split(list, []byte{0}), func(b []byte) bool { return string(b) == attr }) {
				lost = append(lost, attr)
			}
		}
		sort.Strings(lost)
		v.report(e.Path, "has lost the attribute "+strings.Join(lost, ", "))
	}
	if opaque != (e.Type == TypeOpaque) {
		if opaque {
			v.report(e.Path, "hides what is below, and should not")
		} else {
			v.report(e.Path, "no longer hides what is below")
		}
	}
}

func getXattr(full, attr string) ([]byte, error) {
	n, err := unix.Lgetxattr(full, attr, nil)
	if err != nil || n == 0 {
		return nil, err
	}
	value := make([]byte, n)
	n, err = unix.Lgetxattr(full, attr, value)
	return value[:max(n, 0)], err
}

// stored is what becomes of a time on the tree's filesystem, which may know no fractions of a second, or no year after 2038.
func (v *verifier) stored(t time.Time) time.Time {
	if v.o.Scratch == "" {
		return t
	}
	if v.probe < 0 {
		fd, err := unix.Open(v.o.Scratch, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			v.o.Scratch = ""
			return t
		}
		v.probe = fd
	}
	var st unix.Stat_t
	if utimens(v.probe, "", t) != nil || unix.Fstat(v.probe, &st) != nil {
		return t
	}
	return time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
}
