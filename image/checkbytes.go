package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
)

const (
	smallBlob   = 1 << 20 // a manifest or config, in all likelihood: read even by a quick check
	mostPerTree = 100     // differences of one layer that are told
)

// byteChecker reads blobs and trees, several at once.
type byteChecker struct {
	s       *Store
	r       *CheckReport
	level   CheckLevel
	unnamed int // blobs that nothing names

	mu    sync.Mutex
	found []Finding
}

func (c *byteChecker) find(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = append(c.found, f)
}

func (c *byteChecker) count(blobs int64, v layer.Verified, read int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Blobs += blobs
	c.r.Names += v.Entries
	c.r.Files += v.Files
	c.r.Bytes += read
}

func (c *byteChecker) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(runtime.GOMAXPROCS(0), 2))
	need := c.needed()
	names, err := os.ReadDir(filepath.Dir(c.s.content.Path("x")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("check blobs: %w", err)
	}
	for _, e := range names {
		digest := "sha256:" + e.Name()
		if _, ok := need[digest]; !ok && len(e.Name()) == 64 {
			c.unnamed++
			need[digest] = -1
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(need)) {
		g.Go(func() error { return c.blob(ctx, digest, need[digest]) })
	}
	for _, t := range c.r.snaps.Trees {
		if t.DiffID != "" && c.level != CheckQuick {
			g.Go(func() error { return c.tree(ctx, t) })
		}
	}
	return g.Wait()
}

// needed are the blobs that rows name, with their sizes, or -1 where no row says it.
func (c *byteChecker) needed() map[string]int64 {
	need := map[string]int64{}
	for _, row := range c.r.state.images {
		for _, b := range row.Blobs {
			need[b] = -1
		}
	}
	for _, row := range c.r.state.images {
		for _, l := range row.Layers {
			if l.Digest != "" {
				need[l.Digest] = l.BlobSize
			}
		}
		for _, b := range row.Absent {
			if !c.s.content.Has(b) {
				delete(need, b)
			}
		}
	}
	for _, n := range c.r.state.names {
		if _, ok := need[n.Digest]; ok && n.Digest != "" {
			need[n.Digest] = n.Size
		}
	}
	return need
}

func (c *byteChecker) blob(ctx context.Context, digest string, size int64) error {
	users := c.r.state.users(digest)
	f := Finding{File: filepath.Join(filepath.Base(c.s.dir), "blobs/sha256", strings.TrimPrefix(digest, "sha256:")), Images: c.r.state.namesOf(users...), blob: digest}
	for _, id := range users {
		for _, l := range c.r.state.images[id].Layers {
			if l.Digest == digest {
				f.Layer = l.DiffID
			}
		}
	}
	info, err := os.Lstat(c.s.content.Path(digest))
	switch {
	case len(users) == 0 && errors.Is(err, fs.ErrNotExist):
		return nil // nothing names it, and it has gone its way
	case err != nil:
		f.Problem = "is missing"
		if !errors.Is(err, fs.ErrNotExist) {
			f.Problem = "cannot be read: " + unwrapPath(err).Error()
		}
	case !info.Mode().IsRegular():
		f.Problem = "is no file"
	case size >= 0 && info.Size() != size:
		f.Problem = fmt.Sprintf("has %d bytes, should have %d", info.Size(), size)
	case c.level == CheckQuick && info.Size() > smallBlob:
	default:
		got, err := c.hash(ctx, digest)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			f.Problem = "cannot be read: " + unwrapPath(err).Error()
		} else if got != digest {
			f.Problem = "is damaged: its digest is " + got
		}
		c.count(0, layer.Verified{}, info.Size())
	}
	switch {
	case f.Problem == "":
	case c.r.state.vouched(digest):
		c.find(f)
	default:
		c.mu.Lock()
		c.r.leavings = append(c.r.leavings, digest)
		c.mu.Unlock()
	}
	if len(users) > 0 {
		c.count(1, layer.Verified{}, 0)
	}
	return nil
}

func (c *byteChecker) hash(ctx context.Context, digest string) (string, error) {
	b, err := os.Open(c.s.content.Path(digest))
	if err != nil {
		return "", err
	}
	defer b.Close()
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := b.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// rightNow says whether a blob is whole after all: it was put there meanwhile.
func (c *byteChecker) rightNow(digest string) bool {
	got, err := c.hash(context.Background(), digest)
	return err == nil && got == digest
}

// tree compares a tree with its index. A layer that was made here is its own witness: packed again it must have its diff ID.
func (c *byteChecker) tree(ctx context.Context, t snapshot.CheckedTree) error {
	if _, err := os.Lstat(filepath.Join(t.Dir, "fs")); err != nil {
		return nil // told by the snapshots' own check
	}
	scratch := filepath.Join(filepath.Dir(filepath.Dir(t.Dir)), "staging")
	images := c.r.state.onChains(t.Chains)
	told := 0
	tell := func(path, problem string) {
		f := Finding{Layer: t.DiffID, Path: path, Problem: problem, Images: images, Snapshots: t.Keys, tree: t.ID}
		if path == "" {
			f.File = "snapshots/trees/" + t.ID + "/index"
		}
		if told++; told == mostPerTree {
			f.Problem += ", and there is more that is not told"
		}
		if told <= mostPerTree {
			c.find(f)
		}
	}
	local := t.Settling == "" && c.r.state.local(t.DiffID)
	v, err := layer.Verify(ctx, t.Dir, layer.VerifyOptions{Content: c.level == CheckFull && !local, Scratch: scratch}, tell)
	if err != nil {
		return err
	}
	if c.level != CheckFull {
		c.count(0, v, 0)
		return nil
	}
	if local {
		if got, err := packedID(ctx, t.Dir); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil || got != t.DiffID {
			if v, err = layer.Verify(ctx, t.Dir, layer.VerifyOptions{Content: true, Scratch: scratch}, func(path, problem string) {
				if strings.Contains(problem, "content") || strings.Contains(problem, "cannot be read") {
					tell(path, problem)
				}
			}); err != nil {
				return err
			}
			if told == 0 {
				tell(".", "packed again it has the diff ID "+got)
			}
		}
	} else if told == 0 {
		if problem, err := c.settling(t); err != nil {
			return err
		} else if problem != "" {
			tell(".", problem)
		}
	}
	c.count(0, v, v.Bytes)
	return nil
}

// local says whether a layer was made here: some image has it, and none has it from a blob.
func (st *rows) local(diffID string) bool {
	known := false
	for _, row := range st.images {
		for _, l := range row.Layers {
			if l.DiffID == diffID && l.Digest != "" {
				return false
			}
			known = known || l.DiffID == diffID
		}
	}
	return known
}

func packedID(ctx context.Context, dir string) (string, error) {
	fs, err := os.Open(filepath.Join(dir, "fs"))
	if err != nil {
		return "", err
	}
	defer fs.Close()
	sum := sha256.New()
	if err := layer.Pack(ctx, fs, sum, layer.PackOptions{Marks: true}); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// settling plans again what the layer needs of the layers below, for one of its chains, and compares it with what was done.
func (c *byteChecker) settling(t snapshot.CheckedTree) (string, error) {
	if standsAlone(t.Dir) {
		if t.Settling != "" {
			return "it was settled for the layers below, and does not say why", nil
		}
		return "", nil
	}
	below, ok := c.below(t.Chains[0])
	if !ok {
		return "", nil // told elsewhere
	}
	stack, err := snapshot.OpenStack(below)
	if err != nil {
		return "", nil
	}
	defer stack.Close()
	plan, err := layer.PlanSettlement(t.Dir, stack)
	if err != nil {
		return "what it needs of the layers below cannot be found: " + err.Error(), nil
	}
	if plan.Digest() != t.Settling {
		return "it is settled for other layers than those below it", nil
	}
	return "", nil
}

// below are the directories of the trees under a snapshot's own, highest first.
func (c *byteChecker) below(chain string) (dirs []string, ok bool) {
	at, known := c.r.snaps.Chains[chain]
	for known && at.Parent != "" && len(dirs) <= len(c.r.snaps.Chains) {
		if at, known = c.r.snaps.Chains[at.Parent]; known {
			dirs = append(dirs, filepath.Join(filepath.Dir(c.s.dir), "snapshots", "trees", at.Tree, "fs"))
		}
	}
	return dirs, known
}
