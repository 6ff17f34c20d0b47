package logs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/layerctl/layerctl/runtime/watch"
)

// ReadOptions say what of a log is shown, and how.
type ReadOptions struct {
	Tail         int       // so many lines at the end; negative: all
	Since, Until time.Time // no record from before, or from behind; zero: no bound
	Timestamps   bool      // before each line: its first record's time
	// Follow goes on with what is still to come, until Ended is closed and all is shown, until the context ends, or, with Until, that
	// time comes. The end of the context is no error.
	Follow bool
	Ended  <-chan struct{}
}

// A record is on its way to the file, or a crash has left half of it: so long and so often one without its newline is waited for.
var halfWait = 2 * time.Millisecond

const halfTries = 5

// Read shows a container's log, in its directory, what came on stdout and on stderr each on its own. A directory without a log is one of a
// container that has printed nothing.
func Read(ctx context.Context, dir string, o ReadOptions, stdout, stderr io.Writer) error {
	w := new(watch.Dir)
	if o.Follow {
		var err error
		if w, err = watch.Open(ctx, dir, o.Until); err != nil { // before the first look
			return err
		}
		defer w.Close()
	}
	l, err := openFiles(dir)
	if err != nil {
		return fmt.Errorf("open the container's log: %w", err)
	}
	defer l.Close()
	r := reader{files: l, o: o, out: [2]*bufio.Writer{bufio.NewWriterSize(stdout, 32<<10), bufio.NewWriterSize(stderr, 4<<10)}}
	if err := r.begin(); err != nil {
		return err
	}
	for half := 0; ; {
		if err := r.show(false); err != nil {
			return err
		}
		if r.over || !o.Follow && (r.pos >= r.end || half == halfTries) {
			return r.rest()
		}
		if err := r.flush(); err != nil {
			return err
		}
		if !o.Follow {
			half++
			time.Sleep(halfWait)
		}
		ended := false
		select {
		case <-o.Ended: // before the last look for more
			ended = true
		default:
		}
		more, err := l.grow(r.pos)
		if err != nil {
			return fmt.Errorf("read the container's log: %w", err)
		}
		if more || !o.Follow {
			continue
		}
		if ended {
			return r.rest()
		}
		select {
		case <-w.Changed:
		case <-o.Ended:
		case <-w.Done:
			return r.rest()
		}
	}
}

// reader shows a log.
type reader struct {
	*files
	o            ReadOptions
	since, until string // stamps, or ""
	from         [3]int64
	pos          int64 // what is before has been shown
	end          int64 // of what was there at first
	over         bool  // until has been reached
	buf          []byte

	out   [2]*bufio.Writer
	last  int     // which of them was written last
	mid   [2]bool // the stream is in the middle of a line
	hide  [2]bool // of which nothing is shown yet
	torn  bool    // in the middle of a line of the log that has not ended where it should
	plain bool    // it is shown, as it is
	at    []byte
}

// begin finds where to begin.
func (r *reader) begin() (err error) {
	if !r.o.Since.IsZero() {
		r.since = stamp(r.o.Since)
	}
	if !r.o.Until.IsZero() {
		r.until = stamp(r.o.Until)
	}
	r.end = r.files.end()
	if r.o.Tail >= 0 {
		end := r.end
		if r.until != "" {
			if end, err = r.endBy(r.until); err != nil {
				return err
			}
		}
		if r.from, err = r.tail(end, r.o.Tail, r.since); err != nil {
			return err
		}
		r.pos = min(r.from[0], r.from[1], r.from[2])
	} else if r.since != "" {
		if r.pos, err = r.search(r.since, false); err != nil {
			return err
		}
	}
	r.buf = make([]byte, bufferSize)
	return nil
}

// show shows all whole lines from pos on, and at the last what comes behind them, too.
func (r *reader) show(last bool) error {
	for !r.over {
		n, err := r.fill(r.buf, r.pos)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		b := r.buf[:n]
		for len(b) > 0 && !r.over {
			n := bytes.IndexByte(b, '\n')
			if n < 0 {
				break
			}
			if r.pos == r.files.gap {
				r.files.gap = noGap
				r.missing()
			}
			if err := r.line(b[:n], true); err != nil {
				return err
			}
			if r.over {
				return nil
			}
			r.pos += int64(n) + 1
			b = b[n+1:]
		}
		if len(b) == len(r.buf) || last && len(b) > 0 && r.pos+int64(len(b)) == r.files.end() {
			if err := r.line(b, false); err != nil {
				return err
			}
			r.pos += int64(len(b))
		} else if n < len(r.buf) {
			return nil
		}
	}
	return nil
}

// missing ends the lines whose ends are gone, and says so.
func (r *reader) missing() {
	for p, mid := range r.mid {
		if mid && !r.hide[p] {
			r.write(p, nil, true)
		}
	}
	r.mid, r.torn = [2]bool{}, false
	r.write(1, []byte("layerctl: some of the output is missing here: its log was rotated away before it could be shown"), true)
}

// rest shows what the log ends with.
func (r *reader) rest() error {
	if err := r.show(true); err != nil {
		return err
	}
	return r.flush()
}

func (r *reader) flush() error {
	for _, w := range r.out {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// line shows a line of the log, or with ends false a piece of one that is no record, or has lost its end.
func (r *reader) line(text []byte, ends bool) error {
	if r.torn {
		r.torn = !ends
		if !r.plain {
			return nil
		}
		return r.write(r.last, text, ends)
	}
	e := parse(text)
	p := e.place()
	hidden := r.pos < r.from[p]
	if p == ofNone {
		r.torn, r.plain = !ends, !hidden
		if hidden {
			return nil
		}
		return r.write(0, text, ends)
	}
	if r.until != "" && string(e.at) > r.until {
		r.over = true
		return nil
	}
	begins := !r.mid[p] || r.hide[p]
	r.mid[p], r.hide[p] = !e.full, hidden || string(e.at) < r.since
	r.torn, r.plain = !ends, !r.hide[p]
	if r.hide[p] {
		return nil
	}
	if begins && r.o.Timestamps {
		r.at = append(append(r.at[:0], e.at...), ' ')
		if err := r.write(p, r.at, false); err != nil {
			return err
		}
	}
	return r.write(p, e.content, e.full && ends)
}

// write writes to stdout (0) or stderr (1): in the order in which it was printed, should both be the same terminal.
func (r *reader) write(to int, b []byte, newline bool) error {
	if to != r.last {
		if err := r.out[r.last].Flush(); err != nil {
			return err
		}
		r.last = to
	}
	w := r.out[to]
	w.Write(b)
	if newline {
		return w.WriteByte('\n') // which has the error of the write before, too
	}
	return nil
}
