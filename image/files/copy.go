package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/layer"
)

// Options say how files are copied.
type Options struct {
	Archive bool         // keep owners and all that hangs on them
	Follow  bool         // a link at the end of the source's path is followed
	Warn    func(string) // told what was left out; may be nil

	// Skip leaves a path below a directory that is copied out, with all that is in it, and says nothing of it; may be nil.
	Skip func(path string, st *unix.Stat_t) bool
}

// Copy copies a file or a directory with all that is in it from src to dst, and returns the bytes of the files. What a path means that is
// there or not, a directory or not, ends in a slash or in "/.", is as docker cp has it. A file is replaced when all of the new one is
// there.
func Copy(ctx context.Context, src, dst Place, opt Options) (int64, error) {
	s, err := src.source(opt.Follow)
	if err != nil {
		return 0, err
	}
	defer s.close()
	dir, name, err := dst.target(s)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	few := warnings{warn: opt.Warn}
	defer few.end()
	x := &extractor{ctx: ctx, dir: dir, warn: few.say}
	switch {
	case opt.Archive:
		x.all = true
	case dst.Root == nil:
		x.host = true
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack(ctx, src, s, name, dir, w, opt.Skip, few.say)
		w.CloseWithError(err)
		packed <- err
	}()
	err = x.extract(r)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // the archive's end
	}
	r.CloseWithError(errEnded)
	if perr := <-packed; perr != nil && !errors.Is(perr, errEnded) {
		return x.size, fmt.Errorf("copy %s: %w", src.Path, perr)
	}
	if err != nil {
		return x.size, fmt.Errorf("copy to %s: %w", dst.Path, err)
	}
	return x.size, nil
}

// errEnded tells the packer that nobody wants more.
var errEnded = errors.New("ended")

// Send writes a file or a directory with all that is in it as a tar, in which it has the last part of its path as its name.
func Send(ctx context.Context, src Place, w io.Writer, opt Options) error {
	s, err := src.source(opt.Follow)
	if err != nil {
		return err
	}
	defer s.close()
	few := warnings{warn: opt.Warn}
	defer few.end()
	name := s.base
	if s.contents {
		name = ""
	}
	if err := pack(ctx, src, s, name, nil, w, opt.Skip, few.say); err != nil {
		return fmt.Errorf("copy %s: %w", src.Path, err)
	}
	return nil
}

// Receive extracts a tar, which may be compressed, into a directory that is there. Owners, modes and attributes are those that the tar
// says.
func Receive(ctx context.Context, r io.Reader, dst Place, opt Options) (int64, error) {
	w, err := dst.where()
	if err != nil {
		return 0, err
	}
	f, err := dst.find(w.path, true)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", dst.Path, plain(err))
	}
	defer f.close()
	if f.missing {
		return 0, fmt.Errorf("%s: %w", dst.Path, unix.ENOENT)
	}
	if !f.is(unix.S_IFDIR) {
		return 0, invalid("%s is not a directory: a tar is extracted into one", dst.Path)
	}
	dir, err := f.open()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", dst.Path, err)
	}
	defer dir.Close()
	few := warnings{warn: opt.Warn}
	defer few.end()
	x := &extractor{ctx: ctx, dir: dir, warn: few.say, all: true, foreign: true, at: w.path, place: dst}
	// Who waits for a pipe that says nothing can be told to stop.
	pr, pw := io.Pipe()
	defer pr.Close()
	defer context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })()
	go func() {
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
	}()
	in := bufio.NewReader(pr)
	if _, err := in.Peek(1); err == io.EOF { // whoever was to write it has failed
		return 0, invalid("extract into %s: nothing came, not even an empty tar", dst.Path)
	}
	plain, _, err := layer.Decompress(in)
	if err == nil {
		defer plain.Close()
		err = x.extract(plain)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, plain) // whoever writes it is not to die of a closed pipe
	}
	if err != nil {
		return x.size, fmt.Errorf("extract into %s: %w", dst.Path, err)
	}
	return x.size, nil
}

// target finds where a source goes: an open directory, and the name that it gets there, "" for what is in it.
func (p Place) target(s source) (dir *os.File, name string, err error) {
	w, err := p.where()
	if err != nil {
		return nil, "", err
	}
	f, err := p.find(w.path, true)
	if errors.Is(err, errNoParent) {
		return nil, "", fmt.Errorf("%s: the directory above it does not exist: %w", p.Path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", p.Path, err)
	}
	defer f.close()
	isDir := s.is(unix.S_IFDIR)
	switch {
	case f.is(unix.S_IFDIR):
		if dir, err = f.open(); err != nil {
			return nil, "", fmt.Errorf("%s: %w", p.Path, err)
		}
		if !s.contents {
			name = s.base
		}
		return dir, name, nil
	case !f.missing && !f.is(unix.S_IFREG):
		return nil, "", invalid("%s is neither a file nor a directory, and is not replaced", p.Path)
	case !f.missing && isDir:
		return nil, "", invalid("%s is a file: a directory cannot be copied to it", p.Path)
	case !f.missing && (w.slash || w.dot):
		return nil, "", fmt.Errorf("%s: %w", p.Path, unix.ENOTDIR)
	case f.missing && !isDir && (w.slash || w.dot):
		return nil, "", fmt.Errorf("%s: the directory does not exist, and is not made for a file: %w", p.Path, fs.ErrNotExist)
	}
	dir, f.dir = f.dir, nil
	return dir, f.name, nil
}

// open opens the directory that was found, which is not followed if it is a link by now.
func (f *found) open() (*os.File, error) {
	return openat2(f.dir, f.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
}

// pack writes a source as a tar, where it has a name; "" for what is in it. into is the directory that it goes to, where that is known.
func pack(ctx context.Context, p Place, s source, name string, into *os.File, w io.Writer, leave func(string, *unix.Stat_t) bool, warn func(string)) error {
	here, err := openat2(s.dir, s.name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	defer here.Close()
	if isKernels(here) && !s.is(unix.S_IFLNK) {
		return errors.New("a file of the kernel's own, as there are in /proc and /sys, which cannot be copied")
	}
	opt := layer.PackOptions{Files: true, Live: p.Live, Into: name, Warn: warn}
	if !s.is(unix.S_IFDIR) {
		return layer.PackName(ctx, s.dir, s.name, w, opt)
	}
	dir, err := s.open()
	if err != nil {
		return err
	}
	defer dir.Close()
	if into != nil {
		if inside, err := isInside(into, dir); err != nil || inside {
			return errors.Join(err, invalid("a directory cannot be copied into itself"))
		}
	}
	kernels := map[uint64]bool{}
	opt.Skip = func(at string, st *unix.Stat_t) bool {
		if leave != nil && leave(at, st) {
			return true
		}
		skip, known := kernels[uint64(st.Dev)]
		if !known {
			if f, err := openat2(dir, at, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS); err == nil {
				skip = isKernels(f)
				f.Close()
			}
			kernels[uint64(st.Dev)] = skip
		}
		return skip
	}
	return layer.Pack(ctx, dir, w, opt)
}

// isInside says whether a directory is another one or lies in it, though it may be known by another name: a volume's, in a container.
func isInside(dir, other *os.File) (bool, error) {
	var top, here, below unix.Stat_t
	if err := unix.Fstat(int(other.Fd()), &top); err != nil {
		return false, err
	}
	at, err := openat2(dir, ".", unix.O_PATH, 0)
	for err == nil {
		if err = unix.Fstat(int(at.Fd()), &here); err != nil {
			break
		}
		if here.Dev == top.Dev && here.Ino == top.Ino {
			at.Close()
			return true, nil
		}
		if here.Dev == below.Dev && here.Ino == below.Ino {
			break
		}
		below = here
		var up *os.File
		up, err = openat2(at, "..", unix.O_PATH, 0)
		at.Close()
		at = up
	}
	if at != nil {
		at.Close()
	}
	return false, err
}

// warnings hands on the first of them and counts the others: a tree can have millions of what is left out.
type warnings struct {
	warn func(string) // may be nil
	mu   sync.Mutex
	n    int
}

const maxWarnings = 10

func (w *warnings) say(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n++; w.n <= maxWarnings && w.warn != nil {
		w.warn(text)
	}
}

func (w *warnings) end() {
	if more := w.n - maxWarnings; more > 0 && w.warn != nil {
		w.warn(fmt.Sprintf("and %d more of this kind", more))
	}
}
