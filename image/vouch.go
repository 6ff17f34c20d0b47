package image

import (
	"bytes"
	"context"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/snapshot"
)

// vouched says whether an image relies on a blob's being here: its row was written after the blob had been synced.
func (s *Store) vouched(digest string) (sure bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		prefix := useKey(digest, "")
		c := tx.Bucket(bucketUses).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix) && !sure; k, _ = c.Next() {
			var row imageRow
			if _, err := getJSON(tx, bucketImages, string(k[len(prefix):]), &row); err != nil {
				return err
			}
			sure = !slices.Contains(row.Absent, digest)
		}
		return nil
	})
	return sure, err
}

// holdBlob says whether a blob is here and right; as long as the lease lasts, it stays.
func (s *Store) holdBlob(ctx context.Context, l *snapshot.Lease, digest string) (bool, error) {
	if !s.content.Has(digest) {
		return false, nil
	}
	sure, err := s.vouched(digest)
	if err == nil && !sure {
		sure, err = s.content.Prove(ctx, digest)
	}
	if err != nil || !sure {
		return false, err
	}
	return s.content.Hold(l, digest)
}
