package monitor

import (
	"io"
	"os"
	"testing"

	"github.com/layerctl/layerctl/runtime/logs"
)

// BenchmarkStream carries bytes through stdin, a container that copies them, and stdout: what run -i does. Beside it a plain pipe.
func BenchmarkStream(b *testing.B) {
	const piece = 64 << 10
	write := func(w *os.File, n int) {
		data := make([]byte, piece)
		for i := range data {
			data[i] = byte(i)
			if i%80 == 79 {
				data[i] = '\n'
			}
		}
		for range n {
			w.Write(data)
		}
		w.Close()
	}
	copyPlain := func(w, r *os.File) {
		buf := make([]byte, piece)
		for {
			n, err := r.Read(buf)
			w.Write(buf[:n])
			if err != nil {
				w.Close()
				return
			}
		}
	}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		return r, w
	}
	b.Run("pipe", func(b *testing.B) {
		b.SetBytes(piece)
		r, w := pipe()
		r2, w2 := pipe()
		go write(w, b.N)
		go copyPlain(w2, r)
		io.Copy(io.Discard, struct{ io.Reader }{r2})
	})
	for _, log := range []bool{false, true} {
		name := "hub"
		if log {
			name = "hub with log"
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(piece)
			o := HubOptions{Stdin: true, StdinOnce: true}
			if log {
				w, err := logs.Open(b.TempDir(), logs.Options{MaxSize: 100 << 20, MaxFile: 2})
				if err != nil {
					b.Fatal(err)
				}
				defer w.Close()
				o.Log = w
			}
			h := NewHub(o)
			ours, theirs := connected(b)
			ours.Greet(Hello{Input: true, Output: true})
			h.Join(theirs)
			var s Streams
			var in, out *os.File
			in, s.Stdin = pipe()
			s.Stdout, out = pipe()
			if err := h.Begin(s); err != nil {
				b.Fatal(err)
			}
			go func() {
				copyPlain(out, in)
				h.Drain()
				h.End(0)
			}()
			stdin, feed := pipe()
			result, stdout := pipe()
			go write(feed, b.N)
			go func() {
				Attach(ours, AttachOptions{Stdin: stdin, Stdout: stdout, Stderr: os.Stderr, Input: true})
				stdout.Close()
			}()
			n, _ := io.Copy(io.Discard, struct{ io.Reader }{result})
			if n != int64(b.N)*piece {
				b.Fatalf("%d bytes of %d", n, b.N*piece)
			}
		})
	}
}
