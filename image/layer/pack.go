package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PackOptions say what of a tree is packed.
type PackOptions struct {
	Skip func(path string, st *unix.Stat_t) bool // leaves a path out, with all that is in it; may be nil
	Warn func(string)                            // told what was left out; may be nil

	// Marks says that the tree is a layer's: overlayfs' whiteouts and opaque directories are written as a layer's. Else nothing can be
	// hidden by it, so such a directory is one like others.
	Marks    bool
	NotAfter time.Time // a later modification time is written as this one; zero for none

	Files bool   // a tar of files, not of a layer: every name and device is only what it is
	Live  bool   // somebody may write to the tree meanwhile: what vanishes is left out, what shrinks is filled up with zeroes, and Warn is told
	Into  string // where the root lies in the tar, "" for "."
}

// Pack writes the canonical tar of the tree at root (see the package's text) and never writes to the tree. A name that a layer cannot
// carry, one that begins with ".wh." or, without Marks, is a 0/0 character device, is ErrUnsupported but with Files; a file that changes or
// vanishes while it is read is an error but with Live.
func Pack(ctx context.Context, root *os.File, w io.Writer, opt PackOptions) error {
	return newPacker(ctx, w, opt).run(root)
}

// run packs the tree at root, up to the archive's end.
func (p *packer) run(root *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("read %s: %w", root.Name(), err)
	}
	again, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("read %s: %w", root.Name(), err)
	}
	d := os.NewFile(uintptr(again), root.Name())
	defer d.Close()
	if err := p.dir(d, ".", &st); err != nil {
		return err
	}
	return p.end()
}

// PackName writes the tar of one name in a directory, and of all that is in it where it is a directory itself. It is called opt.Into in
// the tar.
func PackName(ctx context.Context, dir *os.File, name string, w io.Writer, opt PackOptions) error {
	p := newPacker(ctx, w, opt)
	if err := p.pack(dir, name, "."); err != nil {
		return err
	}
	return p.end()
}

func newPacker(ctx context.Context, w io.Writer, opt PackOptions) *packer {
	if opt.Warn == nil {
		opt.Warn = func(string) {}
	}
	return &packer{ctx: ctx, opt: opt, w: bufio.NewWriterSize(w, 256<<10), links: map[[2]uint64]string{}, buf: make([]byte, 256<<10)}
}

func (p *packer) end() error {
	if _, err := p.w.Write(make([]byte, 2*tarBlock)); err != nil { // two zero blocks end an archive
		return err
	}
	return p.w.Flush()
}

const tarBlock = 512

type packer struct {
	ctx   context.Context
	opt   PackOptions
	w     sink
	links map[[2]uint64]string // the first name of each file that has several
	buf   []byte
	torn  bool // a header was written, and not all of its content

	tar  *tarStream // what w is, where others are told of the entries, too; overlayfs' own attributes are then taken from the tree
	left int        // what was found that a layer does not carry
}

// sink takes the tar.
type sink interface {
	io.Writer
	io.StringWriter
	Flush() error
}

func (p *packer) dir(d *os.File, at string, st *unix.Stat_t) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	xattrs, err := readXattrs(d, at, func(name string) error {
		return p.overlays(name, func() error { return unix.Fremovexattr(int(d.Fd()), name) })
	})
	if err != nil {
		return err
	}
	if err := p.header(at, TypeDir, st, 0, "", xattrs); err != nil {
		return err
	}
	kind := byte(TypeDir)
	if p.opt.Marks && isOpaque(d) {
		kind = TypeOpaque
		if err := p.mark(path.Join(at, whOpaque)); err != nil {
			return err
		}
	}
	if err := p.tell(at, kind, st, "", xattrs); err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", at, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := p.entry(d, name, path.Join(at, name)); err != nil {
			return err
		}
	}
	return nil
}

// entry packs one name of a directory, or with Live passes over what is not there any more.
func (p *packer) entry(d *os.File, name, at string) error {
	err := p.pack(d, name, at)
	if err == nil || !p.opt.Live || p.torn {
		return err
	}
	for _, gone := range []error{unix.ENOENT, unix.ESTALE, unix.ENOTDIR, unix.ELOOP, errExchanged} {
		if errors.Is(err, gone) {
			p.opt.Warn(at + ": it vanished while it was being read, and was left out")
			return nil
		}
	}
	return err
}

// errExchanged says that another file has the name of the one that was to be read.
var errExchanged = errors.New("changed while it was being read")

func (p *packer) pack(d *os.File, name, at string) (err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("read %q: %w", at, err)
	}
	if p.opt.Skip != nil && p.opt.Skip(at, &st) {
		return nil
	}
	if strings.HasPrefix(name, whPrefix) && !p.opt.Files {
		return fmt.Errorf("%q: a name beginning with %s means a deletion in a layer: %w", at, whPrefix, ErrUnsupported)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		sub, err := openIn(d, name, at, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer sub.Close()
		return p.dir(sub, at, &st)
	}
	if st.Nlink > 1 && kind != unix.S_IFSOCK && kindOf(&st) != TypeWhiteout { // overlayfs links its whiteouts to each other
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := p.links[id]; ok {
			return p.entryOf(at, TypeHardlink, &st, first, nil)
		}
		p.links[id] = at
		defer func() {
			if err != nil {
				delete(p.links, id)
			}
		}()
	}
	switch kind {
	case unix.S_IFREG:
		return p.file(d, name, at, &st)
	case unix.S_IFSOCK:
		p.left++
		p.opt.Warn(at + ": a socket, which a tar cannot carry, was left out")
		return nil
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(d.Fd()), name, target)
		if err != nil {
			return fmt.Errorf("read link %q: %w", at, err)
		}
		return p.special(d, name, at, TypeSymlink, &st, string(target[:n]))
	case unix.S_IFCHR:
		if st.Rdev == 0 && p.opt.Marks {
			return p.whiteout(d, name, at)
		}
		if st.Rdev == 0 && !p.opt.Files {
			return fmt.Errorf("%q: a character device 0/0, which overlayfs takes for a deletion: %w", at, ErrUnsupported)
		}
		return p.special(d, name, at, TypeChar, &st, "")
	case unix.S_IFBLK:
		return p.special(d, name, at, TypeBlock, &st, "")
	case unix.S_IFIFO:
		return p.special(d, name, at, TypeFifo, &st, "")
	}
	return fmt.Errorf("%q: a file of an unknown type %#o: %w", at, kind, ErrUnsupported)
}

// openIn opens a name in a directory, without following it and, where we may, without leaving a trace in its access time.
func openIn(d *os.File, name, at string, flags int) (*os.File, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(int(d.Fd()), name, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Openat(int(d.Fd()), name, flags, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", at, err)
	}
	return os.NewFile(uintptr(fd), at), nil
}

// mark writes an entry that hides something: only its name says anything, so nothing else of it is told.
func (p *packer) mark(at string) error {
	return p.header(at, TypeFile, &unix.Stat_t{}, 0, "", nil)
}

func (p *packer) whiteout(d *os.File, name, at string) error {
	if p.tar != nil {
		if err := setTime(int(d.Fd()), name, time.Unix(0, 0)); err != nil { // as all of the store's have it
			return fmt.Errorf("%q: %w", at, err)
		}
	}
	if err := p.mark(path.Join(path.Dir(at), whPrefix+name)); err != nil {
		return err
	}
	return p.tell(at, TypeWhiteout, &unix.Stat_t{}, "", nil)
}

// overlays sees to an attribute of overlayfs' own.
func (p *packer) overlays(name string, remove func() error) error {
	switch {
	case p.tar == nil || name == opaqueXattr || name == opaqueUserXattr:
		return nil
	case strings.HasPrefix(name, "trusted.overlay.overlay.") || strings.HasPrefix(name, "user.overlay.overlay."):
		p.left++ // one that was set inside the container, for an overlay there (Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts")
		return nil
	}
	if err := remove(); err != nil && err != unix.ENODATA {
		return fmt.Errorf("remove attribute %s: %w", name, err)
	}
	return nil
}

// isOpaque says whether an open directory hides what is below it.
func isOpaque(d *os.File) bool {
	var b [2]byte
	for _, name := range []string{opaqueXattr, opaqueUserXattr} {
		if n, err := unix.Fgetxattr(int(d.Fd()), name, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

// special writes an entry without content.
func (p *packer) special(d *os.File, name, at string, kind byte, st *unix.Stat_t, link string) error {
	full := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + name
	xattrs, err := readXattrsPath(full, at, func(name string) error {
		return p.overlays(name, func() error { return unix.Lremovexattr(full, name) })
	})
	if err != nil {
		return err
	}
	return p.entryOf(at, kind, st, link, xattrs)
}

// entryOf writes an entry that is no more than its header.
func (p *packer) entryOf(at string, kind byte, st *unix.Stat_t, link string, xattrs map[string]string) error {
	if err := p.header(at, kind, st, 0, link, xattrs); err != nil {
		return err
	}
	return p.tell(at, kind, st, link, xattrs)
}

// tell hands on what was packed, in the index's words.
func (p *packer) tell(at string, kind byte, st *unix.Stat_t, link string, xattrs map[string]string) error {
	if p.tar == nil {
		return nil
	}
	e := &Entry{Path: at, Type: kind, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Link: link, Xattrs: xattrs}
	switch kind {
	case TypeFile:
		e.Size = st.Size
	case TypeChar, TypeBlock:
		e.Dev = st.Rdev
	}
	for name := range xattrs {
		if machines(name) {
			delete(xattrs, name)
		}
	}
	return p.tar.tell(e)
}

// machines says whether an attribute is what SELinux and its like say of a file: this machine's, and not the layer's.
func machines(name string) bool {
	return strings.HasPrefix(name, "security.") && name != "security.capability"
}

func (p *packer) file(d *os.File, name, at string, st *unix.Stat_t) error {
	f, err := openIn(d, name, at, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return fmt.Errorf("read %q: %w", at, err)
	}
	if now.Ino != st.Ino || now.Dev != st.Dev || now.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%q %w", at, errExchanged)
	}
	xattrs, err := readXattrs(f, at, func(name string) error {
		return p.overlays(name, func() error { return unix.Fremovexattr(int(f.Fd()), name) })
	})
	if err != nil {
		return err
	}
	if err := p.header(at, TypeFile, &now, now.Size, "", xattrs); err != nil {
		return err
	}
	p.torn = true
	left := now.Size
	for left > 0 {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		buf := p.buf
		if p.tar != nil {
			if buf, err = p.tar.room(); err != nil {
				return err
			}
		}
		n, err := unix.Read(int(f.Fd()), buf[:min(int64(len(buf)), left)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", at, err)
		}
		if n == 0 && !p.opt.Live {
			return fmt.Errorf("%q became shorter while it was being read", at)
		}
		if n == 0 {
			p.opt.Warn(fmt.Sprintf("%s: it became shorter while it was being read; its last %d bytes are zeroes", at, left))
			return p.zeroes(left, now.Size)
		}
		left -= int64(n)
		if p.tar != nil {
			p.tar.content(n)
		} else if _, err := p.w.Write(buf[:n]); err != nil {
			return err
		}
	}
	p.torn = false
	if err := p.pad(now.Size); err != nil {
		return err
	}
	return p.tell(at, TypeFile, &now, "", xattrs)
}

// zeroes writes what is missing of a content that became shorter.
func (p *packer) zeroes(left, size int64) error {
	clear(p.buf)
	for n := int64(0); left > 0; left -= n {
		n = min(int64(len(p.buf)), left)
		if _, err := p.w.Write(p.buf[:n]); err != nil {
			return err
		}
	}
	p.torn = false
	return p.pad(size)
}

// pad fills a content up to a whole block.
func (p *packer) pad(size int64) error {
	if rest := size % tarBlock; rest != 0 {
		_, err := p.w.Write(make([]byte, tarBlock-rest))
		return err
	}
	return nil
}

// name is what a path of the tree is called in the tar.
func (p *packer) name(at string) string {
	if p.opt.Into == "" {
		return at
	}
	return path.Join(p.opt.Into, at)
}

// header writes an entry's header, and before it, where ustar is not enough, one with pax records.
func (p *packer) header(at string, kind byte, st *unix.Stat_t, size int64, link string, xattrs map[string]string) error {
	name := p.name(at)
	switch {
	case name == ".":
		name = "./"
	case kind == TypeDir:
		name += "/"
	}
	if kind == TypeHardlink {
		link = p.name(link)
	}
	mtime := notAfter(time.Unix(st.Mtim.Sec, st.Mtim.Nsec), p.opt.NotAfter)
	var records []string
	record := func(key, value string) { records = append(records, paxRecord(key, value)) }
	if !plain(name) {
		record("path", name)
	}
	if !plain(link) {
		record("linkpath", link)
	}
	if st.Uid > maxOctal7 {
		record("uid", strconv.FormatUint(uint64(st.Uid), 10))
	}
	if st.Gid > maxOctal7 {
		record("gid", strconv.FormatUint(uint64(st.Gid), 10))
	}
	if size > maxOctal11 {
		record("size", strconv.FormatInt(size, 10))
	}
	if mtime.Nanosecond() != 0 || mtime.Unix() < 0 || mtime.Unix() > maxOctal11 {
		record("mtime", paxTime(mtime))
	}
	for key, value := range xattrs {
		if machines(key) {
			continue
		}
		record(paxXattr+key, value)
	}
	if len(records) > 0 {
		// Sorted by key: each begins with its length, which says nothing about order.
		sort.Slice(records, func(i, j int) bool { return afterSpace(records[i]) < afterSpace(records[j]) })
		body := strings.Join(records, "")
		if _, err := p.w.Write(ustar("PaxHeaders/entry", 'x', 0o644, 0, 0, int64(len(body)), 0, "", 0)); err != nil {
			return err
		}
		if _, err := p.w.WriteString(body); err != nil {
			return err
		}
		if err := p.pad(int64(len(body))); err != nil {
			return err
		}
	}
	var dev uint64
	if kind == TypeChar || kind == TypeBlock {
		dev = st.Rdev
	}
	_, err := p.w.Write(ustar(name, kind, st.Mode&0o7777, st.Uid, st.Gid, size, mtime.Unix(), link, dev))
	return err
}

const (
	maxOctal7  = 0o7777777
	maxOctal11 = 0o77777777777
)

func afterSpace(record string) string { return record[strings.IndexByte(record, ' ')+1:] }

// plain says whether a name fits a ustar header's 100 bytes as it is.
func plain(s string) bool {
	if len(s) > 100 {
		return false
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// paxRecord is "LENGTH KEY=VALUE\n", where the length counts its own digits.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	n += len(strconv.Itoa(n))
	if s := strconv.Itoa(n) + " " + key + "=" + value + "\n"; len(s) == n {
		return s
	}
	return strconv.Itoa(n+1) + " " + key + "=" + value + "\n"
}

// paxTime is seconds with as many decimals as it takes.
func paxTime(t time.Time) string {
	sec, nsec := t.Unix(), int64(t.Nanosecond())
	sign := ""
	if sec < 0 {
		sign = "-"
		sec, nsec = -sec, -nsec
		if nsec < 0 {
			sec, nsec = sec-1, nsec+1e9
		}
	}
	if nsec == 0 {
		return sign + strconv.FormatInt(sec, 10)
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

// ustar is one header block (POSIX.1-2001, pax, "ustar Interchange Format"). What does not fit is zero or cut here, and is said by a pax
// record.
func ustar(name string, kind byte, mode, uid, gid uint32, size, mtime int64, link string, dev uint64) []byte {
	b := make([]byte, tarBlock)
	copy(b[0:100], asciiOnly(name))
	octal(b[100:108], int64(mode))
	octal(b[108:116], fit(int64(uid), maxOctal7))
	octal(b[116:124], fit(int64(gid), maxOctal7))
	octal(b[124:136], fit(size, maxOctal11))
	octal(b[136:148], fit(mtime, maxOctal11))
	b[156] = kind
	copy(b[157:257], asciiOnly(link))
	copy(b[257:265], "ustar\x0000")
	octal(b[329:337], int64(unix.Major(dev)))
	octal(b[337:345], int64(unix.Minor(dev)))
	copy(b[148:156], "        ")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func fit(n, most int64) int64 {
	if n < 0 || n > most {
		return 0
	}
	return n
}

func octal(field []byte, n int64) {
	copy(field, fmt.Sprintf("%0*o", len(field)-1, n))
}

func asciiOnly(s string) string {
	if plain(s) {
		return s
	}
	b := make([]byte, 0, 100)
	for i := 0; i < len(s) && len(b) < 100; i++ {
		if c := s[i]; c < 0x80 {
			b = append(b, c)
		}
	}
	return string(b)
}
