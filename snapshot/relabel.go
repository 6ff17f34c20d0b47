package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/flock"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Relabel lets change work on the labels of the active snapshot under key and keeps what comes of them, on disk when it returns. It waits
// for whoever commits the snapshot, and change may rely on nobody else relabelling meanwhile. It returns ErrNotFound for an unknown key.
func (s *Store) Relabel(ctx context.Context, key string, change func(labels map[string]string) error) error {
	hold, dir, rec, err := s.holdActive(ctx, key)
	if err != nil {
		return err
	}
	defer hold.Close()
	labels := maps.Clone(rec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if err := change(labels); err != nil {
		return err
	}
	rec.Labels, rec.Updated = labels, time.Now().UTC()
	b, err := rowdb.Seal(recordWhere(dir), rec)
	if err == nil {
		err = WriteFile(filepath.Join(dir, "record.json"), b, true)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound // removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("relabel snapshot %s: %w", key, err)
	}
	return nil
}

// holdActive holds the directory of the active snapshot under key, so that nobody commits or relabels it, and reads its record.
func (s *Store) holdActive(ctx context.Context, key string) (hold *os.File, dir string, rec record, err error) {
	for {
		if dir, _, err = s.readRecord(key); err != nil {
			return nil, dir, rec, err
		}
		hold, err = os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err == nil {
			err = flock.Lock(ctx, hold, unix.LOCK_EX, "waiting for another process that commits "+key)
		}
		if err != nil {
			return nil, dir, rec, err
		}
		if isAt(hold, dir) {
			break
		}
		hold.Close() // a commit has exchanged it
	}
	if _, rec, err = s.readRecord(key); err != nil {
		hold.Close()
		return nil, dir, rec, err
	}
	return hold, dir, rec, nil
}
