// Benchimage writes an image for the benchmarks into an OCI image layout, and adds it to the layout's index:
//
//	benchimage LAYOUT NAME LAYERS FILES SIZE [PROGRAM]
//
// The image has LAYERS layers, each of FILES files of SIZE bytes that do not compress, in directories of a hundred. The lowest has
// the program as /program, too. The same arguments give the same image.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 && len(args) != 6 {
		return errors.New("usage: benchimage LAYOUT NAME LAYERS FILES SIZE [PROGRAM]")
	}
	var program []byte
	if len(args) == 6 {
		var err error
		if program, err = os.ReadFile(args[5]); err != nil {
			return err
		}
	}
	dir, name := args[0], args[1]
	var n [3]int
	for i, s := range args[2:5] {
		var err error
		if n[i], err = strconv.Atoi(s); err != nil || n[i] < 1 {
			return fmt.Errorf("%q is no number above 0", s)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	var layers []descriptor
	var diffIDs []string
	for i := range n[0] {
		d, diffID, err := layer(dir, i, n[1], n[2], program)
		program = nil
		if err != nil {
			return err
		}
		layers = append(layers, d)
		diffIDs = append(diffIDs, diffID)
	}
	config, err := object(dir, configType, map[string]any{"os": "linux", "architecture": "amd64", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	if err != nil {
		return err
	}
	manifest, err := object(dir, manifestType, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": layers})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	return index(dir, manifest)
}

// layer writes one layer's blob.
func layer(dir string, number, files, size int, program []byte) (descriptor, string, error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return descriptor{}, "", err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	blob, plain := sha256.New(), sha256.New()
	buffered := bufio.NewWriterSize(f, 1<<20)
	z, err := gzip.NewWriterLevel(io.MultiWriter(buffered, blob), gzip.BestSpeed)
	if err != nil {
		return descriptor{}, "", err
	}
	w := tar.NewWriter(io.MultiWriter(z, plain))
	rng := rand.New(rand.NewPCG(uint64(number), uint64(files)))
	when := time.Unix(1_700_000_000, 0)
	if program != nil {
		if err := w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(program)), ModTime: when}); err != nil {
			return descriptor{}, "", err
		}
		if _, err := w.Write(program); err != nil {
			return descriptor{}, "", err
		}
	}
	data := make([]byte, size)
	for i := range files {
		in := fmt.Sprintf("data/%d/%d/", number, i/100)
		if i%100 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: in, Mode: 0o755, ModTime: when}); err != nil {
				return descriptor{}, "", err
			}
		}
		for at := range data {
			data[at] = byte(rng.Uint32())
		}
		if err := w.WriteHeader(&tar.Header{Name: in + strconv.Itoa(i), Mode: 0o644, Size: int64(size), ModTime: when}); err != nil {
			return descriptor{}, "", err
		}
		if _, err := w.Write(data); err != nil {
			return descriptor{}, "", err
		}
	}
	if err := errors.Join(w.Close(), z.Close(), buffered.Flush()); err != nil {
		return descriptor{}, "", err
	}
	info, err := f.Stat()
	if err != nil {
		return descriptor{}, "", err
	}
	sum := hex.EncodeToString(blob.Sum(nil))
	d := descriptor{MediaType: layerType, Digest: "sha256:" + sum, Size: info.Size()}
	return d, "sha256:" + hex.EncodeToString(plain.Sum(nil)), os.Rename(f.Name(), filepath.Join(dir, "blobs", "sha256", sum))
}

// object writes a JSON blob.
func object(dir, mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	sum := sha256.Sum256(b)
	name := hex.EncodeToString(sum[:])
	return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: int64(len(b))}, os.WriteFile(filepath.Join(dir, "blobs", "sha256", name), b, 0o644)
}

// index adds the manifest to the layout's index, which is made where it is missing.
func index(dir string, manifest descriptor) error {
	var x struct {
		SchemaVersion int          `json:"schemaVersion"`
		Manifests     []descriptor `json:"manifests"`
	}
	name := filepath.Join(dir, "index.json")
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &x)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	x.SchemaVersion = 2
	x.Manifests = append(x.Manifests, manifest)
	if b, err = json.Marshal(x); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o644)
}
