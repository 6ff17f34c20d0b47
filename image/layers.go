package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// puller brings the layers of one image: each is fetched, kept as a blob, verified and unpacked as one stream, several at once.
type puller struct {
	s        *Store
	src      source
	progress Progress
	manifest *manifest
	config   v1.ConfigFile
	layers   []*pulledLayer // one a distinct layer; in order of first use
	lease    snapshot.Lease // until the image has its name

	came      LayerDone // what is said of a layer that was fetched
	keepBlobs bool      // the blobs of layers that are here, too: an archive is not there to be asked again
	loose     bool      // there is no manifest: a layer whose blob can be made of its tree needs none
	only      *platform // what the image must be for; nil for anything
}

// pulledLayer is a layer on its way: a staging that is being filled, or a tree that was there.
type pulledLayer struct {
	desc    v1.Descriptor
	diffID  string
	ingest  *content.Ingest
	staging *snapshot.Staging
	result  layer.Result
	tree    *snapshot.Tree // set when the layer has a tree in the store, settled for whatever chain
	made    []*snapshot.NewTree
	local   bool // no blob is kept
	kept    bool // the blob is here, and right
}

func (p *puller) close() {
	for _, l := range p.layers {
		l.release()
	}
	p.lease.Close()
}

func (l *pulledLayer) release() {
	if l.ingest != nil {
		l.ingest.Close()
		l.ingest = nil
	}
}

// chainID is the name of the stack of diffID on parent (image-spec, config.md, "Layer ChainID").
func chainID(parent, diffID string) string {
	if parent == "" {
		return diffID
	}
	sum := sha256.Sum256([]byte(parent + " " + diffID))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// run brings everything and commits the chain. The row that it returns is true, and on disk is everything that it names.
func (p *puller) run(ctx context.Context) (*imageRow, error) {
	// Most of the memory in use are buffers, which the collector need not look into, so it may come twice as often: 10 MB less at the peak,
	// and no difference in time.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	m := p.manifest
	raw, err := p.fetchConfig(ctx)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &p.config); err != nil {
		return nil, fmt.Errorf("its config does not parse: %w: %w", content.ErrCorrupt, err)
	}
	if got, want := len(p.config.RootFS.DiffIDs), len(m.parsed.Layers); got != want {
		return nil, fmt.Errorf("its config names %d layers, its manifest %d: %w", got, want, content.ErrCorrupt)
	}
	if len(m.parsed.Layers) == 0 {
		return nil, invalid("it has no layers")
	}
	if its := (platform{p.config.OS, p.config.Architecture, p.config.Variant}); p.only != nil && !p.only.matches(its) {
		return nil, fmt.Errorf("it has no image for %s, only for %s: %w", p.only, its, ErrNotFound)
	}
	blobs := []string{m.configDigest}
	for _, b := range [][]byte{m.raw, m.index} {
		if b == nil {
			continue
		}
		digest, err := p.s.content.Put(&p.lease, b)
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, digest)
	}
	seen := map[string]*pulledLayer{}
	for i, d := range m.parsed.Layers {
		diffID := p.config.RootFS.DiffIDs[i].String()
		if l := seen[diffID]; l == nil {
			l = &pulledLayer{desc: d, diffID: diffID}
			seen[diffID] = l
			p.layers = append(p.layers, l)
		}
	}
	failpoint.Hit("pull/manifests")
	if err := p.bring(ctx); err != nil {
		return nil, err
	}
	failpoint.Hit("pull/brought")
	if p.keepBlobs {
		if err := p.keep(ctx); err != nil {
			return nil, err
		}
	}
	chain, layers, err := p.settle(ctx)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("pull/settled")
	if err := p.s.snaps.AdoptChain(ctx, &p.lease, chain); err != nil {
		return nil, err
	}
	row := rowOf(&p.config, layers, blobs)
	row.Absent = absent(p.s.content, layers)
	return row, nil
}

// absent are the digests of layers whose blobs are not here.
func absent(c *content.Store, layers []Layer) (list []string) {
	for _, l := range layers {
		if l.Digest != "" && !c.Has(l.Digest) {
			list = append(list, l.Digest)
		}
	}
	return list
}

// fetchConfig brings the config, whose digest is the image's ID.
func (p *puller) fetchConfig(ctx context.Context) ([]byte, error) {
	want, d := p.manifest.configDigest, p.manifest.parsed.Config
	if here, err := p.s.content.Hold(&p.lease, want); err != nil {
		return nil, err
	} else if here {
		if b, err := p.s.content.Read(want); err == nil {
			return b, nil
		}
	}
	b, err := readSmall(ctx, p.src, want, d.Size)
	if err != nil {
		return nil, fmt.Errorf("fetch its config: %w", err)
	}
	_, err = p.s.content.Put(&p.lease, b)
	return b, err
}

// bring sees to it that every layer is in a staging of ours or a tree in the store. Layers that another process is bringing come last:
// ours are put into the store and let go first, so nobody waits for somebody who waits for him.
func (p *puller) bring(ctx context.Context) error {
	var todo, busy []*pulledLayer
	trees, err := p.lookup(ctx, p.layers)
	if err != nil {
		return err
	}
	for _, l := range p.layers {
		if found, err := p.find(ctx, l, trees[l.diffID]); err != nil {
			return err
		} else if found {
			continue
		}
		in, err := p.s.content.TryIngest(l.desc.Digest.String(), l.desc.Size)
		if errors.Is(err, content.ErrBusy) {
			busy = append(busy, l)
			continue
		}
		if err != nil {
			return err
		}
		l.ingest = in
		todo = append(todo, l)
	}
	if err := p.fetchAll(ctx, todo); err != nil {
		return err
	}
	if len(busy) == 0 {
		return nil
	}
	if err := p.publish(ctx); err != nil {
		return err
	}
	for _, l := range p.layers {
		l.release()
	}
	for _, l := range busy {
		p.progress.Status(l.desc.Digest.String() + ": waiting for another process that is pulling it")
		in, err := p.s.content.WaitIngest(ctx, l.desc.Digest.String(), l.desc.Size, true)
		if err != nil {
			return err
		}
		l.ingest = in
		trees, err := p.lookup(ctx, []*pulledLayer{l})
		if err != nil {
			return err
		}
		found, err := p.find(ctx, l, trees[l.diffID])
		if err == nil && !found {
			err = p.fetchAll(ctx, []*pulledLayer{l})
		}
		if err == nil {
			err = p.publish(ctx)
		}
		l.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// lookup reads the trees of layers, by their diff IDs.
func (p *puller) lookup(ctx context.Context, layers []*pulledLayer) (map[string][]snapshot.Tree, error) {
	var diffIDs []string
	for _, l := range layers {
		diffIDs = append(diffIDs, l.diffID)
	}
	trees, err := p.s.snaps.LookupTrees(ctx, diffIDs...)
	byDiffID := map[string][]snapshot.Tree{}
	for _, t := range trees {
		byDiffID[t.DiffID] = append(byDiffID[t.DiffID], t)
	}
	return byDiffID, err
}

// find takes the layer's tree, where it has one in the store. Whether it was settled for the right chain is not asked here: settle does
// that when it knows what lies below.
func (p *puller) find(ctx context.Context, l *pulledLayer, trees []snapshot.Tree) (bool, error) {
	// The image will name the blob, whether the layer's tree is here without it or not.
	kept, err := p.s.holdBlob(ctx, &p.lease, l.desc.Digest.String())
	if err != nil {
		return false, err
	}
	l.kept = kept
	for _, t := range trees {
		if t.Settling != "" && !kept {
			continue
		}
		err := p.s.snaps.Hold(&p.lease, t)
		if errors.Is(err, snapshot.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		l.tree = &t
		p.progress.Done(l.desc.Digest.String(), LayerExists)
		return true, nil
	}
	return false, nil
}

// How much of a pull is under way at once, in bytes of blobs. Large layers are as many as there are cores: each is a pipeline that can
// keep two busy, and takes some 10 MB of buffers. Of small ones, which mostly wait for the registry, it is up to four times as many.
const (
	largeLayer = 16 << 20
	smallLayer = largeLayer / 4
)

func (p *puller) fetchAll(ctx context.Context, layers []*pulledLayer) error {
	g, running := errgroup.WithContext(ctx)
	free := semaphore.NewWeighted(largeLayer * int64(min(max(runtime.GOMAXPROCS(0), 2), 6)))
	for _, l := range layers {
		weight := min(max(l.desc.Size, smallLayer), largeLayer)
		if err := free.Acquire(running, weight); err != nil {
			break // one has failed, and says why
		}
		g.Go(func() error {
			defer free.Release(weight)
			if err := p.fetch(running, l); err != nil {
				return fmt.Errorf("layer %s: %w", l.desc.Digest, err)
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if ctx.Err() != nil || errors.Is(err, ErrUnavailable) {
		// It is the network that failed, or the user who wants to go on later. Of a full disk nothing is kept.
		for _, l := range layers {
			l.ingest.Keep()
		}
	}
	return err
}

// fetch brings a layer into a staging. What an earlier pull had kept of it is not downloaded again, unless it turns out to be damaged:
// nobody had synced it.
func (p *puller) fetch(ctx context.Context, l *pulledLayer) error {
	again := false
	return untilRight(p.src, l.desc.Digest.String(), func() error {
		for {
			if again {
				if err := errors.Join(l.ingest.Restart(), l.staging.Discard()); err != nil {
					return err
				}
			}
			again = true
			if kept, err := p.fetchOnce(ctx, l); !kept || !isCorrupt(err) {
				return err
			}
		}
	})
}

// fetchOnce downloads a layer, or reads its blob where that is here, and unpacks it meanwhile. kept says that its beginning came from an
// earlier pull.
func (p *puller) fetchOnce(ctx context.Context, l *pulledLayer) (kept bool, err error) {
	digest := l.desc.Digest.String()
	st, err := p.s.snaps.NewStaging()
	if err != nil {
		return false, err
	}
	l.staging = st
	p.lease.Keep(closer(st.Discard))
	if here, err := p.s.holdBlob(ctx, &p.lease, digest); err != nil {
		return false, err
	} else if here {
		l.kept = true
		return false, p.reapply(ctx, l, st)
	}
	p.progress.Started(digest, l.desc.Size)
	body, kept, err := p.openBlob(ctx, l)
	if err != nil {
		return kept, err
	}
	defer body.Close()
	if f, ok := body.(*content.Spooled); ok {
		if err := l.ingest.Take(f); err != nil {
			return false, err
		}
	}
	keeping := &gate{w: l.ingest}
	in := &counted{r: io.TeeReader(body, keeping), report: func(n int64) { p.progress.Advanced(digest, n) }}
	if l.result, err = layer.Apply(ctx, in, st.Dir, layer.Options{}); err == nil {
		// The stream may end before the blob does: what is left belongs to the digest.
		_, err = io.Copy(io.Discard, in)
	}
	keeping.shut()
	if err == nil && p.loose && l.result.DiffID == l.diffID && l.result.Needs == 0 {
		l.local, err = p.repacks(ctx, l, st.Path())
	}
	if err == nil && !l.local {
		err = l.ingest.Commit(&p.lease)
		l.kept = err == nil
	}
	if err == nil && l.result.DiffID != l.diffID {
		err = itself{fmt.Errorf("unpacks to the diff ID %s, the config says %s: %w", l.result.DiffID, l.diffID, content.ErrCorrupt)}
	}
	if err == nil {
		p.progress.Done(digest, p.came)
	}
	return kept, err
}

// reapply unpacks a layer from the blob that the store keeps.
func (p *puller) reapply(ctx context.Context, l *pulledLayer, st *snapshot.Staging) error {
	f, err := p.s.content.Open(l.desc.Digest.String())
	if err != nil {
		return err
	}
	defer f.Close()
	l.result, err = layer.Apply(ctx, f, st.Dir, layer.Options{})
	if err == nil && l.result.DiffID != l.diffID {
		err = fmt.Errorf("the kept blob unpacks to %s, the config says %s: %w", l.result.DiffID, l.diffID, content.ErrCorrupt)
	}
	if err == nil {
		p.progress.Done(l.desc.Digest.String(), LayerExists)
	}
	return err
}

// publish puts the layers that stand alone into the store.
func (p *puller) publish(ctx context.Context) error {
	var ready []*snapshot.NewTree
	var whose []*pulledLayer
	for _, l := range p.layers {
		if l.staging == nil || l.tree != nil || l.result.Needs > 0 || l.result.DiffID == "" {
			continue
		}
		ready = append(ready, newTree(l, l.staging, ""))
		whose = append(whose, l)
	}
	if err := p.s.snaps.PutTrees(ctx, &p.lease, ready); err != nil {
		return err
	}
	for i, l := range whose {
		l.tree = &ready[i].Tree
	}
	return nil
}

func newTree(l *pulledLayer, st *snapshot.Staging, settling string) *snapshot.NewTree {
	return &snapshot.NewTree{Staging: st, DiffID: l.diffID, Settling: settling, Usage: snapshot.Usage{Inodes: l.result.Inodes, Size: l.result.Size}}
}

// settle goes up the chain and makes each layer right for what is below it, then puts everything that is new into the store at once.
func (p *puller) settle(ctx context.Context) ([]snapshot.ChainLayer, []Layer, error) {
	byDiffID := map[string]*pulledLayer{}
	for _, l := range p.layers {
		byDiffID[l.diffID] = l
	}
	trees, err := p.lookup(ctx, p.layers)
	if err != nil {
		return nil, nil, err
	}
	below, err := snapshot.OpenStack(nil)
	if err != nil {
		return nil, nil, err
	}
	defer below.Close()
	var stacked []*snapshot.NewTree
	for i, d := range p.manifest.parsed.Layers {
		l := byDiffID[p.config.RootFS.DiffIDs[i].String()]
		t, err := p.settled(ctx, l, trees[l.diffID], below)
		if err == nil {
			err = below.Push(filepath.Join(dirOf(t), "fs"))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		stacked = append(stacked, t)
	}
	var fresh []*snapshot.NewTree
	for _, l := range p.layers {
		fresh = append(fresh, l.made...)
	}
	if len(fresh) > 0 {
		err = p.s.snaps.PutTrees(ctx, &p.lease, fresh)
	} else {
		err = p.s.snaps.Sync() // manifests and configs may be new where no tree is
	}
	if err != nil {
		return nil, nil, err
	}
	var chain []snapshot.ChainLayer
	var layers []Layer
	parent := ""
	for i, d := range p.manifest.parsed.Layers {
		tree := stacked[i].Tree
		name := chainID(parent, tree.DiffID)
		chain = append(chain, snapshot.ChainLayer{Name: name, Parent: parent, Tree: tree})
		l := byDiffID[tree.DiffID]
		made := Layer{DiffID: tree.DiffID, TarSize: l.result.TarSize, Size: tree.Usage.Size, Chain: name}
		if !l.local {
			made.Digest, made.MediaType, made.BlobSize = d.Digest.String(), string(d.MediaType), d.Size
		}
		layers = append(layers, made)
		parent = name
	}
	return chain, layers, nil
}

// dirOf is where a tree lies, whether it is in the store yet or not.
func dirOf(t *snapshot.NewTree) string {
	if t.Tree.Dir != "" {
		return t.Tree.Dir
	}
	return t.Staging.Path()
}

// settled returns the tree of a layer that is right over the trees below: one of those in the store, or one that is made here and goes
// into the store with the others.
func (p *puller) settled(ctx context.Context, l *pulledLayer, trees []snapshot.Tree, below *snapshot.Stack) (*snapshot.NewTree, error) {
	dir := ""
	if l.tree != nil {
		dir = l.tree.Dir
	} else if len(l.made) > 0 {
		dir = dirOf(l.made[0])
	} else {
		dir = l.staging.Path()
	}
	plan := &layer.Settlement{}
	if !standsAlone(dir) {
		var err error
		if plan, err = layer.PlanSettlement(dir, below); err != nil {
			return nil, err
		}
	}
	settling := plan.Digest()
	for _, n := range l.made {
		if n.Settling == settling {
			return n, nil
		}
	}
	for _, t := range trees {
		if t.Settling != settling {
			continue
		}
		err := p.s.snaps.Hold(&p.lease, t)
		if errors.Is(err, snapshot.ErrNotFound) {
			continue
		}
		return &snapshot.NewTree{Tree: t}, err
	}
	st := l.staging
	if st == nil || l.tree != nil || len(l.made) > 0 {
		// The tree that is here was settled for another chain; this one gets its own, from the blob.
		var err error
		if st, err = p.s.snaps.NewStaging(); err != nil {
			return nil, err
		}
		p.lease.Keep(closer(st.Discard))
		if err := p.reapply(ctx, l, st); err != nil {
			return nil, err
		}
	}
	if err := plan.Execute(st.Path(), below); err != nil {
		return nil, err
	}
	n := newTree(l, st, settling)
	l.made = append(l.made, n)
	return n, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// gate passes what is written on until it is shut. An Apply that failed may have left a read behind which is still on its way, and the
// ingest that it would write to is about to be closed, or begun anew.
type gate struct {
	mu sync.Mutex
	w  io.Writer
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w == nil {
		return 0, io.ErrClosedPipe
	}
	return g.w.Write(b)
}

func (g *gate) shut() {
	g.mu.Lock()
	g.w = nil
	g.mu.Unlock()
}

// counted reports what passes.
type counted struct {
	r      io.Reader
	report func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.report(int64(n))
	return n, err
}
