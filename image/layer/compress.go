package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/layerctl/layerctl/image/layer/inflate"
)

// What a stream can be refused for; test with errors.Is. Messages name the entry.
var (
	ErrMalformed   = errors.New("malformed layer")
	ErrLimit       = errors.New("layer beyond limits")
	ErrUnsupported = errors.New("unsupported in a layer")
)

// Compression is how a layer's bytes are packed.
type Compression int

// The compressions that Decompress knows.
const (
	None Compression = iota
	Gzip
	Zstd
	Xz
	Bzip2
)

func (c Compression) String() string {
	switch c {
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	case Xz:
		return "xz"
	case Bzip2:
		return "bzip2"
	}
	return "none"
}

// Detect tells by a stream's first 6 bytes how it is compressed.
func Detect(magic []byte) Compression {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return Xz
	case bytes.HasPrefix(magic, []byte("BZh")):
		return Bzip2
	}
	return None
}

// Decompress tells by the first bytes how r is compressed and returns the plain stream. Gzip members that follow each other are one
// stream. Memory is bounded whatever the stream asks for: a zstd window of more than 128 MiB is refused.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, None, err
	}
	switch Detect(magic) {
	case Gzip:
		return inflate.NewReader(br), Gzip, nil
	case Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, Zstd, fmt.Errorf("zstd: %w: %w", ErrMalformed, err)
		}
		return z.IOReadCloser(), Zstd, nil
	case Xz:
		z, err := xz.ReaderConfig{DictCap: 128 << 20}.NewReader(br)
		if err != nil {
			return nil, Xz, fmt.Errorf("xz: %w: %w", ErrMalformed, err)
		}
		return io.NopCloser(z), Xz, nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(br)), Bzip2, nil
	}
	return io.NopCloser(br), None, nil
}
