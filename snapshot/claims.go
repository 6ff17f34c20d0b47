package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Claim is what the maker of an active snapshot knows of it: enough to write its record again.
type Claim struct {
	Parent string
	Dirs   []string // instead of a parent
	Labels map[string]string
}

// ClaimedBy tells the store whom to ask for the keys that have an owner. An active snapshot without a record looks like one that was never
// finished; one with an owner has lost its record, and is nobody's to sweep until Repair has written it again. Who is asked may not ask the
// rows in turn, for they may be locked: Remains does not.
func (s *Store) ClaimedBy(keys func() ([]string, error)) { s.claimed = keys }

// owner is the key of the active snapshot at dir, which has no record, or "" where nobody claims it. Where the owners cannot be asked, it
// is an error.
func (s *Store) owner(dir string) (string, error) {
	if s.claimed == nil {
		return "", nil
	}
	keys, err := s.claimed()
	for _, key := range keys {
		if hashName(key) == filepath.Base(dir) {
			return key, nil
		}
	}
	return "", err
}

// Remains is what there is of an active snapshot.
type Remains struct {
	Upper   bool              // its upper is there
	Written bool              // and something is in it
	Labels  map[string]string // of its record, where that can be read
}

// Remains looks what there is of the active snapshot under key. No rows are read.
func (s *Store) Remains(key string) (r Remains) {
	dir := s.activeDir(key)
	f, err := os.Open(filepath.Join(dir, "fs"))
	r.Upper = !errors.Is(err, fs.ErrNotExist)
	if err == nil {
		names, _ := f.Readdirnames(1)
		r.Written = len(names) > 0
		f.Close()
	}
	if rec, err := readRecordFile(dir); err == nil && rec.Key == key {
		r.Labels = rec.Labels
	}
	return r
}

// Abandon removes an active snapshot of which more is lost than can be made again, with what is left of it. It is ErrInUse for one that is
// mounted; one that is not there is no error.
func (s *Store) Abandon(_ context.Context, key string) error {
	dir := s.activeDir(key)
	if gone(dir) {
		return nil
	}
	lock, err := lockActive(dir)
	if err != nil {
		return fmt.Errorf("remove what is left of snapshot %s: %w", key, err)
	}
	defer lock.Close()
	rec, _ := readRecordFile(dir) // the link to a parent that is not known goes with the next sweep
	return s.dropActive(dir, rec)
}
