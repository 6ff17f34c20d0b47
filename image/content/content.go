package content

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/direct"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// What callers decide on.
var (
	ErrNotFound = errors.New("no such blob")
	ErrBusy     = errors.New("blob is being fetched by somebody else")
	ErrCorrupt  = errors.New("not what was asked for")
)

// Layout is what the file oci-layout holds (image-spec, image-layout.md).
const Layout = `{"imageLayoutVersion":"1.0.0"}`

// Store is the blobs below one directory.
type Store struct{ dir string }

// Open returns the store at dir, making it where it is missing.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if _, err := os.Lstat(filepath.Join(dir, "oci-layout")); err == nil {
		return s, nil
	}
	for _, d := range []string{"blobs/sha256", "ingest", "names"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return s, snapshot.WriteFile(filepath.Join(dir, "oci-layout"), []byte(Layout), false)
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// Path is where a blob lies.
func (s *Store) Path(digest string) string {
	return filepath.Join(s.dir, "blobs", "sha256", hexOf(digest))
}

// Has says whether a blob is here.
func (s *Store) Has(digest string) bool {
	_, err := os.Lstat(s.Path(digest))
	return err == nil
}

// Open opens a blob.
func (s *Store) Open(digest string) (*os.File, error) {
	f, err := os.Open(s.Path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", digest, ErrNotFound)
	}
	return f, err
}

// Read returns a small blob, verified.
func (s *Store) Read(digest string) ([]byte, error) {
	b, err := os.ReadFile(s.Path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", digest, ErrNotFound)
	}
	if err == nil && Digest(b) != digest {
		err = fmt.Errorf("blob %s is damaged: %w", digest, ErrCorrupt)
	}
	return b, err
}

// Hold is Has for whoever relies on the answer: as long as the lease lasts, a blob that is here stays.
func (s *Store) Hold(l *snapshot.Lease, digest string) (bool, error) {
	err := l.Hold(s.Path(digest))
	if errors.Is(err, snapshot.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Prove is Has for a blob that nobody vouches for: it reads all of it, and deletes it if its digest is another. Such a one may lie here
// after a power cut, for a blob has its name before its bytes are known to be on the disk; it may also be as good as any, put here by
// somebody who is about to name it.
func (s *Store) Prove(ctx context.Context, digest string) (bool, error) {
	f, err := s.Open(digest)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, cancelled{ctx, f}, make([]byte, 256<<10)); err != nil {
		return false, fmt.Errorf("read blob %s: %w", digest, err)
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) == digest {
		return true, nil
	}
	if err := flock.Lock(context.Background(), f, unix.LOCK_EX, ""); err != nil { // for a look at it, and no longer: nobody relies on it
		return false, fmt.Errorf("lock blob %s: %w", digest, err)
	}
	var ours, named unix.Stat_t
	if unix.Fstat(int(f.Fd()), &ours) != nil || unix.Lstat(s.Path(digest), &named) != nil || ours.Ino != named.Ino {
		return s.Has(digest), nil // another one has come
	}
	if err := os.Remove(s.Path(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("delete damaged blob: %w", err)
	}
	return false, nil
}

// cancelled reads until the context ends.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Digest is the digest of b.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Put stores a small blob, in the place of a damaged one if need be, which the lease holds from then on, and returns its digest.
func (s *Store) Put(l *snapshot.Lease, b []byte) (string, error) {
	digest := Digest(b)
	for {
		if here, err := s.Hold(l, digest); err != nil {
			return digest, err
		} else if here {
			if _, err := s.Read(digest); !errors.Is(err, ErrCorrupt) {
				return digest, err
			}
		}
		if err := snapshot.WriteFile(s.Path(digest), b, false); err != nil {
			return "", fmt.Errorf("store blob %s: %w", digest, err)
		}
	}
}

// Ingest is a blob on its way. It stays locked until Close, also after Commit: whoever brings a layer holds it until the layer's tree is
// in the store, so that nobody does the work twice.
type Ingest struct {
	s      *Store
	digest string
	size   int64
	dir    string
	lock   *os.File
	data   *os.File
	out    *direct.File // of data, once more than a buffer was written
	buf    []byte       // the last bytes, not yet written
	done   int64        // where in data they belong
	had    int64        // so many of the first bytes are in data already, and are only counted and hashed
	keep   bool         // Close leaves data for the next one
	made   bool         // here: the bytes tell the digest
	sum    hash.Hash
	n      int64
}

// TryIngest begins to bring a blob of that digest and size (-1 if unknown). It returns ErrBusy where somebody else is at it.
func (s *Store) TryIngest(digest string, size int64) (*Ingest, error) {
	return s.ingest(digest, size, func(lock *os.File) error {
		err := flock.Try(lock, unix.LOCK_EX)
		if err != nil {
			lock.Close()
		}
		if err == unix.EWOULDBLOCK {
			err = ErrBusy
		}
		return err
	})
}

// WaitIngest is TryIngest that waits for the other one, until ctx ends. told says that the caller has said so already.
func (s *Store) WaitIngest(ctx context.Context, digest string, size int64, told bool) (*Ingest, error) {
	waiting := ""
	if !told {
		waiting = "waiting for another process that brings the blob " + digest
	}
	return s.ingest(digest, size, func(lock *os.File) error { return flock.Lock(ctx, lock, unix.LOCK_EX, waiting) })
}

// ingest begins with a lock that is taken so; where it is not, take closes its file.
func (s *Store) ingest(digest string, size int64, take func(*os.File) error) (*Ingest, error) {
	dir := filepath.Join(s.dir, "ingest", hexOf(digest))
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("begin blob %s: %w", digest, err)
		}
		failpoint.Hit("ingest/made")
		lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the one before us finished between the two
		}
		if err != nil {
			return nil, fmt.Errorf("begin blob %s: %w", digest, err)
		}
		if err := take(lock); err != nil {
			return nil, fmt.Errorf("blob %s: %w", digest, err)
		}
		// The file we locked may be gone: the one before us takes the directory away before it lets go.
		var ours, named unix.Stat_t
		if unix.Fstat(int(lock.Fd()), &ours) != nil || unix.Stat(lock.Name(), &named) != nil || ours.Ino != named.Ino {
			lock.Close()
			continue
		}
		failpoint.Hit("ingest/locked")
		return &Ingest{s: s, digest: digest, size: size, dir: dir, lock: lock, sum: sha256.New()}, nil
	}
}

// Make begins a blob that is made here: its digest is what its bytes have. What was written can be read at once.
func (s *Store) Make() (*Ingest, error) {
	in, err := s.anonymous()
	if err == nil {
		in.made = true
		_, err = in.Write(nil)
	}
	return in, err
}

// anonymous is an ingest whose digest nobody knows.
func (s *Store) anonymous() (*Ingest, error) {
	var id [sha256.Size]byte
	rand.Read(id[:])
	return s.TryIngest("sha256:"+hex.EncodeToString(id[:]), -1)
}

// Open opens what a blob that is made has so far. It stays open when the blob gets its name.
func (in *Ingest) Open() (*os.File, error) { return os.Open(in.data.Name()) }

// Digest is the blob's digest: of one that is made, what it has by now.
func (in *Ingest) Digest() string {
	if in.made {
		return "sha256:" + hex.EncodeToString(in.sum.Sum(nil))
	}
	return in.digest
}

// Write takes the blob's next bytes. More than the blob's size is ErrCorrupt.
func (in *Ingest) Write(p []byte) (int, error) {
	if in.data == nil {
		f, err := os.OpenFile(filepath.Join(in.dir, "data"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, fmt.Errorf("write blob %s: %w", in.digest, err)
		}
		in.data = f
	}
	in.n += int64(len(p))
	if in.size >= 0 && in.n > in.size {
		return 0, fmt.Errorf("blob %s has more than the %d bytes that its manifest says: %w", in.digest, in.size, ErrCorrupt)
	}
	in.sum.Write(p)
	if in.made { // through the page cache, from which it is read again in a moment
		if _, err := in.data.Write(p); err != nil {
			return 0, fmt.Errorf("write a blob: %w", err)
		}
		return len(p), nil
	}
	here := max(in.had-(in.n-int64(len(p))), 0)
	for rest := p[min(here, int64(len(p))):]; len(rest) > 0; {
		if in.buf == nil {
			in.buf = direct.Buffer()[:0]
		}
		n := copy(in.buf[len(in.buf):cap(in.buf)], rest)
		in.buf = in.buf[:len(in.buf)+n]
		rest = rest[n:]
		if len(in.buf) == cap(in.buf) {
			if err := in.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// flush writes what is in the buffer. A blob that never filled it goes through the page cache like any small file.
func (in *Ingest) flush() (err error) {
	switch {
	case len(in.buf) == 0:
	case in.done == 0 && len(in.buf) < cap(in.buf):
		_, err = in.data.Write(in.buf)
	default:
		if in.out == nil {
			in.out = direct.New(int(in.data.Fd()))
		}
		err = in.out.WriteAt(in.buf, in.done)
	}
	in.done += int64(len(in.buf))
	in.buf = in.buf[:0]
	if err != nil {
		return fmt.Errorf("write blob %s: %w", in.digest, err)
	}
	return nil
}

// free gives the buffer back.
func (in *Ingest) free() {
	if in.buf != nil {
		direct.Release(in.buf)
		in.buf = nil
	}
}

// keptAtLeast is what is worth to be kept of a download that broke off: a fraction of a second of it.
const keptAtLeast = 1 << 20

// Keep says that what has come so far is good, though it is not all: Close leaves it to whoever brings the blob next, or to Sweep.
func (in *Ingest) Keep() { in.keep = in.data != nil && in.flush() == nil && in.done >= keptAtLeast }

// Kept opens what somebody before us had kept of the blob, and returns how many bytes that is. Nothing vouches for them: they have to be
// written to the ingest like all others, which then only counts and hashes them.
func (in *Ingest) Kept() (before io.ReadCloser, n int64, err error) {
	name := filepath.Join(in.dir, "data")
	r, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(r.Fd()), &st)
	}
	if err == nil {
		// A file with two names was a spool's, whose other name may still be read.
		if n = st.Size / direct.Align * direct.Align; st.Nlink != 1 || n == 0 || st.Size > in.size {
			r.Close()
			return nil, 0, in.Restart()
		}
		err = os.Truncate(name, n)
	}
	if err == nil {
		in.data, err = os.OpenFile(name, os.O_WRONLY, 0)
	}
	if err != nil {
		r.Close()
		return nil, 0, fmt.Errorf("read what is here of blob %s: %w", in.digest, err)
	}
	in.had, in.done = n, n
	return r, n, nil
}

// Restart forgets everything that has come.
func (in *Ingest) Restart() error {
	in.free()
	if in.data != nil {
		in.data.Close()
	}
	in.data, in.out, in.n, in.had, in.done, in.keep = nil, nil, 0, 0, 0, false
	in.sum.Reset()
	if err := os.Remove(filepath.Join(in.dir, "data")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("begin blob %s anew: %w", in.digest, err)
	}
	return nil
}

// Commit verifies size and digest, and puts the blob under its name. The lease holds it from then on.
func (in *Ingest) Commit(l *snapshot.Lease) error {
	if in.data == nil {
		if _, err := in.Write(nil); err != nil {
			return err
		}
	}
	if err := in.flush(); err != nil {
		return err
	}
	in.free()
	if in.size >= 0 && in.n != in.size {
		return fmt.Errorf("blob %s has %d bytes, its manifest says %d: %w", in.digest, in.n, in.size, ErrCorrupt)
	}
	if in.made {
		in.digest = in.Digest()
	}
	if got := "sha256:" + hex.EncodeToString(in.sum.Sum(nil)); got != in.digest {
		return fmt.Errorf("blob %s has the digest %s: %w", in.digest, got, ErrCorrupt)
	}
	// Held under the name that it has, which is nobody's to sweep while we are at it.
	if err := l.Hold(in.data.Name()); err != nil {
		return fmt.Errorf("hold blob %s: %w", in.digest, err)
	}
	if err := in.data.Close(); err != nil {
		return fmt.Errorf("write blob %s: %w", in.digest, err)
	}
	failpoint.Hit("ingest/written")
	if err := os.Rename(filepath.Join(in.dir, "data"), in.s.Path(in.digest)); err != nil {
		return fmt.Errorf("name blob %s: %w", in.digest, err)
	}
	in.data = nil
	failpoint.Hit("ingest/committed")
	return nil
}

// Close lets the blob go; what was neither committed nor kept is thrown away.
func (in *Ingest) Close() error {
	in.free()
	if in.data != nil {
		in.data.Close()
	}
	if in.keep {
		return in.lock.Close()
	}
	// The lock goes last: a directory without one is anybody's.
	names, _ := os.ReadDir(in.dir)
	for _, e := range names {
		if e.Name() != "lock" {
			os.Remove(filepath.Join(in.dir, e.Name()))
			failpoint.Hit("ingest/emptying")
		}
	}
	os.Remove(filepath.Join(in.dir, "lock"))
	failpoint.Hit("ingest/emptying")
	os.Remove(in.dir)
	failpoint.Hit("ingest/removed")
	return in.lock.Close()
}

// Sweep throws away what was being brought by somebody who is gone.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "ingest"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if in, err := s.TryIngest("sha256:"+e.Name(), -1); err == nil {
			in.Close()
		}
	}
	return nil
}

var _ io.Writer = (*Ingest)(nil)
