package runtime

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// BenchmarkList is what `ps -a` asks of a store with 1,000 stopped containers.
func BenchmarkList(b *testing.B) {
	s := testStore(b)
	ctx := context.Background()
	settings := Settings{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, Cmd: []string{"bash"}, Labels: map[string]string{"a": "b"}}
	dir := b.TempDir()
	for i := range 1000 {
		r, err := s.create(ctx, CreateOptions{Name: fmt.Sprintf("c%d", i), RootFS: dir, Image: ImageInfo{Name: "docker.io/library/debian:latest", Settings: settings}, Network: "none"})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.finish(ctx, r, ended{StartedAt: time.Now(), FinishedAt: time.Now()}); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(r.RunDir)
		r.lock.Close()
	}
	for b.Loop() {
		if list, err := s.List(ctx, true); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}
