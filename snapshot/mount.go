package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxLowers is the kernel's limit on the lower layers of one overlay (OVL_MAX_STACK in fs/overlayfs).
const MaxLowers = 500

// Mount is what mount(2) takes, in containerd's shape.
type Mount struct {
	Type, Source string
	Options      []string
}

// Mounts returns how the snapshot under key is mounted.
func (s *Store) Mounts(_ context.Context, key string) ([]Mount, error) {
	dir, rec, err := s.readRecord(key)
	if err != nil {
		return nil, err
	}
	lowers := s.lowerDirs(rec)
	if err := checkDepth(len(lowers)); err != nil {
		return nil, fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	upper := filepath.Join(dir, "fs")
	switch {
	case rec.Kind == KindActive && len(lowers) == 0:
		return []Mount{{Type: "bind", Source: upper, Options: []string{"rw", "rbind"}}}, nil
	case rec.Kind == KindView && len(lowers) == 0:
		return []Mount{{Type: "bind", Source: dir, Options: []string{"ro", "rbind"}}}, nil
	case rec.Kind == KindView && len(lowers) == 1:
		return []Mount{{Type: "bind", Source: lowers[0], Options: []string{"ro", "rbind"}}}, nil
	}
	options := []string{"index=off", "redirect_dir=nofollow", "metacopy=off", "xino=auto"}
	if rec.Kind == KindActive {
		options = append(options, "workdir="+escape(filepath.Join(dir, "work")), "upperdir="+escape(upper))
	}
	escaped := make([]string, len(lowers))
	for i, l := range lowers {
		escaped[i] = escape(l)
	}
	return []Mount{{Type: "overlay", Source: "overlay", Options: append(options, "lowerdir="+strings.Join(escaped, ":"))}}, nil
}

// escape keeps mount(2)'s option parser from taking a path's characters for its own.
func escape(path string) string {
	if !strings.ContainsAny(path, `\:,`) {
		return path
	}
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(path)
}

func checkDepth(n int) error {
	if n > MaxLowers {
		return fmt.Errorf("%d layers, the kernel stacks at most %d: %w", n, MaxLowers, ErrInvalid)
	}
	return nil
}

// AttachOptions say how a snapshot is mounted.
type AttachOptions struct {
	Init     bool // put the stubs that a container's mounts need (/proc, /etc/hosts, …) below the lowest layer
	Volatile bool // nothing that is written need survive a power cut, and unmounting need not wait for the disk
	Legacy   bool // use mount(2) even where the kernel has the new mount API
}

// Root is a snapshot mounted and attached nowhere: FD is what move_mount(2) attaches inside a container's mount namespace. The kernel
// takes the mount down when the last descriptor and the last namespace that hold it are gone.
type Root struct {
	FD    *os.File
	Steps []string // what the kernel was asked for, in the words of mount(8)
	lock  io.Closer
}

// Close lets the mount and the lock go.
func (r *Root) Close() error {
	err := r.FD.Close()
	if lerr := r.lock.Close(); err == nil {
		err = lerr
	}
	return err
}

// Attach mounts the active snapshot under key. It returns ErrInUse where it is mounted already, and ErrUnavailable where the kernel
// or the filesystem below the store cannot do it.
func (s *Store) Attach(_ context.Context, key string, o AttachOptions) (_ *Root, err error) {
	return s.attachActive(key, o, unix.LOCK_EX)
}

// attachActive mounts an active snapshot, to write to it or, with unix.LOCK_SH, to read. The lock comes before the record: a commit exchanges
// both the upper and the record.
func (s *Store) attachActive(key string, o AttachOptions, how int) (_ *Root, err error) {
	fail := func(err error) (*Root, error) { return nil, fmt.Errorf("mount snapshot %s: %w", key, err) }
	lock, on, err := lockMount(s.activeDir(key), how)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return fail(err)
	}
	r := &Root{lock: lock}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	dir, rec, err := s.readRecord(key)
	if err == nil && rec.Kind != KindActive {
		err = fmt.Errorf("a %s: %w", rec.Kind, ErrInvalid)
	}
	if err != nil {
		return fail(err)
	}
	if on != nil {
		r.Steps = []string{"mount --bind " + quote(on.Path) + " ROOT"}
		if r.FD, err = on.clone(how == unix.LOCK_SH); err != nil {
			return fail(err)
		}
		return r, nil
	}
	m := overlay{lowers: s.lowerDirs(rec), volatile: o.Volatile && how == unix.LOCK_EX}
	if upper := filepath.Join(dir, "fs"); how == unix.LOCK_EX {
		m.upper, m.work = upper, filepath.Join(dir, "work")
	} else {
		m.lowers = append([]string{upper}, m.lowers...)
	}
	if o.Init && len(m.lowers) != MaxLowers { // where there is no room for the stubs, what the image lacks is made in the upper
		stubs, err := s.initLower()
		if err != nil {
			return fail(err)
		}
		m.lowers = append(m.lowers[:len(m.lowers):len(m.lowers)], stubs)
	}
	if err = checkDepth(len(m.lowers)); err != nil {
		return fail(err)
	}
	if r.FD, r.Steps, err = s.mountDetached(m, o.Legacy); err != nil {
		return fail(err)
	}
	return r, nil
}

// mountDetached makes the overlay, or the bind mount that stands for one of a single directory, and says what the kernel was asked for.
func (s *Store) mountDetached(m overlay, legacy bool) (fd *os.File, steps []string, err error) {
	switch {
	case len(m.lowers) == 0:
		fd, err = cloneTree(m.upper)
		return fd, []string{"mount --bind " + quote(m.upper) + " ROOT"}, err
	case len(m.lowers) == 1 && m.upper == "": // the kernel stacks two or more
		if fd, err = cloneTree(m.lowers[0]); err == nil {
			err = unix.MountSetattr(int(fd.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}
		if err != nil && fd != nil {
			fd.Close()
		}
		return fd, []string{"mount --bind -o ro " + quote(m.lowers[0]) + " ROOT"}, err
	case legacy || !takesLowersSingly():
		fd, err = s.mountLegacy(m)
	default:
		fd, err = m.mount()
		if errors.Is(err, errNoLowerAdd) {
			fd, err = s.mountLegacy(m)
		}
	}
	return fd, []string{m.explain()}, err
}

// overlay is one overlay mount to be made.
type overlay struct {
	lowers      []string // highest first
	upper, work string   // "" for one that is only read
	source      string   // what the kernel's tables show as the source; "" for "overlay"
	volatile    bool
}

// options are the ones that make an upper a plain OCI layer: no redirects, no metadata-only copies, no index, each of which would
// leave in the upper what only overlayfs understands. xino=auto gives one inode number space where the filesystems have room for it;
// "on" would mark every new directory opaque (Documentation/filesystems/overlayfs.rst).
func (m overlay) options() [][2]string {
	return [][2]string{{"index", "off"}, {"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"xino", "auto"}}
}

func (m overlay) shown() string {
	if m.source == "" {
		return "overlay"
	}
	return m.source
}

func (m overlay) explain() string {
	var b strings.Builder
	b.WriteString("mount -t overlay overlay -o ")
	for _, kv := range m.options() {
		b.WriteString(kv[0] + "=" + kv[1] + ",")
	}
	if m.volatile {
		b.WriteString("volatile,")
	}
	escaped := make([]string, len(m.lowers))
	for i, l := range m.lowers {
		escaped[i] = escape(l)
	}
	dirs := "lowerdir=" + strings.Join(escaped, ":")
	if m.upper != "" {
		dirs += ",upperdir=" + escape(m.upper) + ",workdir=" + escape(m.work)
	}
	b.WriteString(quote(dirs))
	b.WriteString(" ROOT")
	return b.String()
}

// quote makes a word safe to paste into a shell.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-=,:+@%") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// errNoLowerAdd says that the kernel cannot take lowers one at a time (before 6.5).
var errNoLowerAdd = errors.New("no lowerdir+")

// takesLowersSingly says whether this kernel's overlayfs has lowerdir+. An older one takes any option of the new mount API without a
// look at it, and refuses the mount at the end.
func takesLowersSingly() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	major, rest, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), ".")
	n := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 {
		n = len(rest)
	}
	first, _ := strconv.Atoi(major)
	second, _ := strconv.Atoi(rest[:n])
	return first > 6 || first == 6 && second >= 5
}

// mount makes the overlay with the new mount API: lowers are given one at a time, so nothing limits their length or bytes.
func (m overlay) mount() (*os.File, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		if err == unix.ENOSYS {
			return nil, errNoLowerAdd
		}
		return nil, m.classify("open", "", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigSetString(fd, "source", m.shown()); err != nil { // what findmnt shows; "none" without it
		return nil, m.failure(fd, "source", err)
	}
	for i, l := range m.lowers {
		if err := configPath(fd, "lowerdir+", l); err != nil {
			if i == 0 && err == unix.EINVAL {
				return nil, errNoLowerAdd
			}
			return nil, m.failure(fd, "lower "+l, err)
		}
	}
	if m.upper != "" {
		if err := configPath(fd, "upperdir", m.upper); err != nil {
			return nil, m.failure(fd, "upper "+m.upper, err)
		}
		if err := configPath(fd, "workdir", m.work); err != nil {
			return nil, m.failure(fd, "work "+m.work, err)
		}
	}
	for _, kv := range m.options() {
		if err := unix.FsconfigSetString(fd, kv[0], kv[1]); err != nil {
			return nil, m.failure(fd, kv[0]+"="+kv[1], err)
		}
	}
	if m.volatile {
		if err := unix.FsconfigSetFlag(fd, "volatile"); err != nil {
			return nil, m.failure(fd, "volatile", err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, m.failure(fd, "", err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	return os.NewFile(uintptr(mnt), "overlay"), nil
}

// configPath sets an option that is a path. The kernel takes at most 255 bytes in a string, and takes a backslash of an upper's for an
// escape; such a path goes through a descriptor.
func configPath(fd int, option, path string) error {
	if len(path) < 256 && !strings.Contains(path, `\`) {
		return unix.FsconfigSetString(fd, option, path)
	}
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.FsconfigSetString(fd, option, "/proc/self/fd/"+strconv.Itoa(at))
}

// failure joins what was being done, the error, and what the kernel itself says in the context's log.
func (m overlay) failure(fd int, what string, err error) error {
	var log []string
	var b [512]byte
	for len(log) < 4 {
		n, rerr := unix.Read(fd, b[:])
		if rerr != nil || n <= 0 {
			break
		}
		log = append(log, strings.TrimSpace(string(b[:n])))
	}
	return m.classify(what, strings.Join(log, "; "), err)
}

func (m overlay) classify(what, log string, err error) error {
	msg := "overlay"
	if what != "" {
		msg += " (" + what + ")"
	}
	if log != "" {
		msg += ": " + log
	}
	// EINVAL with a log is what the kernel says of an upper on a filesystem that cannot be one (NFS, overlayfs itself, no xattrs).
	if err == unix.EINVAL || err == unix.ENODEV || err == unix.EOPNOTSUPP {
		return fmt.Errorf("%s: %w: %w", msg, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", msg, err)
}

// mountLegacy makes the overlay with mount(2), whose options must fit into one page: trees are named relative to trees/. It happens in
// a mount namespace of a thread of its own, which dies with the thread; what leaves it is a detached clone.
func (s *Store) mountLegacy(m overlay) (*os.File, error) {
	prefix := s.path("trees") + "/"
	short := func(dir string) string {
		if in, ok := strings.CutPrefix(dir, prefix); ok {
			return in
		}
		if in, ok := strings.CutPrefix(dir, s.root+"/"); ok {
			return "../" + in
		}
		return dir
	}
	names := make([]string, len(m.lowers))
	for i, l := range m.lowers {
		names[i] = escape(short(l))
	}
	var options strings.Builder
	for _, kv := range m.options() {
		options.WriteString(kv[0] + "=" + kv[1] + ",")
	}
	if m.volatile {
		options.WriteString("volatile,")
	}
	if m.upper != "" {
		fmt.Fprintf(&options, "upperdir=%s,workdir=%s,", escape(short(m.upper)), escape(short(m.work)))
	}
	options.WriteString("lowerdir=" + strings.Join(names, ":"))
	if options.Len() >= os.Getpagesize() {
		return nil, fmt.Errorf("%d lowers do not fit into mount(2)'s one page of options on this kernel (6.5 has no such limit): %w", len(m.lowers), ErrInvalid)
	}
	var f *os.File
	err := OnPrivateThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Chdir(prefix); err != nil {
			return fmt.Errorf("enter %s: %w", prefix, err)
		}
		target := s.path("staging")
		if err := unix.Mount(m.shown(), target, "overlay", 0, options.String()); err != nil {
			return m.classify("", "", err)
		}
		// The thread ends when the scheduler likes: the mount must not live that long.
		defer unix.Unmount(target, unix.MNT_DETACH)
		var err error
		f, err = cloneTree(target)
		return err
	})
	return f, err
}

// OnPrivateThread runs do on a thread that ends after it, with whatever namespace do moved it to. It is never the main thread: that
// one does not end before the process, and is what /proc/self shows.
func OnPrivateThread(do func() error) error {
	done := make(chan error)
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Asked for while this goroutine keeps the main thread, another one must be on another.
			defer goruntime.UnlockOSThread()
			done <- OnPrivateThread(do)
			return
		}
		done <- do() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// cloneTree makes a detached bind mount of path.
func cloneTree(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone mount of %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// stub is a file or directory of the init lower: empty, root's, and 0755 or 0644.
type stub struct {
	path string
	dir  bool
}

var initStubs = []stub{{"", true}, {"proc", true}, {"sys", true}, {"dev", true}, {"etc", true},
	{"etc/hosts", false}, {"etc/hostname", false}, {"etc/resolv.conf", false}}

func (s stub) mode() os.FileMode {
	if s.dir {
		return 0o755
	}
	return 0o644
}

func (s stub) make(root string) (err error) {
	path := filepath.Join(root, s.path)
	if s.dir {
		err = os.Mkdir(path, s.mode())
	} else {
		err = os.WriteFile(path, nil, s.mode())
	}
	if err == nil {
		err = os.Chmod(path, s.mode()) // whatever the umask
	}
	if err != nil {
		return fmt.Errorf("make stubs for mounts: %w", err)
	}
	return nil
}

// initLower returns the directory with the stubs that a container's mounts need, making it where it is missing. It is the lowest
// lower: an image that has the names itself keeps its own, with their attributes, and only where it lacks one the stub shows.
func (s *Store) initLower() (string, error) {
	dir := s.path("trees", "init")
	if _, err := os.Lstat(dir); err == nil {
		return filepath.Join(dir, "fs"), nil
	}
	st, err := s.NewStaging()
	if err != nil {
		return "", err
	}
	defer st.Discard()
	for _, stub := range initStubs {
		if err := stub.make(filepath.Join(st.path, "fs")); err != nil {
			return "", err
		}
	}
	err = unix.Renameat2(unix.AT_FDCWD, st.path, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if err == nil {
		st.path = ""
	} else if !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make stubs for mounts: %w", err)
	}
	return filepath.Join(dir, "fs"), nil
}

// Status says what was found of overlayfs, as pairs of a name and a value.
func (s *Store) Status() ([][2]string, error) {
	stubs, err := s.initLower()
	if err != nil {
		return nil, err
	}
	api := "mount(2)"
	if fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC); err == nil {
		if unix.FsconfigSetString(fd, "lowerdir+", stubs) == nil {
			api = "fsopen, lowerdir+"
		}
		unix.Close(fd)
	}
	var options []string
	for _, kv := range (overlay{}).options() {
		options = append(options, kv[0]+"="+kv[1])
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return nil, fmt.Errorf("look at the store's filesystem: %w", err)
	}
	return [][2]string{
		{"Backing Filesystem", filesystemName(int64(st.Type))},
		{"Mount API", api},
		{"Mount Options", strings.Join(options, ",")},
		{"Layers At Most", strconv.Itoa(MaxLowers)},
	}, nil
}

func filesystemName(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	}
	return fmt.Sprintf("%#x", magic)
}
