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
// finished; one with an owner has lost its record, and is nobody's to sweep until Repair has written it again.
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

// Written says what there is of an active snapshot besides its record: whether its upper is there, and whether something was written in it.
func (s *Store) Written(key string) (there, written bool) {
	f, err := os.Open(filepath.Join(s.activeDir(key), "fs"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist), false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return true, len(names) > 0
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
