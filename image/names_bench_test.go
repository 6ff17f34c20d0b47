package image

import (
	"fmt"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/snapshot"
)

// BenchmarkTag is what a name costs in a store that has many: the rows, the record, and the layout's index.
func BenchmarkTag(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			root := b.TempDir()
			snaps, err := snapshot.Open(root + "/snapshots")
			if err != nil {
				b.Fatal(err)
			}
			s, err := Open(root, snaps)
			if err != nil {
				b.Fatal(err)
			}
			digest := "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
			row := nameRow{ID: digest, Digest: digest, Media: "application/vnd.oci.image.manifest.v1+json", Size: 1234}
			err = s.update(func(tx *bbolt.Tx, _ *naming) error {
				for i := range n {
					if err := putJSON(tx, bucketNames, fmt.Sprintf("registry.example/some/image-%d:latest", i), row); err != nil {
						return err
					}
				}
				return putJSON(tx, bucketImages, digest, &imageRow{Chain: digest})
			})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := s.name("localhost/x:latest", row, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
