package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// samples are contents that lead a compressor to every kind of block and match.
func samples() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	skewed := make([]byte, 500_000) // few common bytes and many rare ones: long codes
	for i := range skewed {
		skewed[i] = byte(rng.ExpFloat64() * 6)
		if rng.IntN(3000) == 0 {
			skewed[i] = byte(rng.Uint32())
		}
	}
	var near, far []byte
	for period := 1; period < 300; period++ { // matches of every small distance
		near = append(near, noise[period*7:period*8]...)
		for range 40 + period%9 {
			near = append(near, near[len(near)-period])
		}
	}
	for i := range 60 { // and of the largest
		far = append(far, noise[:32<<10-5+i%11]...)
	}
	text := []byte(strings.Repeat("One layer, unpacked as it comes. ", 3) + strings.Repeat("abcdefghijklmnopqrstuvwxyz0123456789", 2000))
	for range 3000 {
		text = append(text, text[rng.IntN(60):][:rng.IntN(40)]...)
	}
	return map[string][]byte{"nothing": {}, "a byte": {7}, "noise": noise, "skewed": skewed, "near": near, "far": far, "text": text,
		"zeroes": make([]byte, 1_000_000), "all": bytes.Join([][]byte{near, text, noise[:70_000], skewed, far}, nil)}
}

func zip(t testing.TB, level int, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSameBytes(t *testing.T) {
	for name, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, 6, flate.BestCompression} {
			packed := zip(t, level, data)
			for how, src := range map[string]io.Reader{"whole": bytes.NewReader(packed), "a byte at a time": iotest.OneByteReader(bytes.NewReader(packed)),
				"end with the data": iotest.DataErrReader(bytes.NewReader(packed))} {
				r := NewReader(src)
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, level %d, %s: %d bytes of %d, %v", name, level, how, len(got), len(data), err)
				}
				r.Close()
			}
			got, err := decodeAll(NewReader(bytes.NewReader(packed)), Room+level*37+100)
			if err != io.EOF || !bytes.Equal(got, data) {
				t.Errorf("%s, level %d, in small buffers: %d bytes of %d, %v", name, level, len(got), len(data), err)
			}
		}
	}
}

// decodeAll inflates by Decode, into buffers that have so much room behind the history.
func decodeAll(r *Reader, room int) ([]byte, error) {
	defer r.Close()
	buf := make([]byte, History+room)
	at := 0
	var all []byte
	for {
		n, err := r.Decode(buf, at)
		all = append(all, buf[at:at+n]...)
		if err != nil {
			return all, err
		}
		at = copy(buf, all[max(0, len(all)-History):])
	}
}

// Every way to be cut short or to have a bit turned is an error, never other bytes.
func TestDamage(t *testing.T) {
	data := samples()["text"]
	packed := zip(t, 6, data)
	for i := range packed {
		if i > 200 && i < len(packed)-100 && i%197 != 0 {
			continue
		}
		if _, err := io.ReadAll(NewReader(bytes.NewReader(packed[:i]))); i > 0 && err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d of %d: %v", i, len(packed), err)
		}
		for bit := range 8 {
			bad := bytes.Clone(packed)
			bad[i] ^= 1 << bit
			got, err := io.ReadAll(NewReader(bytes.NewReader(bad)))
			if err == nil && !bytes.Equal(got, data) {
				t.Errorf("bit %d of byte %d turned, and no error", bit, i)
			}
			if err != nil && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrCorrupt) {
				t.Errorf("bit %d of byte %d turned: %v", bit, i, err)
			}
		}
	}
	broken := errors.New("broken")
	if _, err := io.ReadAll(NewReader(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken)))); !errors.Is(err, broken) {
		t.Errorf("a broken source: %v", err)
	}
}

func TestContainer(t *testing.T) {
	packed := zip(t, 6, []byte("hello"))
	body := packed[10:]
	head := func(flags byte, more string) string {
		return "\x1f\x8b\x08" + string(flags) + "\x00\x00\x00\x00\x00\x03" + more
	}
	withSum := func(s string) string {
		return s + string(binary.LittleEndian.AppendUint16(nil, uint16(crc32.ChecksumIEEE([]byte(s)))))
	}
	extra := "\xe8\x03" + strings.Repeat("x", 1000)
	for _, row := range []struct{ name, stream, want string }{
		{"empty", "", ""},
		{"plain", head(0, "") + string(body), "hello"},
		{"extra field", head(4, extra) + string(body), "hello"},
		{"name", head(8, "a name\x00") + string(body), "hello"},
		{"comment", head(16, "a comment\x00") + string(body), "hello"},
		{"all with a checksum", withSum(head(31-1, extra+"name\x00comment\x00")) + string(body), "hello"},
		{"wrong checksum of the header", head(2, "\x01\x02") + string(body), "error: header"},
		{"longest name", head(8, strings.Repeat("n", 511)+"\x00") + string(body), "hello"},
		{"name without end", head(8, strings.Repeat("n", 5000)) + string(body), "error: header"},
		{"reserved flag", head(0x20, "") + string(body), "error: reserved"},
		{"text flag", head(1, "") + string(body), "hello"},
		{"unknown method", "\x1f\x8b\x07" + string(packed[3:]), "error: header"},
		{"three members", string(packed) + string(zip(t, 1, nil)) + string(packed), "hellohello"},
		{"zeroes behind", string(packed) + strings.Repeat("\x00", 512), "error: header"},
		{"garbage behind", string(packed) + "garbage behind", "error: header"},
		{"half a header behind", string(packed) + "\x1f\x8b", "error: unexpected EOF"},
		{"cut in the second name", string(packed) + head(8, "nam"), "error: unexpected EOF"},
		{"cut in the trailer", string(packed[:len(packed)-3]), "error: unexpected EOF"},
		{"wrong sum", string(packed[:len(packed)-8]) + "\x00\x00\x00\x00\x05\x00\x00\x00", "error: checksum"},
		{"wrong length", string(packed[:len(packed)-4]) + "\x06\x00\x00\x00", "error: length"},
		{"match before the beginning of its member", string(packed) + head(0, "") + "\x4b\x04\x12\x00", "error: match"},
		{"block of type 3", head(0, "") + "\x07", "error: block"},
		{"stored with a wrong complement", head(0, "") + "\x01\x05\x00\x00\x00hello", "error: stored"},
		{"287 codes", head(0, "") + "\xf5\x03\x00\x00", "error: codes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := io.ReadAll(NewReader(strings.NewReader(row.stream)))
			if text, ok := strings.CutPrefix(row.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%q, %v; want an error about %s", got, err, text)
				}
			} else if err != nil || string(got) != row.want {
				t.Errorf("%q, %v; want %q", got, err, row.want)
			}
		})
	}
	r := NewReader(bytes.NewReader(packed))
	r.Close()
	if _, err := r.Read(make([]byte, 9)); err == nil {
		t.Error("read after close")
	}
}

// FuzzDeflate compares with compress/flate: the same bytes, or an error from both.
func FuzzDeflate(f *testing.F) {
	for _, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6} {
			packed := zip(f, level, data[:min(len(data), 5000)])
			f.Add(packed[10:len(packed)-8], uint16(level*100))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, room uint16) {
		want, werr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(stream)), 64<<20))
		d := &decoder{src: bytes.NewReader(stream), in: make([]byte, inSize)}
		buf := make([]byte, History+Room+int(room))
		var got []byte
		at := 0
		for {
			n, err := d.decode(buf, at)
			got = append(got, buf[at:at+n]...)
			if err != nil || len(got) > 64<<20 {
				if (err == io.EOF) != (werr == nil) && len(got) <= 64<<20 {
					t.Fatalf("error %v, compress/flate says %v", err, werr)
				}
				break
			}
			at = copy(buf, got[max(0, len(got)-History):])
		}
		if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) || werr == nil && len(got) < len(want) {
			t.Fatalf("other bytes than compress/flate: %d, it gave %d", len(got), len(want))
		}
	})
}

// FuzzGzip compares with compress/gzip in the same way, but for what the package's text says.
func FuzzGzip(f *testing.F) {
	for _, data := range samples() {
		f.Add(zip(f, 6, data[:min(len(data), 3000)]))
	}
	f.Add(append(zip(f, 6, []byte("a")), zip(f, 1, []byte("b"))...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var want []byte
		z, werr := gzip.NewReader(bytes.NewReader(stream))
		if werr == nil {
			want, werr = io.ReadAll(io.LimitReader(z, 64<<20))
		} else if werr == io.EOF {
			werr = nil
		}
		r := NewReader(bytes.NewReader(stream))
		defer r.Close()
		got, err := io.ReadAll(io.LimitReader(r, 64<<20))
		if err == errReserved {
			return
		}
		if (err == nil) != (werr == nil) && !(err == io.ErrUnexpectedEOF && werr == nil) {
			t.Fatalf("error %v, compress/gzip says %v", err, werr)
		}
		if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) || err == nil && len(got) != len(want) {
			t.Fatalf("other bytes than compress/gzip: %d, it gave %d", len(got), len(want))
		}
	})
}

// BenchmarkInflate reads the file that INFLATE_FILE names, or a sample.
func BenchmarkInflate(b *testing.B) {
	packed := zip(b, 6, samples()["all"])
	if name := os.Getenv("INFLATE_FILE"); name != "" {
		var err error
		if packed, err = os.ReadFile(name); err != nil {
			b.Fatal(err)
		}
	}
	buf := make([]byte, History+512<<10)
	for b.Loop() {
		r := NewReader(bytes.NewReader(packed))
		total, at := int64(0), 0
		for {
			n, err := r.Decode(buf, at)
			total += int64(n)
			at += n
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			at = copy(buf, buf[max(0, at-History):at])
		}
		r.Close()
		b.SetBytes(total)
	}
}
