package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// files are the files of a log, as one: an offset counts from the beginning of the oldest.
type files struct {
	dir  string
	list []file // the oldest first
	gap  int64  // an offset before which something was there that rotation has taken away, or noGap
}

const noGap = -1

type file struct {
	f     *os.File
	start int64
	size  int64
	// torn says that a newline is missing at the end, in a file that is not the newest: it counts as if it were there.
	torn bool
}

func (f *file) end() int64 {
	if f.torn {
		return f.start + f.size + 1
	}
	return f.start + f.size
}

// openFiles opens the log in a directory, with all that rotation has left.
func openFiles(dir string) (*files, error) {
	l := &files{dir: dir, gap: noGap}
	list, err := openAll(dir)
	if err == nil {
		err = l.add(list)
	}
	return l, err
}

func (l *files) Close() {
	for _, f := range l.list {
		f.f.Close()
	}
}

// openAll opens the files of a log, the oldest first. They are renamed under our hands: it has them right when it finds them twice in the
// same order.
func openAll(dir string) ([]*os.File, error) {
	var before []*os.File
	for range 20 {
		now, err := openOnce(dir)
		if err != nil {
			closeAll(before)
			return nil, err
		}
		same := slices.EqualFunc(before, now, sameFile)
		closeAll(before)
		if same {
			return now, nil
		}
		before = now
	}
	return before, nil // it is written faster than it can be read
}

func openOnce(dir string) ([]*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if e.Name() == "log" {
			numbers = append(numbers, 0)
		} else if n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "log.")); err == nil && n > 0 && strings.HasPrefix(e.Name(), "log.") {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	var list []*os.File
	for _, n := range numbers {
		f, err := openRegular(logName(dir, n), os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(list)
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// openRegular opens a file of the log, which nothing else may be there in place of: a link, a directory, or a pipe that nobody writes to.
func openRegular(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// logName is the path of the n-th youngest file.
func logName(dir string, n int) string {
	if n == 0 {
		return filepath.Join(dir, "log")
	}
	return filepath.Join(dir, "log."+strconv.Itoa(n))
}

func closeAll(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// add appends files. One that is not the last is complete.
func (l *files) add(list []*os.File) error {
	for _, f := range list {
		if n := len(l.list); n > 0 {
			if err := l.complete(&l.list[n-1]); err != nil {
				return err
			}
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if n := len(l.list); n > 0 && !follows(f, l.list[n-1].f) {
			l.gap = l.end()
		}
		l.list = append(l.list, file{f: f, start: l.end(), size: info.Size()})
	}
	return nil
}

// afterMark is an extended attribute of a file of the log: which file was the log before, by its inode number. Who follows the log learns
// of it that one in between has gone before he could look at it.
const afterMark = "trusted.layerctl.after"

// markAfter says in a file what it comes after. Where that cannot be, whoever follows does not learn what he missed, and no more.
func markAfter(f, before *os.File) {
	var st unix.Stat_t
	if unix.Fstat(int(before.Fd()), &st) == nil {
		unix.Fsetxattr(int(f.Fd()), afterMark, strconv.AppendUint(nil, st.Ino, 10), 0)
	}
}

// follows says whether a file comes after another, as far as is known: nobody marks one that was made when there was none.
func follows(f, before *os.File) bool {
	var mark [20]byte
	n, err := unix.Fgetxattr(int(f.Fd()), afterMark, mark[:])
	if err != nil {
		return true
	}
	var st unix.Stat_t
	return unix.Fstat(int(before.Fd()), &st) != nil || string(mark[:n]) == strconv.FormatUint(st.Ino, 10)
}

// complete takes in what has been written to a file that another has followed by now.
func (l *files) complete(f *file) error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	f.size = max(f.size, info.Size())
	if f.size > 0 {
		var last [1]byte
		if _, err := f.f.ReadAt(last[:], f.size-1); err != nil && err != io.EOF {
			return err
		}
		f.torn = last[0] != '\n'
	}
	return nil
}

// end is the offset of the end.
func (l *files) end() int64 {
	if len(l.list) == 0 {
		return 0
	}
	return l.list[len(l.list)-1].end()
}

// ReadAt reads as if all files were one. It may read less than asked for; at the end that is an io.EOF.
func (l *files) ReadAt(b []byte, off int64) (int, error) {
	for i := range l.list {
		f := &l.list[i]
		if off >= f.end() {
			continue
		}
		at := off - f.start
		if at == f.size { // torn
			b[0] = '\n'
			return 1, nil
		}
		n, err := f.f.ReadAt(b[:min(int64(len(b)), f.size-at)], at)
		if err == io.EOF { // somebody has made it shorter: there were zeros
			clear(b[n:min(int64(len(b)), f.size-at)])
			n, err = int(min(int64(len(b)), f.size-at)), nil
		}
		return n, err
	}
	return 0, io.EOF
}

// fill reads [off, off+len(b)), or up to the end.
func (l *files) fill(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		m, err := l.ReadAt(b[n:], off+int64(n))
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read the container's log: %w", err)
		}
	}
	return n, nil
}

// grow looks what has been written since, and says whether there is more. Files before keep are closed.
func (l *files) grow(keep int64) (bool, error) {
	before := l.end()
	if n := len(l.list); n > 0 {
		newest := &l.list[n-1]
		info, err := newest.f.Stat()
		if err != nil {
			return false, err
		}
		if info.Size() < newest.size { // somebody has emptied it: it begins again
			f, err := openRegular(newest.f.Name(), os.O_RDONLY)
			if err == nil {
				l.list = append(l.list, file{f: f, start: before})
				newest = &l.list[n]
			}
		}
		newest.size = max(newest.size, info.Size())
		if l.end() > before {
			return true, nil
		}
		if now, err := os.Lstat(logName(l.dir, 0)); err != nil || os.SameFile(info, now) {
			return false, nil // none there: this is the middle of a rotation
		}
	}
	list, err := openAll(l.dir)
	if err != nil {
		return false, err
	}
	if n := len(l.list); n > 0 {
		// What follows the newest that we know; where that is gone, everything does.
		known := slices.IndexFunc(list, func(f *os.File) bool { return sameFile(f, l.list[n-1].f) })
		closeAll(list[:known+1])
		list = list[known+1:]
	}
	if err := l.add(list); err != nil {
		return false, err
	}
	for len(l.list) > 1 && l.list[0].end() <= keep {
		l.list[0].f.Close()
		l.list = l.list[1:]
	}
	return l.end() > before || len(list) > 0, nil
}

// line is a line of the log: [off, end) with its newline, if it has one.
type line struct {
	entry
	off, end int64
}

// firstFrom returns the first record that begins at off or behind it, and before limit; false where there is none.
func (l *files) firstFrom(off, limit int64, buf []byte) (line, bool, error) {
	begins := off == 0 // a line begins there
	if !begins {
		off-- // or does where there is a newline before
	}
	for off < limit {
		n, err := l.fill(buf, off)
		if err != nil {
			return line{}, false, err
		}
		b := buf[:n]
		for len(b) > 0 && off < limit {
			n := bytes.IndexByte(b, '\n')
			if n < 0 {
				break
			}
			if e := parse(b[:n]); begins && e.at != nil {
				return line{e, off, off + int64(n) + 1}, true, nil
			}
			b, off, begins = b[n+1:], off+int64(n)+1, true
		}
		if n < len(buf) {
			break // the end
		}
		if len(b) == len(buf) { // no record is as long as that
			off, begins = off+int64(n), false
		}
	}
	return line{}, false, nil
}

// search returns the end of the last record before a time (a stamp), or with upTo of the last that is not behind it. The records are in the
// order of their times, unless the clock was set.
func (l *files) search(at string, upTo bool) (int64, error) {
	buf := make([]byte, bufferSize)
	low, high := int64(0), l.end()
	for low < high {
		mid := low + (high-low)/2
		found, ok, err := l.firstFrom(mid, high, buf)
		switch {
		case err != nil:
			return 0, err
		case ok && (string(found.at) < at || upTo && string(found.at) == at):
			low = found.end
		default:
			high = mid
		}
	}
	return low, nil
}

// endBy returns the offset of the first record behind a time, or the end.
func (l *files) endBy(at string) (int64, error) {
	off, err := l.search(at, true)
	if err != nil {
		return 0, err
	}
	next, ok, err := l.firstFrom(off, l.end(), make([]byte, bufferSize))
	if err != nil || !ok {
		return l.end(), err
	}
	return next.off, nil
}
