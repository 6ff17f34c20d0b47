package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/direct"
	"github.com/layerctl/layerctl/image/layer/inflate"
)

// Limits bound what one layer may ask for.
type Limits struct {
	Entries int64 // names; 0 means 10 million
	Size    int64 // bytes of the uncompressed tar; 0 means 1 TiB
	Content int64 // bytes of file content, holes too; 0 means as many as are free on the tree's filesystem when the layer begins
}

// Options say how a layer is applied.
type Options struct {
	Limits    Limits
	UserXattr bool         // mark opaque directories with user.overlay.*, for an overlay mounted by an ordinary user
	Warn      func(string) // told what was left out; may be nil
	NotAfter  time.Time    // a later modification time becomes this one; zero for none
	full      error        // what more content than the limit is, where that is not ErrLimit
}

// Result is what came of a layer.
type Result struct {
	DiffID  string // SHA-256 of the uncompressed tar, to its last byte (image-spec, config.md)
	TarSize int64  // its length
	Inodes  int64  // inodes that the tree takes
	Size    int64  // bytes of file content in the tree, hard links once
	Needs   int    // how many of its entries depend on the layers below; 0 for a layer that stands alone
	Left    int    // what a tree that was described has besides, and no layer carries
}

const (
	paxXattr   = "SCHILY.xattr."
	whPrefix   = ".wh."
	whOpaque   = ".wh..wh..opq"
	whMeta     = ".wh..wh."
	smallFile  = 256 << 10
	maxPieces  = 1 // with the one that is read and the one that is written, 3 MiB
	maxPending = 64

	maxXattrName  = 255 // XATTR_NAME_MAX and XATTR_SIZE_MAX of linux/limits.h
	maxXattrValue = 64 << 10
)

// Apply reads a layer from r, to its end, and fills dir with its tree, its index and its needs (see the package's text). The layer may be
// compressed. What an error leaves in dir is for the caller to throw away.
func Apply(ctx context.Context, r io.Reader, dir *os.File, opt Options) (Result, error) {
	if opt.Limits.Entries == 0 {
		opt.Limits.Entries = 10_000_000
	}
	if opt.Limits.Size == 0 {
		opt.Limits.Size = 1 << 40
	}
	if opt.Limits.Content == 0 {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
			return Result{}, fmt.Errorf("look at the tree's filesystem: %w", err)
		}
		opt.Limits.Content, opt.full = int64(fs.Bavail)*fs.Bsize, unix.ENOSPC
	}
	warnings := &fewWarnings{warn: opt.Warn}
	opt.Warn = warnings.say
	defer warnings.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// Each stage is read ahead of by the next: what r does (download, verify, keep), inflating, hashing, and reading the tar. The
	// files are written by a goroutine of their own behind them.
	input := newOverlap(reading(contextReader{ctx, r}))
	plain, _, err := Decompress(input)
	if err != nil {
		input.stop()
		return Result{}, err
	}
	fill := reading(plain)
	if z, ok := plain.(*inflate.Reader); ok {
		fill = inflating(z)
	}
	inflated := newOverlap(fill)
	sum := &summing{h: sha256.New(), limit: opt.Limits.Size}
	hashed := inflated.through(sum.add)
	whole := false
	defer func() {
		input.stop()
		if whole {
			input.wait()
		}
		inflated.stop()
		inflated.wait()
		hashed.wait()
		plain.Close()
	}()

	w, err := newWriter(dir, opt)
	if err != nil {
		return Result{}, err
	}
	defer w.close()
	ops := make(chan op, maxPending)
	written := make(chan error, 1)
	go func() { written <- w.run(ops, cancel) }()
	err = readTar(ctx, hashed, ops, opt)
	if err == nil {
		_, err = io.Copy(io.Discard, hashed) // what follows the archive's end belongs to the layer's digest
	}
	if err == nil {
		_, err = io.Copy(io.Discard, input) // and what follows the compressed stream's, to the blob's
		whole = err == nil
	}
	close(ops)
	if werr := <-written; werr != nil && (err == nil || !errors.Is(werr, errShort)) {
		err = werr // the reader's own error is then only the cancelled context
	}
	if err != nil {
		return Result{}, classify(err)
	}
	if err := w.finish(dir); err != nil {
		return Result{}, err
	}
	res := w.result
	res.DiffID = "sha256:" + hex.EncodeToString(sum.h.Sum(nil))
	res.TarSize = sum.n
	return res, nil
}

// classify says of an error that came out of the stream's own form that the layer is malformed; errors of the network and of the disk
// stay what they are.
func classify(err error) error {
	for _, known := range []error{ErrMalformed, ErrLimit, ErrUnsupported} {
		if errors.Is(err, known) {
			return err
		}
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return err // whatever the file is called that could not be written
	}
	msg := err.Error()
	if errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("a header beyond 1 MiB: %w: %w", ErrLimit, err) // archive/tar's own bound
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, inflate.ErrCorrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, codec := range []string{"zstd", "magic number mismatch", "window size", "xz: ", "lzma", "bzip2", "archive/tar", "invalid input", "corrupt"} {
		if strings.Contains(msg, codec) {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	return err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// op is one thing for the writer to do, in the order of the tar.
type op struct {
	entry  Entry
	target string      // of a hard link
	data   []byte      // a small file's content
	arena  *arena      // where it lies
	pieces chan []byte // a large file's, in buffers of package direct; a closed channel is its end
}

// readTar turns the tar into ops. Contents are hashed here, so that hashing and writing overlap.
func readTar(ctx context.Context, r io.Reader, ops chan<- op, opt Options) error {
	tr := tar.NewReader(r)
	entries, content := int64(0), int64(0)
	small := newArenas()
	defer small.close()
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if entries++; entries > opt.Limits.Entries {
			return fmt.Errorf("more than %d entries: %w", opt.Limits.Entries, ErrLimit)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue // as containerd does: its attributes, of a git archive's commit for instance, are no file's
		}
		o, skip, err := translate(hdr, opt)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		if o.entry.Type != TypeFile {
			if err := send(ctx, ops, o); err != nil {
				return err
			}
			continue
		}
		// Asked before a byte is read: a sparse file of exabytes takes a few hundred.
		if content += hdr.Size; content > opt.Limits.Content || content < 0 {
			why := ErrLimit
			if opt.full != nil {
				why = opt.full
			}
			return fmt.Errorf("%q: content of more than %d bytes: %w", o.entry.Path, opt.Limits.Content, why)
		}
		if hdr.Size <= smallFile {
			if o.data, o.arena, err = small.take(ctx, hdr.Size); err != nil {
				return err
			}
			if _, err := io.ReadFull(tr, o.data); err != nil {
				return fmt.Errorf("%s: content ends early: %w", o.entry.Path, err)
			}
			sum := sha256.Sum256(o.data)
			copy(o.entry.Content[:], sum[:])
			if err := send(ctx, ops, o); err != nil {
				return err
			}
			continue
		}
		sum := sha256.New()
		o.pieces = make(chan []byte, maxPieces)
		if err := send(ctx, ops, o); err != nil {
			return err
		}
		err = func() error {
			defer close(o.pieces)
			for left := hdr.Size; left > 0; {
				piece := direct.Buffer()
				piece = piece[:min(left, int64(len(piece)))]
				if _, err := io.ReadFull(tr, piece); err != nil {
					return fmt.Errorf("%s: content ends early: %w", o.entry.Path, err)
				}
				left -= int64(len(piece))
				sum.Write(piece)
				select {
				case o.pieces <- piece:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}()
		if err != nil {
			return err
		}
		// The digest is known only now; it follows its file.
		done := op{entry: Entry{Path: o.entry.Path}}
		copy(done.entry.Content[:], sum.Sum(nil))
		if err := send(ctx, ops, done); err != nil {
			return err
		}
	}
}

func send(ctx context.Context, ops chan<- op, o op) error {
	select {
	case ops <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// translate checks a header and says it in the layer's words.
func translate(hdr *tar.Header, opt Options) (o op, skip bool, err error) {
	name, err := cleanName(hdr.Name)
	if err != nil {
		return op{}, false, err
	}
	if hdr.Uid < 0 || int64(hdr.Uid) > math.MaxUint32-1 || hdr.Gid < 0 || int64(hdr.Gid) > math.MaxUint32-1 {
		return op{}, false, fmt.Errorf("%q: owner %d:%d: %w", name, hdr.Uid, hdr.Gid, ErrMalformed)
	}
	if hdr.Size < 0 {
		return op{}, false, fmt.Errorf("%q: size %d: %w", name, hdr.Size, ErrMalformed)
	}
	e := Entry{Path: name, Mode: uint32(hdr.Mode) & 0o7777, UID: uint32(hdr.Uid), GID: uint32(hdr.Gid), ModTime: notAfter(hdr.ModTime, opt.NotAfter)}
	for key, value := range hdr.PAXRecords {
		attr, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.") {
			opt.Warn(fmt.Sprintf("%s: attribute %s is overlayfs' own and was left out", name, attr))
			continue
		}
		if attr == "" || len(attr) > maxXattrName {
			return op{}, false, fmt.Errorf("%q: an attribute named %.80q: %w", name, attr, ErrMalformed)
		}
		if len(value) > maxXattrValue {
			return op{}, false, fmt.Errorf("%q: attribute %s of %d bytes, at most %d fit: %w", name, attr, len(value), maxXattrValue, ErrLimit)
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[attr] = value
	}
	base := path.Base(name)
	if dir := strings.TrimSuffix(name, base); strings.HasPrefix(dir, whPrefix) || strings.Contains(dir, "/"+whPrefix) {
		if strings.HasPrefix(dir, whMeta) || strings.Contains(dir, "/"+whMeta) {
			return op{}, true, nil // in a directory of aufs' bookkeeping
		}
		return op{}, false, fmt.Errorf("%q: in a directory whose name means a deletion: %w", name, ErrMalformed)
	}
	if strings.HasPrefix(base, whPrefix) {
		return whiteout(e, base)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		e.Type, e.Size = TypeFile, hdr.Size
	case tar.TypeDir:
		e.Type = TypeDir
	case tar.TypeSymlink:
		e.Type, e.Link, e.Mode = TypeSymlink, hdr.Linkname, 0o777
		if e.Link == "" || len(e.Link) >= unix.PathMax || strings.IndexByte(e.Link, 0) >= 0 {
			return op{}, false, fmt.Errorf("%q: a symbolic link to %.80q: %w", name, e.Link, ErrMalformed)
		}
	case tar.TypeLink:
		target, err := cleanName(hdr.Linkname)
		if err != nil || target == "." || hdr.Linkname == "" {
			return op{}, false, fmt.Errorf("%q: a hard link to %.80q: %w", name, hdr.Linkname, ErrMalformed)
		}
		e.Type = TypeHardlink
		return op{entry: e, target: target}, false, nil
	case tar.TypeChar, tar.TypeBlock:
		e.Type = hdr.Typeflag
		// mknod would cut what is beyond the kernel's 12 and 20 bits, and could be left with 0/0.
		if hdr.Devmajor < 0 || hdr.Devminor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor >= 1<<20 {
			return op{}, false, fmt.Errorf("%q: device %d:%d: %w", name, hdr.Devmajor, hdr.Devminor, ErrMalformed)
		}
		e.Dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		if e.Type == TypeChar && e.Dev == 0 {
			return op{}, false, fmt.Errorf("%q: a character device 0/0, which overlayfs would take for a whiteout: %w", name, ErrUnsupported)
		}
	case tar.TypeFifo:
		e.Type = TypeFifo
	default:
		return op{}, false, fmt.Errorf("%q: an entry of type %q: %w", name, hdr.Typeflag, ErrUnsupported)
	}
	if name == "." && e.Type != TypeDir {
		return op{}, false, fmt.Errorf("the root is no directory: %w", ErrMalformed)
	}
	return op{entry: e}, false, nil
}

// notAfter bounds a time, where there is a bound.
func notAfter(t, bound time.Time) time.Time {
	if !bound.IsZero() && t.After(bound) {
		return bound
	}
	return t
}

// whiteout turns the names that mark a deletion (image-spec, layer.md, "Whiteouts") into what they mean. Names of aufs' own
// bookkeeping, .wh..wh.plnk and the like, mean nothing.
func whiteout(e Entry, base string) (op, bool, error) {
	dir := path.Dir(e.Path)
	switch {
	case base == whOpaque:
		return op{entry: Entry{Path: dir, Type: TypeOpaque}}, false, nil
	case strings.HasPrefix(base, whMeta):
		return op{}, true, nil
	}
	hidden := base[len(whPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return op{}, false, fmt.Errorf("%q: a whiteout of %q: %w", e.Path, hidden, ErrMalformed)
	}
	return op{entry: Entry{Path: path.Join(dir, hidden), Type: TypeWhiteout}}, false, nil
}

// cleanName makes a name relative to the tree's root. Leading slashes and ".." that would leave the root are clamped to it, as
// containerd does.
func cleanName(name string) (string, error) {
	if len(name) >= maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("name %.80q (%d bytes): %w", name, len(name), ErrMalformed)
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		return ".", nil
	}
	if strings.Count(clean, "/") > 4096 {
		return "", fmt.Errorf("name %.80q… is %d directories deep: %w", clean, strings.Count(clean, "/"), ErrLimit)
	}
	for _, part := range strings.Split(clean, "/") {
		if len(strings.TrimPrefix(part, whPrefix)) > unix.NAME_MAX { // a whiteout's name is longer than the one that it hides
			return "", fmt.Errorf("name %.80q…: a component of %d bytes, at most %d fit: %w", clean, len(part), unix.NAME_MAX, ErrLimit)
		}
	}
	return clean, nil
}

// writeAt makes a file in an open directory.
func writeAt(dir *os.File, name string, fill func(io.Writer) error) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	err = fill(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
