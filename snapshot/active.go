package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot/failpoint"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// record is active/A/record.json. Trees are the lowers that the snapshot was made with; they are never exchanged afterwards, because
// overlayfs remembers them in the upper.
type record struct {
	Key     string            `json:"key"`
	Parent  string            `json:"parent,omitempty"`
	Trees   []string          `json:"trees,omitempty"` // lowest first
	Dirs    ExactList         `json:"dirs,omitempty"`  // plain directories instead of a parent, highest first
	Kind    Kind              `json:"kind"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	Moved   *moved            `json:"moved,omitempty"` // the highest tree was this snapshot's upper
}

// Opt changes how a snapshot is made.
type Opt func(*options)

type options struct {
	labels   map[string]string
	dirs     []string
	volatile bool
}

// WithLabels stores labels with the snapshot.
func WithLabels(labels map[string]string) Opt { return func(o *options) { o.labels = labels } }

// WithLowers puts plain directories, highest first, in the place of a parent. They are only ever read.
func WithLowers(dirs []string) Opt { return func(o *options) { o.dirs = dirs } }

// WithVolatile says that the snapshot need not survive a power cut: nothing of it is synced.
func WithVolatile() Opt { return func(o *options) { o.volatile = true } }

// Prepare makes an active snapshot under key, a private upper over the committed snapshot parent ("" for none), and returns what
// mounting it takes in mount(2)'s words. It returns ErrExists where the key is taken and ErrNotFound where there is no such parent.
func (s *Store) Prepare(ctx context.Context, key, parent string, opts ...Opt) ([]Mount, error) {
	if err := s.create(ctx, key, parent, KindActive, opts); err != nil {
		return nil, fmt.Errorf("prepare snapshot %s: %w", key, err)
	}
	return s.Mounts(ctx, key)
}

// View is Prepare without an upper: what is mounted is read-only, and it cannot be committed.
func (s *Store) View(ctx context.Context, key, parent string, opts ...Opt) ([]Mount, error) {
	if err := s.create(ctx, key, parent, KindView, opts); err != nil {
		return nil, fmt.Errorf("view snapshot %s: %w", key, err)
	}
	return s.Mounts(ctx, key)
}

// Create is Prepare for a caller that mounts by Attach and has no use for mount(2)'s words.
func (s *Store) Create(ctx context.Context, key, parent string, opts ...Opt) error {
	if err := s.create(ctx, key, parent, KindActive, opts); err != nil {
		return fmt.Errorf("prepare snapshot %s: %w", key, err)
	}
	return nil
}

func (s *Store) create(ctx context.Context, key, parent string, kind Kind, opts []Opt) (err error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if key == "" || parent != "" && o.dirs != nil {
		return fmt.Errorf("key %q, parent %q: %w", key, parent, ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now().UTC()
	rec := record{Key: key, Parent: parent, Kind: kind, Dirs: o.dirs, Labels: o.labels, Created: now, Updated: now}
	dir := s.activeDir(key)
	held, err := makeHeld(dir)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key %s: %w", key, ErrExists)
	}
	if err != nil {
		return err
	}
	defer func() {
		held.Close()
		if err != nil {
			s.dropActive(dir, rec)
		}
	}()
	if parent != "" {
		// First the link, then the look: from the link on, Remove refuses the parent.
		if err := s.link(dir, parent); err != nil {
			return err
		}
		failpoint.Hit("active/linked")
		c, err := s.readChain(parent)
		if err != nil {
			return err
		}
		rec.Trees = s.uncovered(c.Trees)
	}
	if kind == KindActive {
		if err := s.makeUpper(dir, rec); err != nil {
			return err
		}
	}
	failpoint.Hit("active/upper")
	b, err := rowdb.Seal(recordWhere(dir), rec)
	if err != nil {
		return err
	}
	if o.volatile {
		return os.WriteFile(filepath.Join(dir, "record.json"), b, 0o600)
	}
	if err := WriteFile(filepath.Join(dir, "record.json"), b, true); err != nil {
		return err
	}
	for _, d := range []string{s.path("active"), s.path("children"), s.path("children", hashName(parent))} {
		if err := SyncDir(d); err != nil && !(parent == "" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// makeHeld makes a directory and locks it: while there is no record in it yet, Sweep must not take it for what a crash left.
func makeHeld(dir string) (*os.File, error) {
	for {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		failpoint.Hit("active/made")
		held, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept between being made and being locked
		}
		if err != nil {
			return nil, err
		}
		if holdNew(held, dir) {
			return held, nil
		}
		held.Close()
	}
}

// link says in children/ that the active snapshot at dir stands on parent. The directory for that is made by whoever commits parent;
// it may be missing after a power cut, and is then made again under the rows' lock, so that Remove cannot be missed.
func (s *Store) link(dir, parent string) error {
	name := s.path("children", hashName(parent), filepath.Base(dir))
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return unix.Close(fd)
	}
	if err != unix.ENOENT {
		return fmt.Errorf("link to parent %s: %w", parent, err)
	}
	return s.update(func(tx *bbolt.Tx) error {
		if _, err := getRow(tx, parent); err != nil {
			return err
		}
		c, err := chainOf(tx, parent)
		if err != nil {
			return err
		}
		if err := s.publish(c); err != nil {
			return err
		}
		failpoint.Hit("active/relinking")
		return os.WriteFile(name, nil, 0o600)
	})
}

// uncovered leaves out the trees below one whose root is opaque (lowest first): overlayfs asks every directory of a layer whether it hides
// what is below, but for its root.
func (s *Store) uncovered(trees []string) []string {
	for i := len(trees) - 1; i > 0; i-- {
		var b [2]byte
		root := s.path("trees", trees[i], "fs")
		for _, name := range opaqueXattrs {
			if n, err := unix.Lgetxattr(root, name, b[:]); err == nil && n == 1 && b[0] == 'y' {
				return trees[i:]
			}
		}
	}
	return trees
}

// makeUpper makes fs and work. The root of the merged tree is the upper's own directory, so it takes the attributes of the directory
// that it covers.
func (s *Store) makeUpper(dir string, rec record) error {
	upper := filepath.Join(dir, "fs")
	if err := os.Mkdir(upper, 0o755); err != nil {
		return err
	}
	failpoint.Hit("active/fs")
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o700); err != nil {
		return err
	}
	lowers := s.lowerDirs(rec)
	if len(lowers) == 0 {
		return os.Chmod(upper, 0o755) // whatever the caller's umask is
	}
	return copyAttributes(lowers[0], upper)
}

// sameAttributes says whether two directories have the same owner, mode and extended attributes.
func sameAttributes(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	if err := errors.Join(unix.Stat(a, &sa), unix.Stat(b, &sb)); err != nil {
		return false, err
	}
	xa, err := ReadXattrs(a)
	if err != nil {
		return false, err
	}
	xb, err := ReadXattrs(b)
	return sa.Mode == sb.Mode && sa.Uid == sb.Uid && sa.Gid == sb.Gid && maps.Equal(xa, xb), err
}

// copyAttributes gives dir the owner, mode, extended attributes and times of from.
func copyAttributes(from, dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return fmt.Errorf("stat %s: %w", from, err)
	}
	if st.Uid != 0 || st.Gid != 0 {
		if err := unix.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("chown %s: %w", dir, err)
		}
	}
	if err := unix.Chmod(dir, st.Mode&0o7777); err != nil { // mkdir was subject to the caller's umask
		return fmt.Errorf("chmod %s: %w", dir, err)
	}
	xattrs, err := pathXattrs(from)
	if err != nil {
		return fmt.Errorf("read xattrs of %s: %w", from, err)
	}
	for name, value := range xattrs {
		if err := unix.Lsetxattr(dir, name, value, 0); err != nil {
			return fmt.Errorf("set xattr %s on %s: %w", name, dir, err)
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func (s *Store) activeDir(key string) string { return s.path("active", hashName(key)) }

func (s *Store) readRecord(key string) (string, record, error) {
	dir := s.activeDir(key)
	rec, err := readRecordFile(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return dir, rec, fmt.Errorf("snapshot %s: %w", key, ErrNotFound)
	}
	return dir, rec, err
}

// readRecordFile reads the record of the active snapshot at dir. An empty one, or one of zeroes, is what a kill or a power cut leaves of
// a volatile snapshot's, which is written in place: it is not there.
func readRecordFile(dir string) (rec record, err error) {
	path := filepath.Join(dir, "record.json")
	b, err := os.ReadFile(path)
	if err == nil && len(bytes.Trim(b, "\x00")) == 0 {
		err = &fs.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	}
	if err != nil {
		return rec, err
	}
	if err := rowdb.Unseal(recordWhere(dir), b, &rec); err != nil {
		return rec, fmt.Errorf("read %s/record.json: %w", dir, err)
	}
	return rec, nil
}

func recordWhere(dir string) string { return "active/" + filepath.Base(dir) }

// lowerDirs are the directories below a snapshot's upper, highest first.
func (s *Store) lowerDirs(rec record) []string {
	if rec.Dirs != nil {
		return rec.Dirs
	}
	dirs := make([]string, 0, len(rec.Trees)+1)
	for i := len(rec.Trees) - 1; i >= 0; i-- {
		dirs = append(dirs, s.path("trees", rec.Trees[i], "fs"))
	}
	return dirs
}

// Lowers returns what diff needs of an active snapshot: its lower directories, highest first and without the stubs for mounts, and
// its upper.
func (s *Store) Lowers(_ context.Context, key string) (lowers []string, upper string, err error) {
	dir, rec, err := s.readRecord(key)
	if err != nil {
		return nil, "", err
	}
	return s.lowerDirs(rec), filepath.Join(dir, "fs"), nil
}

// Remove removes an active snapshot or view and what was written in it, or a committed snapshot on which nothing stands. It returns
// ErrInUse for one that is mounted or has children, ErrNotFound for an unknown key.
func (s *Store) Remove(ctx context.Context, key string) error {
	dir, rec, err := s.readRecord(key)
	if err == nil {
		lock, err := lockActive(dir)
		if err != nil {
			return fmt.Errorf("remove snapshot %s: %w", key, err)
		}
		defer lock.Close()
		if now, err := readRecordFile(dir); err == nil {
			rec = now // a commit has changed it meanwhile
		}
		return s.dropActive(dir, rec)
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := s.sweepActive(hashName(key)); err != nil { // half made, by somebody who is gone
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if _, err := s.removeCommitted(key, false, func(string) bool { return false }); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return s.Tidy()
}

// dropActive takes an active snapshot away: by rename, so that no half-deleted one can be found under its key.
func (s *Store) dropActive(dir string, rec record) error {
	trash, err := s.moveToTrash(dir)
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	failpoint.Hit("active/trashed")
	s.unlink(rec.Parent, filepath.Base(dir))
	if rec.Moved != nil {
		s.unlink(rec.Moved.Parent, filepath.Base(dir)) // of a commit that was killed
	}
	failpoint.Hit("active/unlinked")
	return s.empty(trash)
}

// Stat describes the snapshot of that name or key.
func (s *Store) Stat(_ context.Context, key string) (Info, error) {
	if _, rec, err := s.readRecord(key); err == nil {
		return infoOf(rec), nil
	} else if !errors.Is(err, ErrNotFound) {
		return Info{}, err
	}
	info := Info{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		r, err := getRow(tx, key)
		info = Info{Name: key, Parent: r.Parent, Kind: KindCommitted, Labels: r.Labels, Created: r.Created, Updated: r.Created}
		return err
	})
	if err == nil && info.Name == "" {
		err = fmt.Errorf("snapshot %s: %w", key, ErrNotFound)
	}
	return info, err
}

func infoOf(rec record) Info {
	return Info{Name: rec.Key, Parent: rec.Parent, Dirs: rec.Dirs, Kind: rec.Kind, Labels: rec.Labels, Created: rec.Created, Updated: rec.Updated}
}

// Usage says what a snapshot takes by itself. An active one is counted anew each time.
func (s *Store) Usage(_ context.Context, key string) (Usage, error) {
	dir, rec, err := s.readRecord(key)
	if err == nil {
		if rec.Kind == KindView {
			return Usage{}, nil
		}
		return usageOf(filepath.Join(dir, "fs"))
	}
	if !errors.Is(err, ErrNotFound) {
		return Usage{}, err
	}
	var u Usage
	found := false
	err = s.db.View(func(tx *bbolt.Tx) error {
		r, err := getRow(tx, key)
		u, found = r.Usage, true
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("snapshot %s: %w", key, ErrNotFound)
	}
	return u, err
}

// Written is how many bytes the files have that were written in an active snapshot, as Docker counts a container: every file once, and no
// directories.
func (s *Store) Written(_ context.Context, key string) (size int64, err error) {
	dir, _, err := s.readRecord(key)
	if err != nil {
		return 0, err
	}
	err = eachInode(filepath.Join(dir, "fs"), func(st *syscall.Stat_t) {
		if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
			size += st.Size
		}
	})
	return size, err
}

// usageOf counts a tree: every inode once, and the blocks that it takes.
func usageOf(dir string) (u Usage, err error) {
	err = eachInode(dir, func(st *syscall.Stat_t) {
		u.Inodes++
		u.Size += st.Blocks * 512
	})
	return u, err
}

// eachInode calls fn once for every inode of a tree.
func eachInode(dir string, fn func(*syscall.Stat_t)) error {
	seen := map[[2]uint64]bool{}
	return filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone while we looked: a running container's, or the trash's
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if id := [2]uint64{st.Dev, st.Ino}; st.Nlink > 1 && !d.IsDir() {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		fn(st)
		return nil
	})
}

// Walk calls fn for every snapshot: the committed ones by name, then the active ones and views.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error {
	var all []Info
	err := s.db.View(func(tx *bbolt.Tx) error {
		return eachRow(tx, func(name string, r row) error {
			all = append(all, Info{Name: name, Parent: r.Parent, Kind: KindCommitted, Labels: r.Labels, Created: r.Created, Updated: r.Created})
			return nil
		})
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path("active"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if rec, err := readRecordFile(s.path("active", e.Name())); err == nil {
			all = append(all, infoOf(rec))
		}
	}
	for _, info := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// lockActive takes the lock that is held as long as a mount of an active snapshot lives. With index=off the kernel itself does not
// keep a second mount away from an upper.
func lockActive(dir string) (*os.File, error) {
	lock, on, err := lockMount(dir, unix.LOCK_EX)
	if err == nil && on != nil {
		lock.Close()
		return nil, fmt.Errorf("it is mounted at %s: %w", on.Path, ErrMounted)
	}
	return lock, err
}
