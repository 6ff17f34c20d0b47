package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Files of every way to be written come out as they went in: small ones of shared memory, pieces, past the page cache, with holes.
func TestContents(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 3*directSize)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	contents := map[string][]byte{}
	for _, size := range []int{0, 1, 4096, smallFile - 1, smallFile, smallFile + 1, 1 << 20, 1<<20 + 1, directSize - 1, directSize, directSize + 1, directSize + 4096, 2*directSize + 777} {
		contents[fmt.Sprint("noise-", size)] = noise[size/3:][:size]
	}
	for i := range 300 { // more than the arenas hold
		contents[fmt.Sprint("small-", i)] = noise[i*1000:][:i*100]
	}
	holes := bytes.Clone(noise)
	for i := 0; i < len(holes); i += 10 * directHole {
		clear(holes[i:min(len(holes), i+7*directHole)])
	}
	contents["holes"] = holes
	contents["zeroes"] = make([]byte, directSize+1)
	var entries []func(*tar.Writer) error
	for name, data := range contents {
		entries = append(entries, h(tar.TypeReg, name, "", string(data)))
	}
	dir, res := apply(t, bytes.NewReader(tarOf(t, entries...)))
	for name, data := range contents {
		got, err := os.ReadFile(filepath.Join(dir, "fs", name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
	}
	if res.Inodes != int64(len(contents))+1 {
		t.Errorf("%d inodes", res.Inodes)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "fs", "holes"), &st); err != nil || st.Blocks*512 > st.Size/2 {
		t.Errorf("a file that is mostly holes takes %d of %d bytes, %v", st.Blocks*512, st.Size, err)
	}
}

// A stream that breaks off, or a caller who gives up, ends every stage.
func TestStagesEnd(t *testing.T) {
	var entries []func(*tar.Writer) error
	data := make([]byte, 5<<20)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for i := range 4 {
		entries = append(entries, h(tar.TypeReg, fmt.Sprint("large", i), "", string(data)))
		for j := range 50 {
			entries = append(entries, h(tar.TypeReg, fmt.Sprint("small", i, "-", j), "", string(data[:100_000])))
		}
	}
	packed := tarOf(t, entries...)
	before := runtime.NumGoroutine()
	broken := errors.New("broken")
	for cut := 0; cut < len(packed); cut += len(packed)/9 + 1 {
		_, err := Apply(context.Background(), io.MultiReader(bytes.NewReader(packed[:cut]), failing{broken}), openDir1(t, t.TempDir()), Options{})
		if !errors.Is(err, broken) {
			t.Errorf("broken at %d: %v", cut, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		_, err = Apply(ctx, io.MultiReader(bytes.NewReader(packed[:cut]), calling{cancel}, bytes.NewReader(packed[cut:])), openDir1(t, t.TempDir()), Options{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("given up at %d: %v", cut, err)
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines, there were %d", runtime.NumGoroutine(), before)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type calling struct{ f func() }

func (c calling) Read([]byte) (int, error) { c.f(); return 0, io.EOF }
