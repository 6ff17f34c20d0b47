package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// ErrNotPaused says that a container is being written to and cannot be stopped for the time of a copy.
var ErrNotPaused = errors.New("cannot be paused")

// Committed is what a container is to an image that is made of it.
type Committed struct {
	Key      string          // of its active snapshot
	Image    string          // the ID of the image that it was made from
	Command  []string        // what it ran: the step of the history says it
	Settings record.Settings // what it was made with
	IDs      *layer.IDs      // whose the owners in its upper are; nil for owners as they are

	// Pause stops all who write in it, until resume is called. nil where they may go on.
	Pause func(context.Context) (resume func() error, err error)
}

// CommitOptions say what the image is called and set to.
type CommitOptions struct {
	Ref     string   // "" for no name
	Author  string   // of the image, and of its last step
	Message string   // of its last step
	Changes []string // Dockerfile instructions
	Warn    func(string)
}

// Commit makes an image of what a container has written, as one layer on those of its image and of earlier commits; with nothing written
// since the last one it is a step without a layer, as for docker commit. The container shows the same files afterwards.
//
// Where nobody has the container's root mounted, its upper becomes the layer as it is: it is read once, for the diff ID and the index, and
// never copied. It is copied where the container runs, where its owners must be translated, where times are bound by SOURCE_DATE_EPOCH,
// and where it has what no layer carries (sockets), which is its to keep.
func (s *Store) Commit(ctx context.Context, from Committed, o CommitOptions) (Image, error) {
	img, err := s.commit(ctx, from, o)
	if err != nil {
		s.makeRoom(ctx, err)
	}
	return img, err
}

func (s *Store) commit(ctx context.Context, from Committed, o CommitOptions) (Image, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	at, err := now()
	if err != nil {
		return Image{}, err
	}
	var lease snapshot.Lease
	defer lease.Close()
	if from.Image == "" {
		return Image{}, invalid("it was made from a plain directory, and an image cannot stand on one (`layerctl import` makes an image of the directory)")
	}
	base, c, err := s.derive(ctx, &lease, from.Image)
	if errors.Is(err, ErrNotFound) {
		return Image{}, fmt.Errorf("the image that it was made from: %w", err)
	}
	if err != nil {
		return Image{}, err
	}
	c.verb = "commit"
	if o.Ref != "" {
		if c.ref, err = localName(o.Ref); err != nil {
			return Image{}, err
		}
	}
	c.config.Created, c.config.Author, c.config.Container = at.created(), o.Author, ""
	settings(&c.config.Config, from.Settings)
	if err := changes(&c.config.Config, o.Changes); err != nil {
		return Image{}, err
	}
	captured, err := s.snaps.Capture(ctx, from.Key)
	if err != nil {
		return Image{}, err
	}
	defer captured.Close()
	if err := s.earlier(ctx, &lease, c, base.Chain, captured.Parent); err != nil {
		return Image{}, err
	}
	if len(c.layers) >= snapshot.MaxLowers {
		return Image{}, invalid("it has %d layers, and the kernel stacks no more (`layerctl squash` makes fewer of them)", len(c.layers))
	}
	same, err := captured.Untouched()
	if err != nil {
		return Image{}, err
	}
	step, err := json.Marshal(v1.History{Author: o.Author, Created: at.created(), CreatedBy: strings.Join(from.Command, " "), Comment: o.Message, EmptyLayer: same})
	if err != nil {
		return Image{}, err
	}
	if same {
		c.history = append(c.history, step)
		return s.compose(ctx, &lease, c)
	}
	m := &committing{s: s, lease: &lease, captured: captured, from: from, step: step, opt: layer.CopyOptions{IDs: from.IDs, NotAfter: at.bound, Warn: o.Warn}}
	if err := m.run(ctx); err != nil {
		return Image{}, err
	}
	c.layers, c.history = append(c.layers, composedLayer{Layer{TarSize: m.tarSize}, m.tree}), append(c.history, step)
	return s.compose(ctx, &lease, c)
}

// settings puts into an image's config what a container was made with.
func settings(c *v1.Config, s record.Settings) {
	c.Env, c.Entrypoint, c.Cmd, c.User, c.WorkingDir, c.StopSignal, c.Labels = s.Env, s.Entrypoint, s.Cmd, s.User, s.WorkingDir, s.StopSignal, s.Labels
	c.OnBuild = nil // it was for those who build on the image, and this is what one of them has built
	set := func(list []string) map[string]struct{} {
		if len(list) == 0 {
			return nil
		}
		m := map[string]struct{}{}
		for _, name := range list {
			m[name] = struct{}{}
		}
		return m
	}
	c.Volumes, c.ExposedPorts = set(s.Volumes), set(s.ExposedPorts)
}

// commitLabel is the label of a committed snapshot that was a container's upper. The container's later commits stand on it, whatever has
// become of the image.
const commitLabel = "layerctl/commit"

type commitNote struct {
	Step    json.RawMessage // of the history
	TarSize int64
}

// earlier adds the layers that earlier commits of the container have put under its upper.
func (s *Store) earlier(ctx context.Context, l *snapshot.Lease, c *composed, base, top string) error {
	if top == base {
		return nil
	}
	trees, err := s.snaps.Chain(ctx, top)
	if err != nil {
		return err
	}
	chain := base
	for _, t := range trees[min(len(trees), len(c.layers)):] {
		chain = chainID(chain, t.DiffID)
		info, err := s.snaps.Stat(ctx, chain)
		if err == nil {
			err = s.snaps.Hold(l, t)
		}
		if err != nil {
			return fmt.Errorf("the layer of an earlier commit: %w", err)
		}
		var note commitNote
		if err := json.Unmarshal([]byte(info.Labels[commitLabel]), &note); err != nil {
			return fmt.Errorf("what an earlier commit has noted of the layer %s: %w: %w", t.DiffID, ErrCorrupt, err)
		}
		c.layers, c.history = append(c.layers, composedLayer{Layer{TarSize: note.TarSize}, t}), append(c.history, note.Step)
	}
	return nil
}

// committing is an upper on its way to a tree.
type committing struct {
	s        *Store
	lease    *snapshot.Lease
	captured *snapshot.Captured
	from     Committed
	step     json.RawMessage
	opt      layer.CopyOptions
	staging  *snapshot.Staging

	tree    snapshot.Tree
	tarSize int64
}

func (m *committing) run(ctx context.Context) (err error) {
	if m.staging, err = m.s.snaps.NewStaging(); err != nil {
		return err
	}
	m.lease.Keep(closer(m.staging.Discard))
	if !m.captured.Idle || m.opt.IDs != nil || !m.opt.NotAfter.IsZero() {
		if err := m.copy(ctx); err != nil {
			return err
		}
		res, err := m.describeCopy(ctx)
		if err != nil {
			return err
		}
		return m.put(ctx, res)
	}
	res, err := layer.Describe(ctx, m.captured.FS, m.staging.Dir, m.opt.Warn)
	if err != nil {
		return err
	}
	failpoint.Hit("commit/described")
	if res.Left > 0 { // the container's to keep
		if err := m.copy(ctx); err != nil {
			return err
		}
		return m.put(ctx, res)
	}
	if here, err := m.find(ctx, res); here || err != nil {
		return err
	}
	note, err := json.Marshal(commitNote{m.step, res.TarSize})
	if err != nil {
		return err
	}
	m.tree, err = m.captured.Move(ctx, m.lease, m.staging, snapshot.NewLayer{Name: chainID(m.captured.Parent, res.DiffID), DiffID: res.DiffID,
		Usage: snapshot.Usage{Inodes: res.Inodes, Size: res.Size}, Labels: map[string]string{commitLabel: string(note)}})
	if errors.Is(err, snapshot.ErrExists) { // somebody has made the same layer meanwhile
		if here, ferr := m.find(ctx, res); here || ferr != nil {
			return ferr
		}
	}
	return err
}

// copy fills the staging with a copy of the upper, in which nobody writes meanwhile, as far as that was asked for.
func (m *committing) copy(ctx context.Context) (err error) {
	resume := func() error { return nil }
	if m.from.Pause != nil && !m.captured.Idle {
		if resume, err = m.from.Pause(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrNotPaused, err)
		}
	}
	opt := m.opt
	if m.captured.Idle {
		opt.Warn = nil // Describe has told it
	}
	err = layer.Copy(ctx, m.captured.FS, m.staging.Dir, opt)
	if rerr := resume(); err == nil {
		err = rerr
	}
	if err == nil && m.captured.Gone() {
		err = invalid("it was removed meanwhile")
	}
	failpoint.Hit("commit/copied")
	return err
}

func (m *committing) describeCopy(ctx context.Context) (layer.Result, error) {
	fs, err := os.Open(filepath.Join(m.staging.Path(), "fs"))
	if err != nil {
		return layer.Result{}, err
	}
	defer fs.Close()
	return layer.Describe(ctx, fs, m.staging.Dir, m.opt.Warn)
}

// find takes the layer's tree, where it is in the store already: the one that the chain has, which may be settled, or one that stands alone.
func (m *committing) find(ctx context.Context, res layer.Result) (bool, error) {
	m.tarSize = res.TarSize
	chain, err := m.s.snaps.Chain(ctx, chainID(m.captured.Parent, res.DiffID))
	if err == nil {
		m.tree = chain[len(chain)-1]
		err = m.s.snaps.Hold(m.lease, m.tree)
	}
	if !errors.Is(err, snapshot.ErrNotFound) {
		return err == nil, err
	}
	m.tree, err = m.s.findTree(ctx, m.lease, res.DiffID, "")
	return m.tree.ID != "", err
}

// put makes a tree of the staging.
func (m *committing) put(ctx context.Context, res layer.Result) (err error) {
	if here, err := m.find(ctx, res); here || err != nil {
		return err
	}
	m.tree, err = m.s.keepTree(ctx, m.lease, m.staging, res, "")
	return err
}
