package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// ImportSource is what an image is made of: a directory or a tarball at Path, or a tarball from Reader.
type ImportSource struct {
	Path   string
	Reader io.Reader
}

// ImportOptions say what the image is called and set to.
type ImportOptions struct {
	Ref      string   // "" is named after the source
	Changes  []string // Dockerfile instructions
	Message  string
	Platform string // "" is this host's
	Warn     func(string)
}

// Import makes a one-layer image of a directory or a tarball. The layer's diff ID is that of the canonical tar of the tree (package
// layer), so the same tree gives the same layer whatever it came as; a layer that is here already is not stored again.
func (s *Store) Import(ctx context.Context, src ImportSource, o ImportOptions) (Image, error) {
	img, err := s.importImage(ctx, src, o)
	if err != nil {
		s.makeRoom(ctx, err)
		what := src.Path
		if src.Reader != nil {
			what = "from stdin"
		}
		return Image{}, fmt.Errorf("import %s: %w", what, err)
	}
	return img, nil
}

func (s *Store) importImage(ctx context.Context, src ImportSource, o ImportOptions) (Image, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if src.Reader == nil {
		if err := s.refuse(src.Path); err != nil {
			return Image{}, err
		}
	}
	ref, err := importName(src, o.Ref)
	if err != nil {
		return Image{}, err
	}
	p, err := parsePlatform(o.Platform)
	if err != nil {
		return Image{}, err
	}
	at, err := now()
	if err != nil {
		return Image{}, err
	}
	c := &composed{verb: "import", ref: ref, config: v1.ConfigFile{OS: p.os, Architecture: p.arch, Variant: p.variant, Created: at.created()}}
	if err := changes(&c.config.Config, o.Changes); err != nil {
		return Image{}, err
	}
	var lease snapshot.Lease
	defer lease.Close()
	tree, tarSize, err := s.importTree(ctx, &lease, src, at.bound, o.Warn)
	if err != nil {
		return Image{}, err
	}
	c.layers = []composedLayer{{Layer{TarSize: tarSize}, tree}}
	// The source's name is not told: the same tree makes the same image, wherever it lay.
	if err := c.step("layerctl import", o.Message, false); err != nil {
		return Image{}, err
	}
	return s.compose(ctx, &lease, c)
}

// importName is the name that the user gave, or one made of the source's: ./debian becomes localhost/debian:latest.
func importName(src ImportSource, given string) (reference.Ref, error) {
	if given != "" {
		return localName(given)
	}
	if src.Reader != nil {
		return reference.Local("imported")
	}
	abs, err := filepath.Abs(src.Path)
	if err != nil {
		return reference.Ref{}, err
	}
	base := strings.ToLower(filepath.Base(abs))
	for _, suffix := range []string{".gz", ".tgz", ".zst", ".xz", ".bz2", ".tar"} {
		base = strings.TrimSuffix(base, suffix)
	}
	ref, err := reference.Parse("localhost/" + base)
	if err != nil {
		return ref, invalid("its name, %q, does not make an image's name: give one, as in `import SOURCE NAME`", base)
	}
	return ref, nil
}

// importTree puts the source into the store as a tree, which the lease holds, and says how long its canonical tar is.
func (s *Store) importTree(ctx context.Context, l *snapshot.Lease, src ImportSource, notAfter time.Time, warn func(string)) (snapshot.Tree, int64, error) {
	st, err := s.snaps.NewStaging()
	if err != nil {
		return snapshot.Tree{}, 0, err
	}
	l.Keep(closer(st.Discard))
	opt := layer.Options{Warn: warn, NotAfter: notAfter}
	var res layer.Result
	switch {
	case src.Reader != nil:
		res, err = s.importTar(ctx, src.Reader, st, opt)
	default:
		var f *os.File
		if f, err = os.Open(src.Path); err != nil {
			return snapshot.Tree{}, 0, unwrapPath(err)
		}
		defer f.Close()
		info, serr := f.Stat()
		switch {
		case serr != nil:
			err = serr
		case info.IsDir():
			// It is copied as the stream of its canonical tar.
			res, err = unpack(ctx, st, opt, func(w io.Writer) error {
				return layer.Pack(ctx, f, w, layer.PackOptions{Warn: warn, NotAfter: notAfter})
			})
		case info.Mode().IsRegular() || info.Mode()&os.ModeNamedPipe != 0:
			res, err = s.importTar(ctx, f, st, opt)
		default:
			err = invalid("it is neither a directory nor a tarball")
		}
	}
	if err != nil {
		return snapshot.Tree{}, 0, err
	}
	failpoint.Hit("import/applied")
	tree, err := s.keepTree(ctx, l, st, res, "")
	return tree, res.TarSize, err
}

// unwrapPath leaves the path out of an error that says it before already.
func unwrapPath(err error) error {
	if err == nil {
		return nil
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// unpack fills a staging with the tree of the tar that pack writes, so that the tree and its diff ID are made in one pass.
func unpack(ctx context.Context, st *snapshot.Staging, opt layer.Options, pack func(io.Writer) error) (layer.Result, error) {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack(w)
		w.CloseWithError(err)
		packed <- err
	}()
	res, err := layer.Apply(ctx, r, st.Dir, opt)
	r.CloseWithError(err)
	if perr := <-packed; perr != nil {
		err = perr // its own, which explains the stream's, or that which the stream was closed with
	}
	return res, err
}

// refuse keeps the store from swallowing itself, and the running system from being taken for a tree.
func (s *Store) refuse(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return unwrapPath(err)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return unwrapPath(err) // a tarball may lie anywhere
	}
	store, err := filepath.EvalSymlinks(s.root)
	if err == nil {
		store, err = filepath.Abs(store)
	}
	if err != nil {
		return err
	}
	switch {
	case real == "/":
		return invalid("the root of the running system, with all that is mounted in it: copy what is wanted to a directory, or pack it with tar")
	case within(store, real):
		return invalid("the store itself (%s) lies in it", store)
	case within(real, store):
		return invalid("it lies in the store itself (%s)", store)
	}
	return nil
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// importTar unpacks a tarball as the lowest layer and takes the diff ID of the canonical tar of what came out.
func (s *Store) importTar(ctx context.Context, r io.Reader, st *snapshot.Staging, opt layer.Options) (layer.Result, error) {
	res, err := layer.Apply(ctx, r, st.Dir, opt)
	if err != nil {
		if errors.Is(err, layer.ErrMalformed) {
			err = fmt.Errorf("it is no tarball that can be read: %w", err)
		}
		return res, err
	}
	if res.TarSize == 0 {
		return res, fmt.Errorf("it is empty: %w", layer.ErrMalformed)
	}
	if res.TarSize%512 != 0 {
		// No digest vouches for this one, and a cut in the padding behind a file looks like an end to a tar reader.
		return res, fmt.Errorf("the tarball ends in the middle of a block, so it was cut short: %w", layer.ErrMalformed)
	}
	if res.Needs > 0 {
		// Whiteouts hide nothing in a lowest layer, and hard links must have had their file.
		nothing, err := snapshot.OpenStack(nil)
		if err != nil {
			return res, err
		}
		plan, err := layer.PlanSettlement(st.Path(), nothing)
		if err == nil {
			err = plan.Execute(st.Path(), nothing)
		}
		if err != nil {
			return res, err
		}
		os.Remove(filepath.Join(st.Path(), "needs"))
	}
	fs, err := os.Open(filepath.Join(st.Path(), "fs"))
	if err != nil {
		return res, err
	}
	defer fs.Close()
	sum, n := sha256.New(), counter(0)
	if err := layer.Pack(ctx, fs, io.MultiWriter(sum, &n), layer.PackOptions{Marks: true}); err != nil {
		return res, err
	}
	res.DiffID, res.TarSize = "sha256:"+hex.EncodeToString(sum.Sum(nil)), int64(n)
	return res, nil
}
