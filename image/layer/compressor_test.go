package layer

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// someTar is n bytes that are neither all the same nor all different.
func someTar(n int) []byte {
	rng := rand.New(rand.NewPCG(7, 7))
	words := make([][]byte, 2000)
	for i := range words {
		words[i] = fmt.Appendf(nil, "usr/share/doc/%x\n%s", rng.IntN(1<<30), strings.Repeat("abcdefgh", i%9))
	}
	b := make([]byte, 0, n+200)
	for len(b) < n {
		b = append(b, words[rng.IntN(len(words))]...)
	}
	return b[:n]
}

func compressed(t testing.TB, p Packing, plain []byte, writes int) []byte {
	t.Helper()
	var out, seen bytes.Buffer
	c := NewCompressor(&out, p, &seen)
	for rest := plain; len(rest) > 0; {
		n := min(writes, len(rest))
		if k, err := c.Write(rest[:n]); k != n || err != nil {
			t.Fatal(k, err)
		}
		rest = rest[n:]
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(seen.Bytes(), plain) {
		t.Fatalf("%s: plain was given %d other bytes", p, seen.Len())
	}
	return out.Bytes()
}

// The same stream gives the same bytes whatever the number of cores and however it is written, and everybody reads them.
func TestCompressor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	long := someTar(zstdPiece + 12345)
	for _, text := range []string{"gzip", "gzip:9", "zstd", "zstd:19"} {
		p, err := ParsePacking(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 1, gzipPiece, gzipPiece + 1, len(long)} {
			if size > 1 && p.Level > 5 {
				size /= 16 // they are slow
			}
			plain := long[:size]
			var first []byte
			for i, writes := range []int{4095, 10 << 20} {
				runtime.GOMAXPROCS(1 + 6*i)
				b := compressed(t, p, plain, writes)
				if first == nil {
					first = b
				}
				if !bytes.Equal(b, first) {
					t.Errorf("%s, %d bytes: other bytes on %d cores", p, size, 1+6*i)
				}
			}
			for name, open := range map[string]func(io.Reader) (io.Reader, error){
				"ours": func(r io.Reader) (io.Reader, error) { d, _, err := Decompress(r); return d, err },
				"another": func(r io.Reader) (io.Reader, error) {
					if p.Compression == Zstd {
						return zstd.NewReader(r)
					}
					return gzip.NewReader(r)
				},
			} {
				r, err := open(bytes.NewReader(first))
				if err != nil {
					t.Fatalf("%s, %d bytes, %s: %v", p, size, name, err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s, %d bytes, %s: %d came back, %v", p, size, name, len(got), err)
				}
			}
			if size == len(long) {
				foreign(t, p, first, plain)
			}
		}
	}
}

// foreign reads with the programs that people have.
func foreign(t *testing.T, p Packing, b, plain []byte) {
	t.Helper()
	path, err := exec.LookPath(p.Compression.String())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-dc")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(b), os.Stderr
	if got, err := cmd.Output(); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%s -dc: %d bytes, %v", path, len(got), err)
	}
}

// A digest that a layer was given stays its digest. Where these change, with the library or with the code, raise gzipVersion or
// zstdVersion together with them.
func TestCompressorsBytes(t *testing.T) {
	plain := someTar(zstdPiece + 99)
	for text, want := range map[string]string{
		"gzip:5 of version 1": "bc68f312ece613f4eaa4bfaa22b1965de9f02df5c46b420594421fe131034b2e",
		"gzip:9 of version 1": "c96e2a5222589e10546f17840c867130a2c8f634108dbed69e5cff8aa8d7b0a2",
		"zstd:3 of version 1": "89d1c0859d603e5e50f184fbf1d760519e17051746a077b4a526940361b28db2",
	} {
		p, err := ParsePacking(text[:6])
		if err != nil {
			t.Fatal(err)
		}
		n := len(plain)
		if p.Level == 9 {
			n = gzipPiece / 4
		}
		sum := sha256.Sum256(compressed(t, p, plain[:n], 1<<20))
		if got := hex.EncodeToString(sum[:]); got != want || p.Key() != p.String()+":"+text[len(text)-1:] {
			t.Errorf("%s, key %s: %s, want %s", text, p.Key(), got, want)
		}
	}
}

type full struct{ left int }

func (f *full) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errors.New("full")
	}
	return len(b), nil
}

func TestCompressorThatCannotWrite(t *testing.T) {
	some := someTar(1 << 20)
	for _, p := range []Packing{DefaultPacking, {Zstd, 3}} {
		before := runtime.NumGoroutine()
		c := NewCompressor(&full{200 << 10}, p, nil)
		var err error
		for range 1000 {
			if _, err = c.Write(some); err != nil {
				break
			}
		}
		cerr := c.Close()
		if err == nil || err.Error() != "full" || cerr == nil || cerr.Error() != "full" {
			t.Errorf("%s: %v, %v", p, err, cerr)
		}
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // the last one is on its way out
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%s: %d goroutines are left", p, after-before)
		}
	}
}

func TestParsePacking(t *testing.T) {
	for s, want := range map[string]string{"gzip": "gzip:5", "gzip:1": "gzip:1", "zstd": "zstd:3", "zstd:4": "zstd:3", "zstd:22": "zstd:10", "zstd:8": "zstd:6"} {
		if p, err := ParsePacking(s); err != nil || p.String() != want {
			t.Errorf("%s: %s, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "xz", "gzip:", "gzip:0", "gzip:10", "zstd:23", "zstd:x", "gzip:5:1", "none"} {
		if p, err := ParsePacking(s); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}

func BenchmarkCompressor(b *testing.B) {
	plain := someTar(64 << 20)
	if path := os.Getenv("LAYERCTL_BENCH_TAR"); path != "" {
		var err error
		if plain, err = os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
	for _, text := range []string{"gzip:1", "gzip:3", "gzip:4", "gzip:5", "gzip:6", "gzip:9", "zstd:1", "zstd:3", "zstd:6"} {
		p, err := ParsePacking(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for range b.N {
				n := len(compressed(b, p, plain, 1<<20))
				b.ReportMetric(float64(n)/float64(len(plain))*100, "%size")
			}
		})
	}
}
