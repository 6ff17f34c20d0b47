package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/layerctl/layerctl/image/reference"
)

// memory is a Spool.
type memory [][]byte

func (m *memory) Put(r io.Reader) (number, size int64, digest string, err error) {
	b, err := io.ReadAll(r)
	*m = append(*m, b)
	sum := sha256.Sum256(b)
	return int64(len(*m) - 1), int64(len(b)), "sha256:" + hex.EncodeToString(sum[:]), err
}

func (m *memory) Open(number int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader((*m)[number])), nil
}

// FuzzArchive reads any bytes as an archive: as a file, and as a stream. Both must say the same, and what they say of images must hold.
func FuzzArchive(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		fromFile, ferr := ReadTar(bytes.NewReader(data), int64(len(data)))
		fromStream, serr := ReadStream(bytes.NewReader(data), new(memory))
		if (ferr == nil) != (serr == nil) {
			t.Fatalf("as a file: %v; as a stream: %v", ferr, serr)
		}
		if ferr != nil {
			if !errors.Is(ferr, ErrMalformed) && !errors.Is(ferr, ErrLimit) && !errors.Is(ferr, ErrNotFound) && !errors.Is(ferr, reference.ErrInvalid) {
				t.Fatalf("an error of no kind: %v", ferr)
			}
			return
		}
		a, b := fromFile.Images(), fromStream.Images()
		if len(a) == 0 || len(a) != len(b) {
			t.Fatalf("%d images as a file, %d as a stream", len(a), len(b))
		}
		for i := range a {
			if a[i].Digest != b[i].Digest || len(a[i].Names) != len(b[i].Names) {
				t.Fatalf("%+v as a file, %+v as a stream", a[i], b[i])
			}
			for _, name := range a[i].Names {
				if ref, err := reference.Parse(name); err != nil || ref.String() != name {
					t.Fatalf("the name %q is not canonical: %v", name, err)
				}
			}
			m, err := fromFile.Manifest(a[i].Digest)
			if err != nil {
				continue
			}
			if sum := sha256.Sum256(m.Raw); "sha256:"+hex.EncodeToString(sum[:]) != a[i].Digest {
				t.Fatalf("manifest %s is another", a[i].Digest)
			}
			var parsed v1.Manifest
			if json.Unmarshal(m.Raw, &parsed) != nil || !types.MediaType(m.MediaType).IsImage() {
				continue
			}
			for _, d := range append(parsed.Layers, parsed.Config) {
				r, err := fromFile.Blob(d.Digest.String())
				if err != nil {
					if a[i].Made {
						t.Fatalf("a made manifest names %s: %v", d.Digest, err)
					}
					continue
				}
				n, err := io.Copy(io.Discard, r)
				r.Close()
				if err != nil {
					t.Fatalf("blob %s: %d bytes, %v", d.Digest, n, err)
				}
			}
		}
	})
}
