package events

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/watch"
)

// ReadOptions say which events are read.
type ReadOptions struct {
	Since, Until time.Time // none from before, or from behind; zero: no bound
	// Follow goes on with what is still to come, until the context ends or, with Until, that time comes. The end of the context is no
	// error.
	Follow bool
}

// Read hands the events in a directory's diary to f, in the order in which they were written, until f returns an error, which is Read's
// then. A directory without a diary has no events.
func Read(ctx context.Context, dir string, o ReadOptions, f func(Event) error) error {
	w := new(watch.Dir)
	if o.Follow {
		var err error
		if w, err = watch.Open(ctx, dir, o.Until); err != nil { // before the first look
			return err
		}
		defer w.Close()
	}
	r := reader{path: filepath.Join(dir, "events"), o: o, f: f}
	defer r.close()
	if err := r.open(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	for {
		if err := r.read(); err != nil || !o.Follow {
			return err
		}
		select {
		case <-w.Changed:
		case <-w.Done:
			return r.read() // what came to the last
		}
	}
}

// reader reads the diary. Somebody may still write to a file that was renamed: that is read on, too.
type reader struct {
	path  string
	o     ReadOptions
	f     func(Event) error
	files []*source // at most two
}

type source struct {
	f    *os.File
	in   *bufio.Reader
	held []byte // of a line that has not ended
}

// open opens what there is: the former file and the present one.
func (r *reader) open() error {
	for range 20 {
		r.close()
		r.files = nil
		for _, path := range []string{r.path + ".1", r.path} {
			if err := r.add(path); err != nil {
				return err
			}
		}
		if r.current() {
			return nil
		}
	}
	return nil
}

// current says whether the last file is the one that is there.
func (r *reader) current() bool {
	there, err := os.Lstat(r.path)
	if err != nil {
		return true // nobody has begun it
	}
	if len(r.files) == 0 {
		return false
	}
	ours, err := r.files[len(r.files)-1].f.Stat()
	return err == nil && os.SameFile(ours, there)
}

func (r *reader) add(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.files = append(r.files, &source{f: f, in: bufio.NewReaderSize(f, 32<<10)})
	return nil
}

func (r *reader) close() {
	for _, s := range r.files {
		s.f.Close()
	}
}

// read reads all that is there by now.
func (r *reader) read() error {
	for {
		for _, s := range r.files {
			if err := r.drain(s); err != nil {
				return err
			}
		}
		if r.current() {
			return nil
		}
		if err := r.add(r.path); err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if len(r.files) > 2 {
			r.files[0].f.Close()
			r.files = r.files[1:]
		}
	}
}

// drain reads a file to its present end.
func (r *reader) drain(s *source) error {
	for {
		line, err := s.in.ReadBytes('\n')
		s.held = append(s.held, line...)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		held := s.held
		s.held = held[:0]
		if !r.o.Since.IsZero() && before(held, r.o.Since.UnixNano()) {
			continue
		}
		e, ok := parse(held)
		if !ok || !r.o.Since.IsZero() && e.Time.Before(r.o.Since) || !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
			continue
		}
		if err := r.f(e); err != nil {
			return err
		}
	}
}

// before says of a line that is an event from before a time, without reading the rest of it.
func before(line []byte, at int64) bool {
	digits, found := bytes.CutPrefix(line, []byte(timeKey))
	end := bytes.IndexByte(digits, ',')
	if !found || end < 0 {
		return false
	}
	n, err := strconv.ParseInt(string(digits[:end]), 10, 64)
	return err == nil && n < at
}

// parse reads a line; false says that it is no event.
func parse(line []byte) (Event, bool) {
	var j struct {
		Time       int64             `json:"time"`
		Type       string            `json:"type"`
		Action     string            `json:"action"`
		ID         string            `json:"id"`
		Attributes map[string]string `json:"attributes"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &j); err != nil || j.Type == "" || j.Action == "" {
		return Event{}, false
	}
	return Event{time.Unix(0, j.Time), j.Type, j.Action, j.ID, j.Attributes}, true
}
