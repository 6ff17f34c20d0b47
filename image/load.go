package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.etcd.io/bbolt"

	"github.com/layerctl/layerctl/image/archive"
	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// LoadSource is an archive: a file or an OCI layout's directory at Path, or what comes from Reader.
type LoadSource struct {
	Path   string
	Reader io.Reader
}

// LoadOptions say how an archive is loaded.
type LoadOptions struct {
	Platform string   // of an image with several, OS/ARCH[/VARIANT]; "" for this host's
	Progress Progress // may be nil
}

// Loaded is an image that came out of an archive.
type Loaded struct {
	ID    string
	Names []string // none where the archive has none
}

// Load brings all images of an archive into the store, whatever its form (package archive) and however it is compressed, through the
// same steps as Pull. Nothing gets a name before everything in the archive was found whole.
func (s *Store) Load(ctx context.Context, src LoadSource, o LoadOptions) ([]Loaded, error) {
	list, err := s.loadArchive(ctx, src, o)
	if err != nil {
		s.makeRoom(ctx, err)
		what := src.Path
		if src.Reader != nil {
			what = "from stdin"
		}
		if isCorrupt(err) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil, fmt.Errorf("load %s: %w", what, err)
	}
	return list, nil
}

func (s *Store) loadArchive(ctx context.Context, src LoadSource, o LoadOptions) ([]Loaded, error) {
	p, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	var only *platform
	if o.Platform != "" {
		only = &p
	}
	if o.Progress == nil {
		o.Progress = noProgress{}
	}
	a, done, err := s.openArchive(ctx, src)
	if err != nil {
		return nil, err
	}
	defer done()
	failpoint.Hit("load/read")

	// The manifests first, since what is wrong with them is known without unpacking anything.
	var images []*loading
	for _, img := range a.Images() {
		m, err := fetchManifest(ctx, archiveSource{a}, img.Digest, p)
		if err != nil {
			return nil, err
		}
		l := &loading{img, &puller{s: s, src: archiveSource{a}, progress: o.Progress, manifest: m, came: LayerLoaded, keepBlobs: true, only: only}, nil, nil}
		if img.Made {
			m.index = nil
			if m.digest == img.Digest { // Docker's form; else the index alone is made up
				m.raw, m.digest, m.media = nil, "", ""
				l.p.loose = true
			}
		}
		images = append(images, l)
	}
	for _, l := range images {
		defer l.p.close()
		if err := l.bring(ctx); err != nil {
			return nil, err
		}
		failpoint.Hit("load/brought")
	}
	var list []Loaded
	for _, l := range images {
		if err := l.name(ctx); err != nil {
			return list, err
		}
		list = append(list, Loaded{l.row.ID, l.img.Names})
	}
	return list, nil
}

// loading is an image on its way out of an archive.
type loading struct {
	img  archive.Image
	p    *puller
	row  *nameRow
	data *imageRow // nil for an image that is here
}

func (l *loading) bring(ctx context.Context) (err error) {
	m := l.p.manifest
	l.row = &nameRow{ID: m.configDigest}
	if l.p.loose && l.p.only == nil {
		// Of an image without manifests its ID says all. Where it is here, its layers are, and perhaps as better blobs than tars.
		here := false
		err := l.p.s.db.View(func(tx *bbolt.Tx) error { here = tx.Bucket(bucketImages).Get([]byte(l.row.ID)) != nil; return nil })
		if err != nil || here {
			return err
		}
	}
	if l.p.manifest.raw != nil {
		l.row.Digest, l.row.Media, l.row.Size = m.digest, m.media, int64(len(m.raw))
	}
	l.data, err = l.p.run(ctx)
	// Images of one archive share layers: the next one finds them in the store, where we hold them until all have their names.
	for _, layer := range l.p.layers {
		layer.release()
	}
	return err
}

func (l *loading) name(ctx context.Context) error {
	names := l.img.Names
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		err := l.p.s.name(name, *l.row, l.data)
		if errors.Is(err, ErrNotFound) && l.data == nil {
			// Somebody has removed it since we looked.
			if l.data, err = l.p.run(ctx); err == nil {
				err = l.p.s.name(name, *l.row, l.data)
			}
		}
		if err != nil {
			return err
		}
		failpoint.Hit("load/named")
	}
	return nil
}

// archiveSource is an archive as a source.
type archiveSource struct{ *archive.Archive }

func (a archiveSource) Manifest(_ context.Context, digest string) (registry.Manifest, error) {
	m, err := a.Archive.Manifest(digest)
	return registry.Manifest{Digest: digest, MediaType: m.MediaType, Raw: m.Raw}, err
}

func (a archiveSource) Blob(_ context.Context, digest string, _ int64) (io.ReadCloser, error) {
	return a.Archive.Blob(digest)
}

// keep sees to it that the blobs of layers whose trees were here already are here, too: they can be had now and perhaps never again.
func (p *puller) keep(ctx context.Context) error {
	of := map[string]*pulledLayer{}
	for _, l := range p.layers {
		of[l.diffID] = l
	}
	alone := false
	for i, d := range p.manifest.parsed.Layers {
		l := of[p.config.RootFS.DiffIDs[i].String()]
		if l.local || l.kept && l.desc.Digest == d.Digest {
			continue
		}
		if here, err := p.s.holdBlob(ctx, &p.lease, d.Digest.String()); err != nil {
			return err
		} else if here {
			continue
		}
		if p.loose && l.tree != nil && l.tree.Settling == "" && standsAlone(l.tree.Dir) {
			local, err := p.repacks(ctx, l, l.tree.Dir)
			if err != nil {
				return err
			}
			if l.local = local; local {
				continue
			}
		}
		if !alone { // as in bring: who waits holds nothing that others wait for
			if err := p.publish(ctx); err != nil {
				return err
			}
			for _, l := range p.layers {
				l.release()
			}
			alone = true
		}
		if err := p.s.keepBlob(ctx, p.src, &p.lease, d); err != nil {
			return fmt.Errorf("layer %s: %w", d.Digest, err)
		}
	}
	return nil
}

// keepBlob brings a blob that has nothing to be unpacked for.
func (s *Store) keepBlob(ctx context.Context, src source, lease *snapshot.Lease, d v1.Descriptor) error {
	in, err := s.content.WaitIngest(ctx, d.Digest.String(), d.Size, false)
	if err != nil {
		return err
	}
	defer in.Close()
	if here, err := s.holdBlob(ctx, lease, d.Digest.String()); err != nil || here {
		return err
	}
	return untilRight(src, d.Digest.String(), func() error {
		if err := in.Restart(); err != nil {
			return err
		}
		body, err := src.Blob(ctx, d.Digest.String(), d.Size)
		if err != nil {
			return err
		}
		defer body.Close()
		if f, ok := body.(*content.Spooled); ok {
			if err := in.Take(f); err != nil {
				return err
			}
		}
		if _, err := io.CopyBuffer(onlyWriter{in}, body, make([]byte, 256<<10)); err != nil {
			return err
		}
		return in.Commit(lease)
	})
}

// repacks says whether the canonical tar of a tree is what the archive has for the layer. It is for a layer that was imported or
// committed here and saved; most others differ in their first header, which is as far as this then looks.
func (p *puller) repacks(ctx context.Context, l *pulledLayer, dir string) (bool, error) {
	if l.desc.Digest.String() != l.diffID {
		return false, nil // it is compressed
	}
	body, err := p.src.Blob(ctx, l.diffID, l.desc.Size)
	if err != nil {
		return false, err
	}
	defer body.Close()
	fs, err := os.Open(filepath.Join(dir, "fs"))
	if err != nil {
		return false, err
	}
	defer fs.Close()
	if err := layer.Pack(ctx, fs, &same{r: body}, layer.PackOptions{Marks: true}); err != nil {
		return false, ctx.Err() // a tree that cannot be packed does not make this tar, either
	}
	n, err := body.Read(make([]byte, 1))
	return n == 0 && err == io.EOF, nil
}

// same takes only what r has.
type same struct {
	r   io.Reader
	buf []byte
}

var errDiffers = errors.New("it differs")

func (s *same) Write(b []byte) (int, error) {
	if len(s.buf) < len(b) {
		s.buf = make([]byte, len(b))
	}
	if _, err := io.ReadFull(s.r, s.buf[:len(b)]); err != nil || !bytes.Equal(s.buf[:len(b)], b) {
		return 0, errDiffers
	}
	return len(b), nil
}

// onlyWriter hides that a writer could read for itself.
type onlyWriter struct{ io.Writer }

// openArchive opens what lies on disk for random access, and reads what does not, or is compressed, once.
func (s *Store) openArchive(ctx context.Context, src LoadSource) (_ *archive.Archive, done func(), err error) {
	var open closers
	defer func() {
		if err != nil {
			open.Close()
		}
	}()
	r := src.Reader
	if r == nil {
		f, err := os.Open(src.Path)
		if err != nil {
			return nil, nil, unwrapPath(err)
		}
		open = append(open, f)
		r = f
	}
	if f, ok := r.(*os.File); ok {
		info, err := f.Stat()
		if err != nil {
			return nil, nil, err
		}
		if info.IsDir() {
			root, err := os.OpenRoot(src.Path)
			if err != nil {
				return nil, nil, unwrapPath(err)
			}
			open = append(open, root)
			a, err := archive.ReadDir(root)
			return a, open.close, err
		}
		if at, err := f.Seek(0, io.SeekCurrent); err == nil && info.Mode().IsRegular() {
			var magic [6]byte
			n, err := f.ReadAt(magic[:], at)
			if err != nil && err != io.EOF {
				return nil, nil, err
			}
			if layer.Detect(magic[:n]) == layer.None {
				size := max(info.Size()-at, 0)
				a, err := archive.ReadTar(readerAt{ctx, io.NewSectionReader(f, at, size)}, size)
				return a, open.close, err
			}
		}
	}
	spool, err := s.content.NewSpool()
	if err != nil {
		return nil, nil, err
	}
	open = append(open, spool)
	packed := &passed{r: &patient{ctx: ctx, r: r}}
	stream, how, err := layer.Decompress(packed)
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close()
	plain := &passed{r: stream}
	if how != layer.None {
		plain.than = packed
	}
	a, err := archive.ReadStream(plain, spool)
	if err == nil {
		// To the very end: a writer into our stdin is not to be cut off in the padding, and damage there is damage.
		_, err = io.Copy(io.Discard, plain)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, archive.ErrMalformed) {
		err = fmt.Errorf("it was cut short: %w: %w", archive.ErrMalformed, err)
	}
	return a, open.close, err
}

// closers are closed in the reverse order.
type closers []io.Closer

func (c closers) close() { c.Close() }

func (c closers) Close() error {
	for i := len(c) - 1; i >= 0; i-- {
		c[i].Close()
	}
	return nil
}

// readerAt ends with its context.
type readerAt struct {
	ctx context.Context
	r   io.ReaderAt
}

func (r readerAt) ReadAt(b []byte, at int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.ReadAt(b, at)
}

// passed counts what passes. Of a compressed archive it lets no more pass than a real one has: deflate packs zeros a thousand times, and
// nothing that is worth an archive 200 times.
type passed struct {
	r    io.Reader
	n    int64
	than *passed // what it is unpacked from
}

const (
	bombRatio = 200
	bombFree  = 1 << 30
)

func (p *passed) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	if p.than != nil && p.n > bombFree && p.n/bombRatio > p.than.n {
		return n, fmt.Errorf("it unpacks to more than %d times its size: %w", bombRatio, archive.ErrLimit)
	}
	return n, err
}

// patient reads ahead in a goroutine of its own, so that a read which waits for a silent pipe can be given up when the context ends. The
// goroutine then stays in its read; the process ends soon.
type patient struct {
	ctx  context.Context
	r    io.Reader
	full chan piece
	free chan []byte
	now  piece
	rest []byte
}

type piece struct {
	buf []byte
	n   int
	err error
}

func (p *patient) Read(b []byte) (int, error) {
	if p.full == nil {
		p.full, p.free = make(chan piece, 2), make(chan []byte, 2)
		p.free <- make([]byte, 256<<10)
		p.free <- make([]byte, 256<<10)
		go func() {
			for buf := range p.free {
				n, err := p.r.Read(buf)
				p.full <- piece{buf, n, err}
				if err != nil {
					return
				}
			}
		}()
	}
	for len(p.rest) == 0 {
		if p.now.err != nil {
			return 0, p.now.err
		}
		if p.now.buf != nil {
			p.free <- p.now.buf
			p.now.buf = nil
		}
		select {
		case p.now = <-p.full:
			p.rest = p.now.buf[:p.now.n]
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
