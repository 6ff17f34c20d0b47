package direct

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"
)

func TestWrites(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	places := map[string]string{"disk": t.TempDir(), "memory": "/dev/shm"}
	for name, dir := range places {
		for _, size := range []int{0, 1, Align - 1, Align, Align + 1, BufferSize, BufferSize + 5*Align, 3*BufferSize + 77} {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(rng.Uint32())
			}
			file, err := os.CreateTemp(dir, "direct")
			if err != nil {
				t.Fatal(err)
			}
			defer os.Remove(file.Name())
			f := New(int(file.Fd()))
			buf := Buffer()
			for at := 0; at < size; at += BufferSize {
				n := copy(buf, want[at:])
				if err := f.WriteAt(buf[:n], int64(at)); err != nil {
					t.Fatalf("%s, %d bytes: %v", name, size, err)
				}
			}
			Release(buf)
			file.Close()
			got, err := os.ReadFile(file.Name())
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: read %d, %v", name, size, len(got), err)
			}
		}
	}
}
