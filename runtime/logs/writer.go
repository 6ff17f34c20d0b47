package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Options say how much of a log is kept.
type Options struct {
	MaxSize int64 // bytes of one file; 0: no bound
	MaxFile int   // files, the one being written among them: 1 if it is less. They count only with MaxSize
}

// retryAfter is how long a log that could not be written is left alone: a file system that is full may take its time to say so.
const retryAfter = time.Second

// errDropped says of a position that rotation has taken away what was there.
var errDropped = errors.New("a part of the output is not there any more: its log was rotated away")

// Writer writes a container's log. It is a monitor.Log, for several goroutines at once. Its positions count the bytes of the log as it was
// written since Open, through all rotations.
type Writer struct {
	dir string
	o   Options

	mu     sync.Mutex
	files  []*os.File // those that may still be read from; the last is being written
	size   int64      // of that
	end    int64      // position of the end
	pieces []piece    // where the positions are, in order
	buf    []byte
	last   time.Time // of the last record
	part   [2]bool   // stdout, stderr: the last record in the file is a part

	lost    int64 // bytes of output that could not be written, and of which the log does not say so yet
	why     error
	retryAt time.Time
	closed  bool
}

// piece is a range of positions that is a range of a file, or a hole: what could not be written. It ends where the next begins.
type piece struct {
	start int64
	f     *os.File
	off   int64
	hole  error
}

// Open opens the log in a container's directory, and makes it where it is not there. What the log has, stays.
func Open(dir string, o Options) (*Writer, error) {
	o.MaxFile = max(o.MaxFile, 1)
	w := &Writer{dir: dir, o: o}
	f, err := openRegular(logName(dir, 0), os.O_RDWR|os.O_APPEND|os.O_CREATE)
	if err == nil {
		if w.size, err = finishLine(f); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the container's log: %w", err)
	}
	w.take(f)
	return w, nil
}

// finishLine ends a file's last line, which a crash may have left half written, so that the next record begins one. It returns the file's
// size. Where the disk is full, the next record is taken for a part of that line.
func finishLine(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return size, err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return size, err
	}
	if last[0] != '\n' {
		n, _ := f.Write([]byte{'\n'})
		size += int64(n)
	}
	return size, nil
}

// take goes on in a file.
func (w *Writer) take(f *os.File) {
	w.files = append(w.files, f)
	w.pieces = append(w.pieces, piece{start: w.end, f: f, off: w.size})
}

// Append writes what the container printed on a stream (Stdout or Stderr) at t. It never fails: what cannot be written is counted, and as
// soon as there is room again a line on stderr says how much is missing.
func (w *Writer) Append(stream byte, b []byte, t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(b) == 0 {
		return
	}
	if w.lost > 0 && time.Now().Before(w.retryAt) {
		w.lose(len(b))
		return
	}
	// Two streams are read at once, and what comes later may have been read a little earlier. Who looks for a time needs them in order.
	if t.Before(w.last) && w.last.Sub(t) < time.Second {
		t = w.last
	}
	w.last = t
	at := stamp(t)
	if w.lost > 0 && !w.tell(at) {
		w.lose(len(b))
		return
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, bufferSize)
	}
	unwritten, part := len(b), w.part
	for rest := b; len(rest) > 0; {
		content, after, full := cut(rest)
		n := headerLen + len(content) + 1
		over := w.o.MaxSize > 0 && w.size+int64(len(w.buf)) > 0 && w.size+int64(len(w.buf)+n) > w.o.MaxSize
		if over || len(w.buf)+n > cap(w.buf) {
			if !w.flush(part) {
				w.lose(unwritten)
				return
			}
			unwritten = len(rest)
		}
		if over {
			w.rotate()
		}
		w.buf = appendRecord(w.buf, at, stream, full, content)
		part[index(stream)] = !full
		rest = after
	}
	if !w.flush(part) {
		w.lose(unwritten)
	}
}

// index is a stream's place in an array.
func index(stream byte) int {
	if stream == Stderr {
		return 1
	}
	return 0
}

// flush writes the buffer, all of it or nothing. With it the file's last records are parts, or not.
func (w *Writer) flush(part [2]bool) bool {
	b := w.buf
	w.buf = w.buf[:0]
	if len(b) == 0 {
		return true
	}
	f := w.files[len(w.files)-1]
	if _, err := f.Write(b); err != nil {
		if info, serr := f.Stat(); serr == nil && info.Size() > w.size { // what came before the error
			f.Truncate(w.size)
		}
		w.why, w.retryAt = reason(err), time.Now().Add(retryAfter)
		return false
	}
	w.size += int64(len(b))
	w.end += int64(len(b))
	w.part = part
	return true
}

// reason is an error without the file's name.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// lose counts what could not be written.
func (w *Writer) lose(n int) {
	if w.lost == 0 {
		w.pieces = append(w.pieces, piece{start: w.end})
	}
	w.lost += int64(n)
	w.end += int64(n)
	w.pieces[len(w.pieces)-1].hole = fmt.Errorf("%d bytes of the output could not be kept in its log: %w", w.lost, w.why)
}

// tell writes the line that says what is missing. It belongs to the hole.
func (w *Writer) tell(at string) bool {
	var b []byte
	if w.part[1] {
		b = appendRecord(b, at, Stderr, true, nil)
	}
	b = appendRecord(b, at, Stderr, true, fmt.Appendf(nil, "layerctl: %d bytes of output are missing here: %v", w.lost, w.why))
	w.buf = append(w.buf[:0], b...)
	if !w.flush([2]bool{w.part[0], false}) {
		return false
	}
	w.lost = 0
	w.pieces = append(w.pieces, piece{start: w.end, f: w.files[len(w.files)-1], off: w.size})
	return true
}

// rotate begins a new file. Where that cannot be, the present one grows, and the next record tries again.
func (w *Writer) rotate() {
	fresh := filepath.Join(w.dir, "log.new")
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	markAfter(f, w.files[len(w.files)-1])
	failpoint.Hit("log/made")
	for n := w.o.MaxFile - 1; n > 0 && err == nil; n-- {
		if err = os.Rename(logName(w.dir, n-1), logName(w.dir, n)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	failpoint.Hit("log/renamed") // there is no log now: who reads waits for it, and who opens it makes one
	if err == nil {
		err = os.Rename(fresh, logName(w.dir, 0))
	}
	if err != nil {
		f.Close()
		return
	}
	w.size = 0
	w.take(f)
	for len(w.files) > w.o.MaxFile {
		dropped := w.files[0]
		w.files = w.files[1:]
		dropped.Close()
		for w.pieces[0].f == dropped || w.pieces[0].hole != nil {
			w.pieces = w.pieces[1:]
		}
	}
}

// Mark is the position of the log's end. All that was appended before is written, or lost.
func (w *Writer) Mark() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

// Close says what there is to say yet, and closes the log.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	if w.lost > 0 {
		w.tell(stamp(time.Now()))
	}
	w.closed = true
	var err error
	for _, f := range w.files {
		err = f.Close()
	}
	return err
}

// find returns the piece that has a position, and where it ends; io.EOF where that is the end of the log.
func (w *Writer) find(pos int64) (p piece, end int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pos >= w.end {
		return p, w.end, io.EOF
	}
	end = w.end
	for i := len(w.pieces) - 1; i >= 0; i-- {
		if p = w.pieces[i]; pos >= p.start {
			return p, end, p.hole
		}
		end = p.start
	}
	return p, end, errDropped
}

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Next hands what was appended from a position on to f, in order and byte for byte, piece by piece, until there is no more or max bytes or
// somewhat more were handed out, and returns the position behind that. The bytes are f's until it returns. Where some of it is not there,
// because it could not be written or was rotated away (errDropped), the error says so, and next is where there is more, or the end.
func (w *Writer) Next(from int64, max int, f func(stream byte, b []byte)) (next int64, err error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for next = from; max > 0; {
		p, end, err := w.find(next)
		if err == io.EOF {
			return next, nil
		}
		if err != nil {
			return end, err
		}
		n := min(end-next, int64(bufferSize))
		if _, err := p.f.ReadAt(buf[:n], p.off+next-p.start); err != nil {
			if errors.Is(err, fs.ErrClosed) { // rotated away this moment
				return end, errDropped
			}
			return end, fmt.Errorf("read the container's log: %w", err)
		}
		n = int64(bytes.LastIndexByte(buf[:n], '\n') + 1)
		if n == 0 {
			return end, errors.New("read the container's log: somebody else has written to it")
		}
		max -= replay(buf[:n], f)
		next += n
	}
	return next, nil
}

// replay hands out what records hold, each stream in pieces as large as may be, and returns how much that was. It moves them together
// in b.
func replay(b []byte, f func(stream byte, b []byte)) (handed int) {
	var stream byte
	held := 0 // at the beginning of b: what is not handed out yet
	for at := 0; at < len(b); {
		n := bytes.IndexByte(b[at:], '\n')
		e := parse(b[at : at+n])
		if e.stream != stream && held > 0 {
			f(stream, b[:held])
			handed += held
			held = 0
		}
		stream = e.stream
		held += copy(b[held:], e.content)
		if e.full {
			b[held] = '\n'
			held++
		}
		at += n + 1
	}
	if held > 0 {
		f(stream, b[:held])
	}
	return handed + held
}
