package content

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Spool keeps files that come in a stream before it is known which of them are blobs. It lies in a directory of its own below ingest/,
// and like an ingest it is swept when its holder is gone.
type Spool struct {
	in *Ingest
	n  int64
}

// NewSpool makes an empty spool.
func (s *Store) NewSpool() (*Spool, error) {
	in, err := s.anonymous()
	if err != nil {
		return nil, err
	}
	return &Spool{in: in}, nil
}

// Close deletes what is still in the spool.
func (sp *Spool) Close() error { return sp.in.Close() }

func (sp *Spool) path(number int64) string {
	return filepath.Join(sp.in.dir, strconv.FormatInt(number, 10))
}

// Put keeps what r has and returns its number, its length and its digest.
func (sp *Spool) Put(r io.Reader) (number, size int64, digest string, err error) {
	number = sp.n
	sp.n++
	f, err := os.OpenFile(sp.path(number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, 0, "", fmt.Errorf("spool: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("spool: %w", cerr)
		}
	}()
	failpoint.Hit("spool/made")
	sum := sha256.New()
	size, err = io.CopyBuffer(onlyWriter{io.MultiWriter(f, sum)}, r, make([]byte, 256<<10))
	return number, size, "sha256:" + hex.EncodeToString(sum.Sum(nil)), err
}

// onlyWriter hides that a writer could read for itself, in pieces of its own choice.
type onlyWriter struct{ io.Writer }

// Open opens a file of the spool. What it returns is a *Spooled.
func (sp *Spool) Open(number int64) (io.ReadCloser, error) {
	f, err := os.Open(sp.path(number))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return &Spooled{f}, nil
}

// Spooled is a file of a spool, open for reading.
type Spooled struct{ *os.File }

// Take makes the ingest's data of a file that was spooled, without a copy. The bytes still have to be written to the ingest, which only
// counts and hashes them: what they say is known when they are read.
func (in *Ingest) Take(f *Spooled) error {
	data := filepath.Join(in.dir, "data")
	os.Remove(data)
	if err := os.Link(f.Name(), data); err != nil {
		return fmt.Errorf("write blob %s: %w", in.digest, err)
	}
	failpoint.Hit("ingest/taken")
	in.data, in.had = f.File, math.MaxInt64
	return nil
}
