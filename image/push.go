package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/image/registry"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// PushOptions say how an image is pushed.
type PushOptions struct {
	// Compression is how layers are compressed that were made here or are not compressed. The zero one is as they were pushed before under
	// this name, and gzip at first. Layers that came compressed keep their bytes.
	Compression Compression
	PlainHTTP   bool
	Progress    Progress // may be nil
}

// Compression is a way to compress a layer, at a level.
type Compression = layer.Packing

// ParseCompression reads gzip[:1-9] or zstd[:1-22].
func ParseCompression(s string) (Compression, error) { return layer.ParsePacking(s) }

// Pushed is what was pushed: the repository and the digest of the manifest.
type Pushed struct{ Name, Digest string }

func (p Pushed) String() string { return p.Name + "@" + p.Digest }

// Push puts the image that is named ref into the registry that the name says, under that name: what the registry lacks of its layers,
// then its manifest. An image that came from a registry keeps its manifest and blobs, to the byte; a layer that was made here is
// compressed meanwhile, and the same layer always to the same bytes. What is there as it is here is one request.
func (s *Store) Push(ctx context.Context, ref string, o PushOptions) (Pushed, error) {
	p := &pusher{s: s, o: o}
	defer p.lease.Close()
	done, err := p.push(ctx, ref)
	if err != nil {
		s.makeRoom(ctx, err)
		if errors.Is(err, content.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return Pushed{}, fmt.Errorf("push %s: %w", ref, err)
	}
	return done, nil
}

// Tags are the names with a tag that images have here in a repository: what is pushed of it with all tags.
func (s *Store) Tags(_ context.Context, repository string) ([]string, error) {
	names, err := s.tags(repository)
	if err == nil && len(names) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("push all tags of %s: %w", repository, err)
	}
	return names, nil
}

func (s *Store) tags(repository string) (names []string, err error) {
	candidates := reference.Candidates(repository)
	if len(candidates) == 0 {
		_, err := reference.Parse(repository)
		return nil, err
	}
	if strings.ContainsAny(repository[strings.LastIndexByte(repository, '/')+1:], ":@") {
		return nil, invalid("it names one image, and a repository is wanted")
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, c := range candidates {
			prefix := strings.TrimSuffix(c, "latest")
			cur := tx.Bucket(bucketNames).Cursor()
			for k, _ := cur.Seek([]byte(prefix)); strings.HasPrefix(string(k), prefix); k, _ = cur.Next() {
				names = append(names, string(k))
			}
			if len(names) > 0 {
				break
			}
		}
		return nil
	})
	return names, err
}

// pusher is an image on its way into a registry.
type pusher struct {
	s       *Store
	o       PushOptions
	packing layer.Packing
	img     Image
	to      reference.Ref
	name    nameRow
	repo    *registry.Repository
	origins []origin // where the image is besides here
	lease   snapshot.Lease
	fixed   bool                // the manifest is there, and says each digest
	compact *semaphore.Weighted // layers that are compressed at once: each keeps all cores busy
}

// pushedLayer is a layer on its way: a blob that is known, or one that becomes one.
type pushedLayer struct {
	desc    v1.Descriptor // without a digest as long as nobody knows it
	plain   *savedLayer   // what the blob is made of; nil for one that came as it is
	packing layer.Packing // and how
	origins []origin      // repositories that may have it
}

func (l *pushedLayer) known() bool { return l.desc.Digest.Hex != "" }

// id is what progress calls it.
func (l *pushedLayer) id() string {
	if l.plain != nil {
		return l.plain.DiffID
	}
	return l.desc.Digest.String()
}

func (p *pusher) push(ctx context.Context, ref string) (Pushed, error) {
	if p.o.Progress == nil {
		p.o.Progress = noProgress{}
	}
	if p.packing = p.o.Compression; p.packing == (Compression{}) {
		p.packing = layer.DefaultPacking
	}
	p.compact = semaphore.NewWeighted(2)
	if err := p.find(ctx, ref); err != nil {
		return Pushed{}, err
	}
	m, layers, err := p.plan(ctx)
	if err != nil {
		return Pushed{}, err
	}
	var mounts []string
	for _, l := range layers {
		mounts = union(mounts, p.mounts(l))
	}
	if p.repo, err = registry.Open(p.to, registry.Options{Push: true, Mounts: mounts, PlainHTTP: p.o.PlainHTTP, Notice: p.o.Progress.Status}); err != nil {
		return Pushed{}, err
	}
	under := p.to.Tag
	if under == "" {
		under = m.Digest
	}
	if there, err := p.there(ctx, under, m); err != nil {
		return Pushed{}, err
	} else if there {
		p.o.Progress.Status(p.to.String() + ": the registry has this image already")
	} else {
		p.o.Progress.Status("pushing to " + p.to.Name())
		if err := p.blobs(ctx, layers); err != nil {
			return Pushed{}, err
		}
		failpoint.Hit("push/blobs")
		if m.Raw == nil {
			if m, err = p.manifest(layers); err != nil {
				return Pushed{}, err
			}
		}
		if err := p.repo.PutManifest(ctx, under, m); err != nil {
			return Pushed{}, fmt.Errorf("manifest %s: %w", m.Digest, err)
		}
		failpoint.Hit("push/manifest")
	}
	return Pushed{p.to.Name(), m.Digest}, p.record(m, layers)
}

// find looks up the image, and where it is to go.
func (p *pusher) find(ctx context.Context, ref string) (err error) {
	if p.img, err = p.s.Resolve(ctx, ref); err != nil {
		return err
	}
	if !slices.Contains(reference.Candidates(ref), p.img.Name) {
		return invalid("an image is pushed by a name that says where to: `layerctl tag %s REGISTRY/NAME`, then push that", ref)
	}
	if p.to, err = reference.Parse(p.img.Name); err != nil {
		return err
	}
	if reference.IsLocal(p.to) {
		return invalid("%s says no registry: `layerctl tag %s REGISTRY/NAME`, then push that", p.img.Name, ref)
	}
	return p.s.db.View(func(tx *bbolt.Tx) error {
		if _, err := getJSON(tx, bucketNames, p.img.Name, &p.name); err != nil {
			return err
		}
		p.origins, err = p.s.originsOf(tx, p.img.ID)
		return err
	})
}

// plan says which layers there are, and with which manifest: the one that the image has under its name, or an empty one where it has
// none, or where the layers that were made here are to be compressed in another way.
func (p *pusher) plan(ctx context.Context) (m registry.Manifest, layers []*pushedLayer, err error) {
	here := slices.ContainsFunc(p.img.Layers, madeHere)
	asked := p.o.Compression != (Compression{})
	if asked && !here {
		p.o.Progress.Status("no layer was made here: all keep their compression")
	}
	var descs []v1.Descriptor
	if p.name.Digest != "" && (!asked || !here) {
		m = registry.Manifest{Digest: p.name.Digest, MediaType: p.name.Media}
		if held, err := p.s.content.Hold(&p.lease, m.Digest); err != nil || !held {
			return m, nil, errors.Join(err, fmt.Errorf("manifest %s: %w", m.Digest, content.ErrNotFound))
		}
		if m.Raw, err = p.s.content.Read(m.Digest); err != nil {
			return m, nil, err
		}
		var parsed v1.Manifest
		if err := json.Unmarshal(m.Raw, &parsed); err != nil {
			return m, nil, fmt.Errorf("manifest %s does not parse: %w: %w", m.Digest, content.ErrCorrupt, err)
		}
		if len(parsed.Layers) != len(p.img.Layers) {
			return m, nil, fmt.Errorf("manifest %s names %d layers, its image has %d: %w", m.Digest, len(parsed.Layers), len(p.img.Layers), content.ErrCorrupt)
		}
		if m.MediaType == "" {
			m.MediaType = string(parsed.MediaType)
		}
		descs, p.fixed = parsed.Layers, true
	}
	trees, err := p.s.treesOf(ctx, p.img)
	if err != nil {
		return m, nil, err
	}
	made := make([]bool, len(p.img.Layers))
	err = p.s.db.View(func(tx *bbolt.Tx) error {
		for i, l := range p.img.Layers {
			pl := &pushedLayer{packing: p.packing}
			var err error
			var row packedRow
			switch {
			case descs != nil:
				pl.desc = descs[i]
				if way, before, ok := packedAs(tx, l.DiffID, pl.desc.Digest.String()); ok {
					pl.packing, row, made[i] = way, before, true
				}
			case madeHere(l):
				made[i], pl.desc.MediaType = true, packedType(p.packing)
				if before, ok := packed(tx, packedKey(l.DiffID, p.packing)); ok {
					row = before
					pl.desc, err = descriptor(pl.desc.MediaType, row.Digest, row.Size)
				}
			default:
				pl.desc, err = descriptor(ociType(l.MediaType), l.Digest, l.BlobSize)
			}
			if err == nil && pl.known() {
				pl.origins, err = p.originsOf(tx, pl.desc.Digest.String(), row.Sources)
			}
			if err != nil {
				return fmt.Errorf("layer %s: %w", l.DiffID, err)
			}
			layers = append(layers, pl)
		}
		return nil
	})
	for i, l := range p.img.Layers {
		if err == nil && made[i] {
			layers[i].plain, err = p.s.plainLayer(ctx, &p.lease, l, trees[i])
		}
	}
	return m, layers, err
}

// madeHere says of a layer whether its blob is yet to be made, because it was made here, or came as a plain tar.
func madeHere(l Layer) bool {
	return l.Digest == "" || ociType(l.MediaType) == types.OCIUncompressedLayer
}

// originsOf are the repositories that may have a layer's blob: those where it was pushed to, or where this image, or another one with the
// same blob, was pulled from or pushed to.
func (p *pusher) originsOf(tx *bbolt.Tx, digest string, list []origin) ([]origin, error) {
	list = append(slices.Clone(list), p.origins...)
	prefix := string(useKey(digest, ""))
	cur := tx.Bucket(bucketUses).Cursor()
	for k, _ := cur.Seek([]byte(prefix)); strings.HasPrefix(string(k), prefix) && len(list) < mostOrigins; k, _ = cur.Next() {
		if id := string(k[len(prefix):]); id != p.img.ID {
			more, err := p.s.originsOf(tx, id)
			if err != nil {
				return nil, err
			}
			list = append(list, more...)
		}
	}
	return distinct(list), nil
}

// How many repositories of a blob are thought of, and how many are tried to be mounted from: each is a request.
const (
	mostOrigins = 100
	mostMounts  = 3
)

// mounts are the other repositories of the registry that may have a layer.
func (p *pusher) mounts(l *pushedLayer) (repos []string) {
	for _, o := range l.origins {
		if repo, ok := strings.CutPrefix(o.Repository, p.to.Registry+"/"); ok && repo != p.to.Repository && len(repos) < mostMounts {
			repos = append(repos, repo)
		}
	}
	return repos
}

// there asks, in one request, whether the registry has the image under this name already.
func (p *pusher) there(ctx context.Context, under string, m registry.Manifest) (bool, error) {
	if m.Raw == nil {
		return false, nil
	}
	now, err := p.repo.Head(ctx, under)
	if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrUnauthorized) {
		return false, nil // a repository that is made by the first push is answered so, too
	}
	return now == m.Digest, err
}

// blobs brings the layers and the config there, several at once.
func (p *pusher) blobs(ctx context.Context, layers []*pushedLayer) error {
	g, running := errgroup.WithContext(ctx)
	free := semaphore.NewWeighted(largeLayer * int64(min(max(runtime.GOMAXPROCS(0), 2), 6)))
	first := map[string]*pushedLayer{} // a layer may be there twice
	var same []*pushedLayer
	for _, l := range layers {
		what := l.id() + l.desc.Digest.String()
		if first[what] == nil {
			first[what] = l
		}
		same = append(same, first[what])
		if first[what] != l {
			continue
		}
		weight := int64(largeLayer)
		if l.known() {
			weight = min(max(l.desc.Size, smallLayer), largeLayer)
		}
		if err := free.Acquire(running, weight); err != nil {
			break // one has failed, and says why
		}
		g.Go(func() error {
			defer free.Release(weight)
			if err := p.layer(running, l); err != nil {
				return fmt.Errorf("layer %s: %w", l.id(), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		if err := p.config(running); err != nil {
			return fmt.Errorf("config %s: %w", p.img.ID, err)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for i, l := range layers {
		l.desc = same[i].desc
	}
	return ctx.Err()
}

func (p *pusher) config(ctx context.Context) error {
	if has, err := p.repo.HasBlob(ctx, p.img.ID); err != nil || has {
		return err
	}
	if held, err := p.s.content.Hold(&p.lease, p.img.ID); err != nil || !held {
		return errors.Join(err, content.ErrNotFound)
	}
	f, err := p.s.content.Open(p.img.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = p.repo.Upload(ctx, p.img.ID, nil, &wholeBytes{f, p.img.ID, int64(len(p.img.Config))}, func(int64) {})
	return err
}

// layer brings one layer there.
func (p *pusher) layer(ctx context.Context, l *pushedLayer) error {
	digest := ""
	if l.known() {
		digest = l.desc.Digest.String()
		if has, err := p.repo.HasBlob(ctx, digest); err != nil {
			return err
		} else if has {
			p.o.Progress.Done(l.id(), LayerExists)
			return nil
		}
	}
	kept := false
	if l.known() {
		var err error
		if kept, err = p.s.holdBlob(ctx, &p.lease, digest); err != nil {
			return err
		}
	}
	if l.plain != nil && !kept {
		return p.make(ctx, l, digest)
	}
	var b registry.Bytes
	if kept {
		f, err := p.s.content.Open(digest)
		if err != nil {
			return err
		}
		defer f.Close()
		b = &wholeBytes{f, digest, l.desc.Size}
	} else {
		f := &fetchedBytes{ctx: ctx, from: repositoriesOf(l.origins, p.o.Progress.Status), digest: digest, size: l.desc.Size}
		defer f.Close()
		b = f
	}
	b = &announced{Bytes: b, begin: func() { p.o.Progress.Started(l.id(), l.desc.Size) }}
	mounted, err := p.repo.Upload(ctx, digest, p.mounts(l), b, p.advanced(l, func(at int64) int64 { return at }))
	if errors.Is(err, registry.ErrRefused) && kept {
		// Is it the registry's mistake, or ours?
		if derr := (&saver{s: p.s}).copyBlob(ctx, digest, io.Discard); derr != nil {
			err = derr
		}
	}
	p.done(l, mounted, err)
	return err
}

// advanced tells progress how far a layer is, of the size that it was told.
func (p *pusher) advanced(l *pushedLayer, of func(int64) int64) func(int64) {
	var before int64
	return func(at int64) {
		if now := of(at); now > before {
			p.o.Progress.Advanced(l.id(), now-before)
			before = now
		}
	}
}

func (p *pusher) done(l *pushedLayer, mounted string, err error) {
	switch {
	case err != nil:
	case mounted != "":
		p.o.Progress.Done(l.id(), LayerDone("mounted from "+mounted))
	default:
		p.o.Progress.Done(l.id(), LayerPushed)
	}
}

// make compresses a layer while it uploads it. digest is what has become of it before, if anything has.
func (p *pusher) make(ctx context.Context, l *pushedLayer, digest string) error {
	if err := p.compact.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.compact.Release(1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &compressing{}
	var row packedRow
	var made chan error // nil where nothing was begun
	b := &announced{Bytes: m, begin: func() {
		made = make(chan error, 1)
		p.o.Progress.Started(l.id(), l.plain.TarSize)
		go func() {
			var err error
			row, err = p.s.compress(ctx, &p.lease, *l.plain, l.packing, m)
			made <- err
		}()
	}}
	mounted, err := p.repo.Upload(ctx, digest, p.mounts(l), b, p.advanced(l, m.progress))
	if err != nil {
		cancel()
	}
	if made != nil {
		if merr := <-made; merr != nil && (err == nil || !errors.Is(merr, context.Canceled)) {
			err = merr // our own trouble explains the registry's
		}
		if err == nil && p.fixed && row.Digest != digest {
			err = fmt.Errorf("it came out as the blob %s, its manifest says %s: %w", row.Digest, digest, content.ErrCorrupt)
		}
		if err == nil {
			l.desc, err = descriptor(l.desc.MediaType, row.Digest, row.Size)
		}
	}
	p.done(l, mounted, err)
	return err
}

// manifest is that of an image which has none: of OCI's kind, the same for the same config and layers.
func (p *pusher) manifest(layers []*pushedLayer) (m registry.Manifest, err error) {
	doc := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	if doc.Config, err = descriptor(types.OCIConfigJSON, p.img.ID, int64(len(p.img.Config))); err != nil {
		return m, err
	}
	for _, l := range layers {
		doc.Layers = append(doc.Layers, l.desc)
	}
	if m.Raw, err = json.Marshal(doc); err != nil {
		return m, err
	}
	m.Digest, m.MediaType = content.Digest(m.Raw), string(types.OCIManifestSchema1)
	if _, err = p.s.content.Put(&p.lease, m.Raw); err == nil {
		err = p.s.snaps.Sync()
	}
	return m, err
}

// record notes where the image is now.
func (p *pusher) record(m registry.Manifest, layers []*pushedLayer) error {
	here := origin{Repository: p.to.Name(), PlainHTTP: p.o.PlainHTTP}
	n := nameRow{ID: p.img.ID, Digest: m.Digest, Resolved: m.Digest, Media: m.MediaType, Size: int64(len(m.Raw))}
	if p.to.Tag == "" {
		n.Resolved = p.name.Resolved // it says its digest itself, which may be an index's
	}
	for _, l := range layers {
		if l.plain == nil {
			continue
		}
		row := packedRow{Digest: l.desc.Digest.String(), Size: l.desc.Size, Sources: []origin{here}}
		if err := p.s.remember(packedKey(l.plain.DiffID, l.packing), row); err != nil {
			return err
		}
	}
	if n == p.name && contains(repositoryNames(p.origins), here.Repository) {
		return nil // as it was
	}
	return p.s.update(func(tx *bbolt.Tx, c *naming) error {
		var row imageRow
		if ok, err := getJSON(tx, bucketImages, p.img.ID, &row); err != nil || !ok {
			return err // it was removed meanwhile, which is not this command's failure
		}
		row.Blobs = union(row.Blobs, []string{m.Digest})
		row.Sources = distinct(append(row.Sources, here))
		if err := putJSON(tx, bucketImages, p.img.ID, &row); err != nil {
			return err
		}
		if err := tx.Bucket(bucketUses).Put(useKey(m.Digest, p.img.ID), nil); err != nil {
			return err
		}
		var now nameRow
		if ok, err := getJSON(tx, bucketNames, p.img.Name, &now); err != nil || !ok || now.ID != p.img.ID {
			return err
		}
		return c.putName(tx, p.img.Name, n, &row)
	})
}

func repositoryNames(list []origin) (names []string) {
	for _, o := range list {
		names = append(names, o.Repository)
	}
	return names
}
