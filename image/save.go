package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/archive"
	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot"
)

// Format is the form of an archive that Save writes.
type Format string

// The forms; see package archive.
const (
	DockerArchive Format = "docker-archive"
	OCIArchive    Format = "oci-archive"
	OCIDir        Format = "oci-dir"
)

// ParseFormat reads a form.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case DockerArchive, OCIArchive, OCIDir:
		return f, nil
	}
	return "", invalid("format %q: want docker-archive, oci-archive or oci-dir", s)
}

// SaveTarget is where an archive goes: to the file, or with OCIDir the directory, at Path, or to Writer.
type SaveTarget struct {
	Path   string
	Writer io.Writer
}

// Save writes images as one archive; what they share is in it once. The same images give the same bytes. With an OCI form, the manifests
// and blobs of an image that came with any are written as they came, so that every digest stays; other images get a manifest whose layers
// are plain tars. A file appears at its path whole or not at all.
func (s *Store) Save(ctx context.Context, refs []string, format Format, to SaveTarget) error {
	sv := &saver{s: s, format: format}
	defer sv.lease.Close()
	for _, ref := range refs {
		if err := sv.add(ctx, ref); err != nil {
			return fmt.Errorf("save %s: %w", ref, err)
		}
	}
	if err := sv.writeTo(ctx, to); err != nil {
		if errors.Is(err, content.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return fmt.Errorf("save %s: %w", strings.Join(refs, ", "), err)
	}
	return nil
}

// saver is an archive that is being written.
type saver struct {
	s      *Store
	format Format
	images []*saving
	lease  snapshot.Lease // on everything that is going to be read
}

// saving is an image on its way into an archive.
type saving struct {
	img      Image
	names    []string
	manifest []byte // as it came; nil for an image that has none
	digest   string // of the manifest
	media    string
	layers   []savedLayer
	blobs    []v1.Descriptor // of the manifest: config and layers
}

// savedLayer is a layer of an image with the place where its bytes are.
type savedLayer struct {
	Layer
	tree snapshot.Tree
	kept bool // its blob is here; else it is made of its tree
}

// add takes an image in, and holds what of it will be read.
func (sv *saver) add(ctx context.Context, ref string) error {
	img, err := sv.s.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	var names []string
	if slices.Contains(reference.Candidates(ref), img.Name) || strings.Contains(ref, "@") {
		names = []string{img.Name}
	}
	for _, other := range sv.images {
		if other.img.ID == img.ID && (other.img.Digest == img.Digest || sv.format == DockerArchive) {
			for _, name := range names {
				if !contains(other.names, name) {
					other.names = append(other.names, name)
				}
			}
			return nil
		}
	}
	m := &saving{img: img, names: names}
	var n nameRow
	if img.Name != "" {
		err := sv.s.db.View(func(tx *bbolt.Tx) error { _, err := getJSON(tx, bucketNames, img.Name, &n); return err })
		if err != nil {
			return err
		}
	}
	if err := sv.hold(img.ID); err != nil {
		return err
	}
	if n.Digest != "" && sv.format != DockerArchive {
		m.digest, m.media = n.Digest, n.Media
		if err := sv.addManifest(ctx, m); err != nil {
			return err
		}
	} else if err := sv.addLayers(ctx, m); err != nil {
		return err
	}
	sv.images = append(sv.images, m)
	return nil
}

func (sv *saver) hold(digest string) error {
	here, err := sv.s.content.Hold(&sv.lease, digest)
	if err == nil && !here {
		err = fmt.Errorf("blob %s is not kept here: %w", digest, content.ErrNotFound)
	}
	return err
}

// addManifest takes the manifest that the image came with, and all that it names.
func (sv *saver) addManifest(ctx context.Context, m *saving) (err error) {
	if err := sv.hold(m.digest); err != nil {
		return err
	}
	if m.manifest, err = sv.s.content.Read(m.digest); err != nil {
		return err
	}
	var parsed v1.Manifest
	if err := json.Unmarshal(m.manifest, &parsed); err != nil {
		return fmt.Errorf("manifest %s does not parse: %w", m.digest, err)
	}
	m.blobs = append([]v1.Descriptor{parsed.Config}, parsed.Layers...)
	for i, d := range m.blobs {
		if here, err := sv.s.holdBlob(ctx, &sv.lease, d.Digest.String()); err != nil {
			return err
		} else if here {
			continue
		}
		if i > 0 && i <= len(m.img.Layers) {
			// One that was made here for a push is made again.
			if made, err := sv.s.remakeBlob(ctx, &sv.lease, m.img, i-1, d.Digest.String()); err != nil {
				return err
			} else if made {
				continue
			}
		}
		if err := sv.fetch(ctx, m.img, d); err != nil {
			return err
		}
	}
	return nil
}

// fetch brings a blob that is not here, because the layer's tree was when the image came, from where the image came from.
func (sv *saver) fetch(ctx context.Context, img Image, d v1.Descriptor) error {
	var list []origin
	err := sv.s.db.View(func(tx *bbolt.Tx) (err error) { list, err = sv.s.originsOf(tx, img.ID); return err })
	if err == nil {
		err = sv.s.keepBlob(ctx, repositoriesOf(list, nil), &sv.lease, d)
	}
	if err != nil {
		err = fmt.Errorf("blob %s is not kept here: %w", d.Digest, err)
	}
	return err
}

// addLayers finds out where the bytes of each layer come from, and, for OCI's forms, makes a manifest of them.
func (sv *saver) addLayers(ctx context.Context, m *saving) error {
	trees, err := sv.s.treesOf(ctx, m.img)
	if err != nil {
		return err
	}
	config, err := v1.NewHash(m.img.ID)
	if err != nil {
		return err
	}
	manifest := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: config, Size: int64(len(m.img.Config))}}
	for i, l := range m.img.Layers {
		sl := savedLayer{Layer: l, tree: trees[i]}
		if l.Digest != "" {
			if sl.kept, err = sv.s.holdBlob(ctx, &sv.lease, l.Digest); err != nil {
				return err
			}
		}
		if !sl.kept {
			if err := sv.s.snaps.Hold(&sv.lease, sl.tree); err != nil {
				return err
			}
		}
		if !sl.kept && l.Digest != "" {
			// Only some trees make their layer again: see whether this one does before anything is written of it.
			if sv.tar(ctx, sl, io.Discard) != nil {
				h, err := v1.NewHash(l.Digest)
				if err == nil {
					err = sv.fetch(ctx, m.img, v1.Descriptor{Digest: h, Size: l.BlobSize})
				}
				if err != nil {
					return fmt.Errorf("layer %s: %w", l.DiffID, err)
				}
				sl.kept = true
			}
		}
		if sv.format == DockerArchive || !sl.kept {
			if sl.TarSize, err = sv.tarSize(ctx, sl); err != nil {
				return fmt.Errorf("layer %s: %w", l.DiffID, err)
			}
		}
		d := v1.Descriptor{MediaType: ociType(l.MediaType), Size: l.BlobSize}
		digest := l.Digest
		if !sl.kept {
			d.MediaType, d.Size, digest = types.OCIUncompressedLayer, sl.TarSize, l.DiffID
		}
		if d.Digest, err = v1.NewHash(digest); err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, d)
		m.layers = append(m.layers, sl)
	}
	if m.manifest, err = json.Marshal(manifest); err != nil {
		return err
	}
	m.digest, m.media = content.Digest(m.manifest), string(types.OCIManifestSchema1)
	m.blobs = append([]v1.Descriptor{manifest.Config}, manifest.Layers...)
	return nil
}

// tarSize is the length of a layer's tar, which a tar around it must say first. Rows from before it was noted, and layers that were found
// in the store, are counted.
func (sv *saver) tarSize(ctx context.Context, l savedLayer) (int64, error) {
	switch {
	case l.TarSize > 0:
		return l.TarSize, nil
	case l.kept && l.Digest == l.DiffID:
		return l.BlobSize, nil
	}
	var n counter
	err := sv.tar(ctx, l, &n)
	return int64(n), err
}

type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// tar writes the tar of a layer and verifies it by its diff ID.
func (sv *saver) tar(ctx context.Context, l savedLayer, w io.Writer) error {
	sum := sha256.New()
	if err := sv.s.writeTar(ctx, l, io.MultiWriter(w, sum)); err != nil {
		return err
	}
	return l.verify(sum)
}

// verify holds the hash of a layer's tar against its diff ID.
func (l savedLayer) verify(sum hash.Hash) error {
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != l.DiffID {
		return fmt.Errorf("layer %s came out as %s, so it is damaged: %w", l.DiffID, got, content.ErrCorrupt)
	}
	return nil
}

// writeTar writes the tar of a layer, which nobody has verified.
func (s *Store) writeTar(ctx context.Context, l savedLayer, w io.Writer) error {
	w = writer{ctx, w}
	if !l.kept {
		root, err := os.Open(filepath.Join(l.tree.Dir, "fs"))
		if err != nil {
			return err
		}
		defer root.Close()
		return layer.Pack(ctx, root, w, layer.PackOptions{Marks: true})
	}
	f, err := s.content.Open(l.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, _, err := layer.Decompress(f)
	if err != nil {
		return fmt.Errorf("blob %s is damaged: %w: %w", l.Digest, content.ErrCorrupt, err)
	}
	defer plain.Close()
	_, err = io.CopyBuffer(onlyWriter{w}, unpacking{plain, l.Digest}, make([]byte, 256<<10))
	return err
}

// unpacking tells a blob that does not unpack from a disk that does not read.
type unpacking struct {
	r      io.Reader
	digest string
}

func (u unpacking) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	var disk *os.PathError
	if err != nil && err != io.EOF && !errors.As(err, &disk) {
		err = fmt.Errorf("blob %s is damaged: %w: %w", u.digest, content.ErrCorrupt, err)
	}
	return n, err
}

// writer ends with its context.
type writer struct {
	ctx context.Context
	w   io.Writer
}

func (w writer) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

// writeTo writes the archive beside its path and renames it, so that nobody takes half of one for an archive.
func (sv *saver) writeTo(ctx context.Context, to SaveTarget) (err error) {
	if to.Writer != nil {
		return sv.write(ctx, archive.NewTarWriter(to.Writer))
	}
	if sv.format == OCIDir {
		path, err := filepath.EvalSymlinks(to.Path) // a link stays one
		if errors.Is(err, fs.ErrNotExist) {
			path, err = to.Path, nil
		}
		if err != nil {
			return unwrapPath(err)
		}
		return sv.writeDir(ctx, path)
	}
	err = archive.WriteFile(to.Path, func(w io.Writer) error { return sv.write(ctx, archive.NewTarWriter(w)) })
	if errors.Is(err, unix.EISDIR) {
		return invalid("%s is a directory: a file is wanted, or --format oci-dir", to.Path)
	}
	return err
}

func (sv *saver) writeDir(ctx context.Context, path string) (err error) {
	if names, err := os.ReadDir(path); err == nil && len(names) > 0 {
		return invalid("the directory is not empty")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unwrapPath(err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return unwrapPath(err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(tmp)
		}
	}()
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return unwrapPath(err)
	}
	err = sv.write(ctx, archive.NewDirWriter(root))
	if err = errors.Join(err, root.Close()); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // what MkdirTemp makes is for its maker alone
		return err
	}
	return unwrapPath(os.Rename(tmp, path))
}

func (sv *saver) write(ctx context.Context, w *archive.Writer) error {
	write := sv.writeOCI
	if sv.format == DockerArchive {
		write = sv.writeDocker
	}
	if err := write(ctx, w); err != nil {
		return err
	}
	return w.Close()
}

// writeOCI writes an OCI image layout: what names first, then what is named, so that who reads the stream knows what comes.
func (sv *saver) writeOCI(ctx context.Context, w *archive.Writer) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, m := range sv.images {
		digest, err := v1.NewHash(m.digest)
		if err != nil {
			return err
		}
		d := v1.Descriptor{MediaType: types.MediaType(m.media), Digest: digest, Size: int64(len(m.manifest))}
		if len(m.names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
		for _, name := range m.names {
			d.Annotations = map[string]string{archive.AnnotationRefName: name, archive.AnnotationContainerName: name}
			index.Manifests = append(index.Manifests, d)
		}
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := w.Bytes("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := w.Bytes("index.json", raw); err != nil {
		return err
	}
	for _, m := range sv.images {
		if err := w.Bytes(archive.BlobName(m.digest), m.manifest); err != nil {
			return err
		}
	}
	for _, m := range sv.images {
		local := map[string]savedLayer{}
		for _, l := range m.layers {
			if !l.kept {
				local[l.DiffID] = l
			}
		}
		for _, d := range m.blobs {
			digest := d.Digest.String()
			err := w.File(archive.BlobName(digest), d.Size, func(to io.Writer) error {
				if l, ok := local[digest]; ok {
					return sv.tar(ctx, l, to)
				}
				return sv.copyBlob(ctx, digest, to)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// copyBlob writes a kept blob, verified once more.
func (sv *saver) copyBlob(ctx context.Context, digest string, w io.Writer) error {
	f, err := sv.s.content.Open(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(onlyWriter{io.MultiWriter(writer{ctx, w}, sum)}, f, make([]byte, 256<<10)); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("blob %s is damaged: %w", digest, content.ErrCorrupt)
	}
	return nil
}
