package plan

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountStep is one mount on its way into the plan.
type mountStep struct {
	spec   specs.Mount
	fd     *os.File // detached, made here; nil for one that the child must make in its own namespaces
	target *os.File // in the root, or in a mount made before
	flags  uintptr  // MOUNT_ATTR_*
	data   [][2]string
}

// mountOptions splits a spec's options into mount attributes and the file system's own.
func mountOptions(options []string) (attr uintptr, data [][2]string, recursive bool) {
	for _, o := range options {
		switch o {
		case "ro":
			attr |= unix.MOUNT_ATTR_RDONLY
		case "nosuid":
			attr |= unix.MOUNT_ATTR_NOSUID
		case "nodev":
			attr |= unix.MOUNT_ATTR_NODEV
		case "noexec":
			attr |= unix.MOUNT_ATTR_NOEXEC
		case "noatime":
			attr |= unix.MOUNT_ATTR_NOATIME
		case "strictatime":
			attr |= unix.MOUNT_ATTR_STRICTATIME
		case "rbind":
			recursive = true
		case "rw", "suid", "dev", "exec", "relatime", "bind", "private", "rprivate", "newinstance", "defaults":
		default:
			k, v, _ := strings.Cut(o, "=")
			data = append(data, [2]string{k, v})
		}
	}
	return attr, data, recursive
}

// inNamespace says of a file system that it shows the namespaces of whoever makes it, so only the child can.
func inNamespace(kind string) bool { return kind == "proc" || kind == "sysfs" || kind == "mqueue" }

// prepareMounts makes what can be made detached, and finds every target.
func (c *compiler) prepareMounts() ([]mountStep, error) {
	c.pty = c.spec.Process.Terminal
	made := map[string]*os.File{} // detached mounts by destination: targets below them are found in them
	var steps []mountStep
	for _, m := range c.spec.Mounts {
		s := mountStep{spec: m}
		fail := func(err error) error { return fmt.Errorf("mount %s at %s: %w", m.Type, m.Destination, err) }
		var recursive bool
		s.flags, s.data, recursive = mountOptions(m.Options)
		dir := true
		var err error
		switch {
		case m.Type == "bind" && c.in.Mounts[m.Destination] != nil:
			s.fd = c.in.Mounts[m.Destination] // the caller's to close
		case m.Type == "bind":
			s.fd, dir, err = cloneTree(m.Source, s.flags, recursive)
		case m.Type == "tmpfs" || m.Type == "devpts":
			s.fd, err = detached(m.Type, s.data, s.flags)
		case inNamespace(m.Type):
		default:
			err = ErrUnsupported
		}
		if err != nil {
			return nil, fail(err)
		}
		if s.fd != nil && s.fd != c.in.Mounts[m.Destination] {
			c.files = append(c.files, s.fd)
		}
		if s.target, err = c.target(made, m.Destination, dir); err != nil {
			return nil, fail(err)
		}
		c.files = append(c.files, s.target)
		if s.fd != nil {
			made[m.Destination] = s.fd
		}
		switch {
		case m.Type == "tmpfs" && m.Destination == "/dev":
			c.dev = s.fd
			err = c.fillDev()
		case m.Type == "devpts" && c.pty:
			err = c.openConsole(s.fd)
		}
		if err != nil {
			return nil, fail(err)
		}
		steps = append(steps, s)
	}
	if c.pty && c.Console == nil {
		return nil, fmt.Errorf("a terminal without a devpts: %w", ErrUnsupported)
	}
	if err := c.streams(); err != nil {
		return nil, err
	}
	return steps, nil
}

// streams makes sure of what the command has at 0, 1 and 2.
func (c *compiler) streams() error {
	for _, fd := range c.in.Stdio {
		if fd < 0 && !c.pty {
			return fmt.Errorf("a container without stdin, stdout or stderr: %w", ErrUnsupported)
		}
		c.givePipe(fd)
	}
	return nil
}

// detached makes a file system that is attached nowhere.
func detached(kind string, data [][2]string, attr uintptr) (*os.File, error) {
	fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fd)
	// What findmnt shows as the source; "none" without it.
	for _, kv := range append([][2]string{{"source", kind}}, data...) {
		if kv[1] == "" {
			err = unix.FsconfigSetFlag(fd, kv[0])
		} else {
			err = unix.FsconfigSetString(fd, kv[0], kv[1])
		}
		if err != nil {
			return nil, fmt.Errorf("option %s=%s: %w", kv[0], kv[1], err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(mnt), kind), nil
}

// cloneTree makes a detached bind mount of a path of the host's.
func cloneTree(source string, attr uintptr, recursive bool) (_ *os.File, dir bool, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return nil, false, fmt.Errorf("open %s: %w", source, err)
	}
	f := os.NewFile(uintptr(fd), source)
	if attr != 0 {
		at := uint(unix.AT_EMPTY_PATH)
		if recursive {
			at |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(fd, "", at, &unix.MountAttr{Attr_set: uint64(attr)}); err != nil {
			f.Close()
			return nil, false, fmt.Errorf("set attributes: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, false, err
	}
	return f, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// target finds a mount's destination, making it where it is missing: inside the root, or inside a mount that was made before.
func (c *compiler) target(made map[string]*os.File, dest string, dir bool) (*os.File, error) {
	dest = path.Clean("/" + dest)
	root, rel := c.in.Root, strings.TrimPrefix(dest, "/")
	for at := path.Dir(dest); at != "/"; at = path.Dir(at) {
		if f := made[at]; f != nil {
			root, rel = f, strings.TrimPrefix(dest, at+"/")
			break
		}
	}
	return openInRoot(root, rel, dir, 0)
}

// givePipe lets an ordinary user of the container open /dev/stdout and its like where they are pipes: nobody else knows a pipe, but who
// made it is its owner. A file or a terminal of the caller's stays the caller's.
func (c *compiler) givePipe(fd int) {
	var st unix.Statfs_t
	if uid := c.spec.Process.User.UID; uid != 0 && unix.Fstatfs(fd, &st) == nil && st.Type == unix.PIPEFS_MAGIC {
		unix.Fchown(fd, int(uid), -1)
	}
}

// The nodes that every container has, and the links (runtime-spec, config-linux.md, "Default Devices"; runtime-linux.md, "Dev symbolic
// links").
var (
	devices = [...]struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
	deviceLinks = [...][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"}}
)

// fillDev makes them.
func (c *compiler) fillDev() error {
	fd := int(c.dev.Fd())
	for _, n := range devices {
		if err := unix.Mknodat(fd, n.name, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return fmt.Errorf("make device %s: %w", n.name, err)
		}
		// mknod is subject to the caller's umask.
		if err := unix.Fchmodat(fd, n.name, 0o666, 0); err != nil {
			return fmt.Errorf("make device %s: %w", n.name, err)
		}
	}
	for _, l := range deviceLinks {
		if err := unix.Symlinkat(l[0], fd, l[1]); err != nil {
			return fmt.Errorf("make link %s: %w", l[1], err)
		}
	}
	if c.pty {
		if err := unix.Mknodat(fd, "console", unix.S_IFREG|0o600, 0); err != nil {
			return fmt.Errorf("make console: %w", err)
		}
	}
	return nil
}

// openConsole takes a terminal out of the container's own devpts before anybody is in the container: its outer end stays with us, its
// inner end becomes the command's stdin, stdout and stderr.
func (c *compiler) openConsole(pts *os.File) error {
	fd, err := unix.Openat(int(pts.Fd()), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open ptmx: %w", err)
	}
	c.Console = os.NewFile(uintptr(fd), "console")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	inner, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fmt.Errorf("open terminal: %w", errno)
	}
	f := os.NewFile(inner, "terminal")
	c.files = append(c.files, f)
	if uid := c.spec.Process.User.UID; uid != 0 {
		if err := unix.Fchown(int(inner), int(uid), -1); err != nil {
			return fmt.Errorf("give the terminal to user %d: %w", uid, err)
		}
	}
	for i := range c.in.Stdio {
		c.in.Stdio[i] = int(inner)
	}
	return nil
}

// enterRoot attaches everything in the new mount namespace and makes it the process's root.
func (c *compiler) enterRoot(mounts []mountStep) {
	c.call("make mounts private", "mount --make-rprivate /", unix.SYS_MOUNT, Int(0), Str("/"), Int(0), Int(unix.MS_REC|unix.MS_PRIVATE), Int(0))
	root := int(c.in.Root.Fd())
	c.call("attach the root", "# move_mount: ROOT is attached in the container's mount namespace and nowhere else", unix.SYS_MOVE_MOUNT,
		Int(root), Str(""), Int(unix.AT_FDCWD), Str("/"), Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
	c.call("enter the root", "cd ROOT", unix.SYS_FCHDIR, Int(root))
	for _, m := range mounts {
		name := fmt.Sprintf("mount %s at %s", m.spec.Type, m.spec.Destination)
		if m.fd != nil {
			c.attach(name, m, Int(int(m.fd.Fd())))
			continue
		}
		fs := c.call(name+" (fsopen)", nowhere, unix.SYS_FSOPEN, Str(m.spec.Type), Int(unix.FSOPEN_CLOEXEC))
		c.call(name+" (source)", nowhere, unix.SYS_FSCONFIG, Result(fs), Int(unix.FSCONFIG_SET_STRING), Str("source"), Str(m.spec.Type), Int(0))
		c.call(name+" (create)", nowhere, unix.SYS_FSCONFIG, Result(fs), Int(unix.FSCONFIG_CMD_CREATE), Int(0), Int(0), Int(0))
		mnt := c.call(name+" (fsmount)", nowhere, unix.SYS_FSMOUNT, Result(fs), Int(unix.FSMOUNT_CLOEXEC), Int(m.flags))
		c.attach(name, m, Result(mnt))
	}
	// The old root comes to lie over the new one at "."; taking it away leaves the new one (pivot_root(2), NOTES).
	c.call("make it the root", "pivot_root . .", unix.SYS_PIVOT_ROOT, Str("."), Str("."))
	c.call("let the old root go", "umount -l .", unix.SYS_UMOUNT2, Str("."), Int(unix.MNT_DETACH))
	c.call("enter the new root", "cd /", unix.SYS_CHDIR, Str("/"))
	if c.pty {
		c.call("mount the terminal at /dev/console", "mount --bind /dev/pts/0 /dev/console", unix.SYS_MOUNT,
			Str("/dev/pts/0"), Str("/dev/console"), Int(0), Int(unix.MS_BIND), Int(0))
	}
}

func (c *compiler) attach(name string, m mountStep, fd Arg) {
	c.call(name, c.shellMount(m.spec), unix.SYS_MOVE_MOUNT, fd, Str(""), Int(int(m.target.Fd())), Str(""),
		Int(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// shellMount is a mount in a shell's words, with what must be there before it and what is made in it.
func (c *compiler) shellMount(m specs.Mount) string {
	target := "ROOT" + m.Destination
	if m.Type == "bind" {
		s := "mount --bind " + quote(m.Source) + " " + quote(target)
		if strings.Contains(","+strings.Join(m.Options, ",")+",", ",ro,") {
			s += " && mount -o remount,bind,ro " + quote(target)
		}
		return s
	}
	s := "mount -t " + m.Type
	if len(m.Options) > 0 {
		s += " -o " + strings.Join(m.Options, ",")
	}
	s += " " + m.Type + " " + quote(target)
	switch {
	case m.Destination == "/dev":
		for _, n := range devices {
			s += fmt.Sprintf("\nmknod -m 666 ROOT/dev/%s c %d %d", n.name, n.major, n.minor)
		}
		for _, l := range deviceLinks {
			s += "\nln -s " + l[0] + " ROOT/dev/" + l[1]
		}
		if c.pty {
			s += "\ntouch ROOT/dev/console"
		}
	case strings.HasPrefix(m.Destination, "/dev/"):
		s = "mkdir " + quote(target) + "\n" + s
	}
	return s
}

// maskPaths hides and write-protects what of /proc and /sys is the host's. Both are verified to be what they should be before a path
// in them is used.
func (c *compiler) maskPaths() {
	l := c.spec.Linux
	if len(l.MaskedPaths)+len(l.ReadonlyPaths) == 0 {
		return
	}
	c.Plan.add(Step{Name: "check that /proc is procfs", Op: OpCheckFS, Args: []Arg{Str("/proc"), Int(unix.PROC_SUPER_MAGIC)}})
	c.Plan.add(Step{Name: "check that /sys is sysfs", Op: OpCheckFS, Args: []Arg{Str("/sys"), Int(unix.SYSFS_MAGIC)}})
	for _, p := range l.MaskedPaths {
		// The host's procfs and sysfs have the same names, and tell which are directories.
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			c.may(unix.ENOENT, "mask "+p, "mount -t tmpfs -o ro,size=0k tmpfs "+p, unix.SYS_MOUNT, Str("tmpfs"), Str(p), Str("tmpfs"), Int(unix.MS_RDONLY), Str("size=0k"))
		} else {
			c.may(unix.ENOENT, "mask "+p, "mount --bind /dev/null "+p, unix.SYS_MOUNT, Str("/dev/null"), Str(p), Int(0), Int(unix.MS_BIND), Int(0))
		}
	}
	for _, p := range l.ReadonlyPaths {
		bind := c.may(unix.ENOENT, "bind "+p, "mount --bind "+p+" "+p+" && mount -o remount,bind,ro "+p, unix.SYS_MOUNT,
			Str(p), Str(p), Int(0), Int(unix.MS_BIND|unix.MS_REC), Int(0))
		c.Plan.add(Step{Name: "write-protect " + p, Call: unix.SYS_MOUNT, Needs: bind, Args: []Arg{Int(0), Str(p), Int(0),
			Int(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC), Int(0)}})
	}
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// Quote makes a word safe to paste into a shell, and to show on a terminal.
func Quote(s string) string { return quote(s) }

func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-=,:+@%") == "" {
		return s
	}
	if strings.ContainsAny(s, "\n\r\t\x1b") {
		quoted := strconv.Quote(s)
		return "$'" + strings.ReplaceAll(quoted[1:len(quoted)-1], "'", `\'`) + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
