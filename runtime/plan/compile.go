package plan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/initproc"
)

// ErrUnsupported is what a spec is refused with that asks for something this compiler does not do.
var ErrUnsupported = errors.New("not supported")

// Inputs are what a plan is compiled of.
type Inputs struct {
	Spec      *specs.Spec
	Enter     *os.File // the pidfd of a process whose namespaces and root are entered, so that of the spec only the process counts; nil for new ones
	Pts       *os.File // with Enter: the devpts that a terminal is taken from; nil without a terminal
	Root      *os.File // a detached mount, which becomes /
	RootSteps []string // how it was made, in the words of mount(8)
	Cgroups   []string // v1 directories to join, before the cgroup namespace is made
	CgroupFD  int      // a v2 directory to be started in; -1 for none
	Stdio     [3]int   // descriptors; -1 for the console's
	PDeathSig unix.Signal
	Init      *os.File // the program that stays the first process, with the command as its child; nil for none
	Network   *os.File // a network namespace made for the process, with its loopback interface up; nil to have it make its own

	// Namespaces that the caller has opened, and made sure of, for the spec's that have a path. Those that are not here are opened by path.
	Namespaces map[specs.LinuxNamespaceType]*os.File
	// Mounts are detached mounts that the caller has made, by the destination of the spec's bind mount that they are for.
	Mounts map[string]*os.File
}

// Compiled is a plan with what it refers to, which must stay open until it has been walked.
type Compiled struct {
	Plan      *Plan
	Console   *os.File // the container's terminal, from outside; nil without one
	rootSteps []string
	cgroups   []string
	files     []*os.File
	entered   bool   // it is the plan of a process in namespaces that are there
	unshared  uint64 // CLONE_NEW*: the namespaces that are the process's own, whoever makes them
	pidJoined string // how a shell would join the pid namespace
}

// Close closes what the plan refers to, but not the console, which belongs to whoever talks to the container.
func (c *Compiled) Close() {
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
}

type compiler struct {
	*Compiled
	in   Inputs
	spec *specs.Spec
	dev  *os.File // the detached /dev, where there is one
	pty  bool
	join []joined
}

// Compile prepares what can be prepared in this process and returns the plan for the rest.
func Compile(in Inputs) (_ *Compiled, err error) {
	c := &compiler{in: in, spec: in.Spec, Compiled: &Compiled{Plan: &Plan{CgroupFD: in.CgroupFD, PidNS: -1, Steps: make([]Step, 0, 160)}, rootSteps: in.RootSteps, cgroups: in.Cgroups}}
	defer func() {
		if err != nil {
			c.Close()
			if c.Console != nil {
				c.Console.Close()
			}
		}
	}()
	if err := c.check(); err != nil {
		return nil, err
	}
	if in.Enter != nil {
		if err := c.enter(); err != nil {
			return nil, err
		}
		return c.Compiled, nil
	}
	if err := c.namespaces(); err != nil {
		return nil, err
	}
	mounts, err := c.prepareMounts()
	if err != nil {
		return nil, err
	}
	c.beginning()
	c.enterRoot(mounts)
	c.maskPaths()
	c.identity()
	return c.Compiled, nil
}

// check refuses by name what a spec may say and this compiler would otherwise pass over.
func (c *compiler) check() error {
	s := c.spec
	refuse := func(what string) error { return fmt.Errorf("%s: %w", what, ErrUnsupported) }
	switch {
	case s.Process == nil || len(s.Process.Args) == 0 || s.Linux == nil:
		return fmt.Errorf("the spec has no process, no arguments or no linux section: %w", ErrUnsupported)
	case s.Hooks != nil:
		return refuse("hooks")
	case s.Linux.Seccomp != nil:
		return refuse("linux.seccomp")
	case len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0:
		return refuse("linux.uidMappings")
	case len(s.Linux.Devices) > 0:
		return refuse("linux.devices")
	case len(s.Linux.Sysctl) > 0:
		return refuse("linux.sysctl")
	case s.Linux.Personality != nil:
		return refuse("linux.personality")
	case s.Process.ApparmorProfile != "" || s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "":
		return refuse("AppArmor and SELinux labels")
	case s.Process.OOMScoreAdj != nil:
		return refuse("process.oomScoreAdj")
	case s.Root != nil && s.Root.Readonly:
		return refuse("root.readonly")
	}
	return nil
}

var namespaceFlags = [...]struct {
	kind specs.LinuxNamespaceType
	flag uint64
	word string
}{
	{specs.PIDNamespace, unix.CLONE_NEWPID, "--pid --fork"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "--mount"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "--uts"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "--ipc"},
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "--net"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "--cgroup"},
}

// has says whether the container gets a new namespace of a kind.
func (c *compiler) has(kind specs.LinuxNamespaceType) bool {
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == kind && n.Path == "" {
			return true
		}
	}
	return false
}

func (c *compiler) namespaces() error {
	for _, n := range c.spec.Linux.Namespaces {
		known := false
		for _, f := range namespaceFlags {
			if f.kind != n.Type {
				continue
			}
			known = true
			if n.Path != "" {
				if err := c.joins(n, f.flag); err != nil {
					return err
				}
				continue
			}
			c.unshared |= f.flag
			// The cgroup namespace is made by the child once it has joined its cgroups: they become the namespace's root.
			if n.Type != specs.CgroupNamespace && (n.Type != specs.NetworkNamespace || c.in.Network == nil) {
				c.Plan.Flags |= f.flag
			}
		}
		if !known {
			return fmt.Errorf("a %s namespace %s: %w", n.Type, n.Path, ErrUnsupported)
		}
	}
	if c.Plan.Flags&unix.CLONE_NEWNS == 0 {
		return fmt.Errorf("a container in the host's mount namespace: %w", ErrUnsupported)
	}
	return nil
}

func (c *compiler) call(name, shell string, nr uintptr, args ...Arg) int {
	return c.Plan.add(Step{Name: name, Shell: shell, Call: nr, Args: args})
}

func (c *compiler) may(ok unix.Errno, name, shell string, nr uintptr, args ...Arg) int {
	return c.Plan.add(Step{Name: name, Shell: shell, Call: nr, Args: args, OK: []unix.Errno{ok}})
}

const nowhere = "" // a step that a learner need not see

// beginning makes the process nobody's: no descriptor, signal mask or terminal of the caller's, then its cgroups and their namespace.
func (c *compiler) beginning() {
	// From 3 on everything closes when the command begins, whatever happens on the way; the plan itself still uses some of them.
	c.call("mark the caller's descriptors to be closed", "# close_range: nothing but stdin, stdout and stderr stays open in the command",
		unix.SYS_CLOSE_RANGE, Int(3), Int(uint64(^uint32(0))), Int(unix.CLOSE_RANGE_CLOEXEC))
	if c.in.Init != nil {
		// What comes for init before it is there waits for it.
		c.signalMask("block all signals", 0xff)
	} else {
		c.signalMask("empty the signal mask", 0)
	}
	for _, sig := range ignoredSignals() {
		// Handlers go with the clone; what the caller ignores, as under nohup, would stay ignored.
		c.call(fmt.Sprintf("stop ignoring signal %d", sig), nowhere, unix.SYS_RT_SIGACTION, Int(sig), Data(make([]byte, 32)), Int(0), Int(8))
	}
	// What the caller's session keeps in its keyring is not the container's; the new one has no name and is empty (keyrings(7)).
	c.Plan.add(Step{Name: "begin a session keyring", Shell: "keyctl new_session", Call: unix.SYS_KEYCTL, Args: []Arg{Int(unix.KEYCTL_JOIN_SESSION_KEYRING), Int(0)},
		OK: []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EDQUOT}})
	c.call("begin a session", "setsid  # no process of the container can type into the caller's terminal", unix.SYS_SETSID)
	for i, fd := range c.in.Stdio {
		if fd == i {
			c.call(fmt.Sprintf("keep descriptor %d", i), nowhere, unix.SYS_FCNTL, Int(fd), Int(unix.F_SETFD), Int(0))
		} else {
			c.call(fmt.Sprintf("set descriptor %d", i), nowhere, unix.SYS_DUP3, Int(fd), Int(i), Int(0))
		}
	}
	if c.in.Init == nil {
		c.takeTerminal()
	}
	for _, dir := range c.in.Cgroups {
		file := path.Join(dir, "tasks")
		// "0" is whoever writes; writing a pid to cgroup.procs instead waits for an RCU grace period.
		fd := c.call("open "+file, nowhere, unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str(file), Int(unix.O_WRONLY|unix.O_CLOEXEC))
		c.call("join cgroup "+dir, "echo 0 > "+file, unix.SYS_WRITE, Result(fd), Data([]byte("0")), Int(1))
	}
	c.joinNamespaces()
	if c.in.Network != nil {
		c.call("enter the network namespace", "ip link set lo up  # a thread made the network namespace and did this meanwhile: here is setns",
			unix.SYS_SETNS, Int(int(c.in.Network.Fd())), Int(unix.CLONE_NEWNET))
	}
	if c.has(specs.CgroupNamespace) {
		c.call("make a cgroup namespace", "# unshare --cgroup: the cgroups joined are now the root of what the container sees",
			unix.SYS_UNSHARE, Int(unix.CLONE_NEWCGROUP))
	}
}

// ignoredSignals lists the signals that this process ignores.
func ignoredSignals() []int {
	var list []int
	for sig := 1; sig <= 64; sig++ {
		var action [4]uint64 // struct sigaction of the kernel; the handler comes first
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0, uintptr(unsafe.Pointer(&action)), 8, 0, 0)
		if errno == 0 && action[0] == 1 { // SIG_IGN
			list = append(list, sig)
		}
	}
	return list
}

// identity makes the process what the command is run as, and becomes it.
func (c *compiler) identity() {
	p := c.spec.Process
	if name := c.spec.Hostname; name != "" && c.has(specs.UTSNamespace) {
		c.call("set host name", "hostname "+quote(name), unix.SYS_SETHOSTNAME, Data([]byte(name)), Int(len(name)))
	}
	if c.in.Network == nil && c.has(specs.NetworkNamespace) {
		fd := c.call("open a socket for the loopback interface", nowhere, unix.SYS_SOCKET, Int(unix.AF_INET), Int(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), Int(0))
		ifreq := make([]byte, 40) // struct ifreq: the interface's name, then its flags
		copy(ifreq, "lo")
		binary.LittleEndian.PutUint16(ifreq[16:], unix.IFF_UP)
		c.call("bring up the loopback interface", "ip link set lo up", unix.SYS_IOCTL, Result(fd), Int(unix.SIOCSIFFLAGS), Data(ifreq))
	}
	for _, r := range p.Rlimits {
		c.rlimit(r)
	}
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	c.call("set umask", fmt.Sprintf("umask %04o", umask), unix.SYS_UMASK, Int(umask))
	// Now, and not when the command begins: names are looked up from here on that the image chose, and /proc/self/fd must lead nowhere.
	keep := 0
	if c.in.Init != nil {
		keep = int(c.in.Init.Fd()) // it is sealed, and leads nowhere
	}
	c.Plan.add(Step{Name: "close the caller's descriptors", Op: OpCloseRest, Args: []Arg{Int(keep)}})
	c.workDir(p.Cwd, c.in.Enter == nil)
	c.bounding()
	groups := make([]byte, 0, 4*len(p.User.AdditionalGids)+4)
	for _, g := range p.User.AdditionalGids {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	n := len(groups) / 4
	c.call("set supplementary groups", nowhere, unix.SYS_SETGROUPS, Int(n), Data(append(groups, 0)))
	c.call("set group", nowhere, unix.SYS_SETRESGID, Int(p.User.GID), Int(p.User.GID), Int(p.User.GID))
	c.call("set user", fmt.Sprintf("# setpriv --reuid %d --regid %d --groups %v", p.User.UID, p.User.GID, p.User.AdditionalGids),
		unix.SYS_SETRESUID, Int(p.User.UID), Int(p.User.UID), Int(p.User.UID))
	if p.User.UID == 0 {
		c.capset()
	}
	if c.in.PDeathSig != 0 {
		c.call("die with the caller", nowhere, unix.SYS_PRCTL, Int(unix.PR_SET_PDEATHSIG), Int(int(c.in.PDeathSig)))
		// Who died before that sends no signal.
		c.Plan.add(Step{Name: "make sure of the caller", Op: OpCaller})
	}
	if p.NoNewPrivileges {
		c.call("give up new privileges", "# setpriv --no-new-privs", unix.SYS_PRCTL, Int(unix.PR_SET_NO_NEW_PRIVS), Int(1), Int(0), Int(0), Int(0))
	}
	if c.in.Init != nil {
		c.init()
		return
	}
	c.run()
}

// run becomes the command.
func (c *compiler) run() {
	p := c.spec.Process
	c.Plan.add(Step{Name: "run " + p.Args[0], Shell: "exec " + quoteAll(p.Args), Op: OpExecAny,
		Args: []Arg{List(candidates(p.Args[0], p.Env)), List(p.Args), List(p.Env)}})
}

// init leaves the command to a second process and becomes init, with the command's pidfd for its stdin (see package initproc). The
// second process has what the first would have without init: a session, its terminal, an empty signal mask.
func (c *compiler) init() {
	if !c.has(specs.PIDNamespace) {
		c.call("adopt orphans", "# prctl: the command's orphans become children of init", unix.SYS_PRCTL, Int(unix.PR_SET_CHILD_SUBREAPER), Int(1), Int(0), Int(0), Int(0))
	}
	fork := c.Plan.add(Step{Name: "make the command's process", Shell: "(  # a second process becomes the command", Op: OpFork})
	c.call("begin the command's session", "setsid", unix.SYS_SETSID)
	c.takeTerminal()
	c.signalMask("empty the signal mask", 0)
	c.run()
	c.Plan.Steps[fork-1].Args = []Arg{Int(len(c.Plan.Steps) - fork)}
	c.call("give init the command's pidfd", ") &", unix.SYS_DUP3, Result(fork), Int(0), Int(0))
	argv := append([]string{initproc.Name, "--"}, c.spec.Process.Args...)
	c.call("become init", "exec "+quoteAll(argv)+"  # execveat, of a sealed file in memory", unix.SYS_EXECVEAT,
		Int(int(c.in.Init.Fd())), Str(""), List(argv), List(c.spec.Process.Env), Int(unix.AT_EMPTY_PATH))
}

// takeTerminal makes the container's terminal, where it has one, that of the session that has just begun.
func (c *compiler) takeTerminal() {
	if c.pty {
		c.call("take the terminal", "# ioctl TIOCSCTTY: the container's own terminal controls its session", unix.SYS_IOCTL, Int(0), Int(unix.TIOCSCTTY), Int(0))
	}
}

// signalMask sets the signal mask to a byte, eight times.
func (c *compiler) signalMask(name string, b byte) {
	c.call(name, nowhere, unix.SYS_RT_SIGPROCMASK, Int(unix.SIG_SETMASK), Data(bytes.Repeat([]byte{b}, 8)), Int(0), Int(8))
}

// workDir enters the working directory. In a new container it is made where it is missing, as Docker does; that is the child's work: the
// directory may lie in one of the mounts.
func (c *compiler) workDir(dir string, make bool) {
	dir = path.Clean("/" + dir)
	for i := 1; make && i < len(dir); i++ {
		if i+1 < len(dir) && dir[i+1] != '/' {
			continue
		}
		part := dir[:i+1]
		// What is there may be a link, and one that does not lead to a directory is told by chdir.
		c.Plan.add(Step{Name: "make working directory " + part, Call: unix.SYS_MKDIRAT, Args: []Arg{Int(unix.AT_FDCWD), Str(part), Int(0o755)},
			OK: []unix.Errno{unix.EEXIST, unix.ENOTDIR, unix.EROFS}, Cwd: true})
	}
	shell := "cd " + quote(dir)
	if make && dir != "/" {
		shell = "mkdir -p " + quote(dir) + " && " + shell
	}
	c.Plan.add(Step{Name: "working directory " + dir, Shell: shell, Call: unix.SYS_CHDIR, Args: []Arg{Str(dir)}, Cwd: true})
}

// candidates are the paths that a command's name may mean, as execvp finds them in PATH.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") || name == "" {
		return []string{name}
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	var list []string
	for _, dir := range strings.Split(search, ":") {
		if dir == "" {
			dir = "."
		}
		list = append(list, dir+"/"+name)
	}
	return list
}

func (c *compiler) rlimit(r specs.POSIXRlimit) {
	n, ok := rlimitNumber(r.Type)
	if !ok {
		return
	}
	b := binary.LittleEndian.AppendUint64(nil, r.Soft)
	b = binary.LittleEndian.AppendUint64(b, r.Hard)
	c.call("set "+r.Type, fmt.Sprintf("# prlimit: %s=%d:%d", r.Type, r.Soft, r.Hard), unix.SYS_PRLIMIT64, Int(0), Int(n), Data(b), Int(0))
}

func rlimitNumber(name string) (int, bool) {
	for i, n := range []string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"} {
		if name == "RLIMIT_"+n {
			return i, true
		}
	}
	return 0, false
}

// capabilityMask turns names into bits. Names that the kernel does not have are passed over, as Docker does.
func capabilityMask(names []string) uint64 {
	var mask uint64
	for _, c := range capability.ListKnown() {
		for _, name := range names {
			if short, ok := strings.CutPrefix(name, "CAP_"); ok && strings.EqualFold(short, c.String()) {
				mask |= 1 << uint(c)
			}
		}
	}
	return mask
}

// bounding drops from the bounding set what the spec does not list: nothing that is executed later can have it.
func (c *compiler) bounding() {
	caps := c.spec.Process.Capabilities
	if caps == nil {
		return
	}
	keep := capabilityMask(caps.Bounding)
	shell := "# setpriv --bounding-set: " + strings.ToLower(strings.ReplaceAll(strings.Join(caps.Bounding, ","), "CAP_", "+"))
	for n := range lastCapability() + 1 {
		if keep&(1<<uint(n)) == 0 {
			c.call("drop capability "+strconv.Itoa(n)+" from the bounding set", shell, unix.SYS_PRCTL, Int(unix.PR_CAPBSET_DROP), Int(n), Int(0), Int(0), Int(0))
			shell = nowhere
		}
	}
}

// lastCapability asks the kernel which capabilities it knows (capabilities(7): PR_CAPBSET_READ refuses others).
func lastCapability() int {
	known := func(n int) bool {
		_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		return err == nil
	}
	n := unix.CAP_LAST_CAP
	for n > 0 && !known(n) {
		n--
	}
	for n < 63 && known(n+1) {
		n++
	}
	return n
}

// capset sets root's capabilities. The kernel refuses what the process itself does not have.
func (c *compiler) capset() {
	caps := c.spec.Process.Capabilities
	if caps == nil {
		return
	}
	eff, perm, inh := capabilityMask(caps.Effective), capabilityMask(caps.Permitted), capabilityMask(caps.Inheritable)
	if have, ok := ownCapabilities(); ok {
		eff, perm, inh = eff&have, perm&have, inh&have
	}
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []uint64{eff, perm, inh} {
			data = binary.LittleEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	head := binary.LittleEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	c.call("set capabilities", fmt.Sprintf("# capset: effective and permitted %#x", eff), unix.SYS_CAPSET, Data(append(head, 0, 0, 0, 0)), Data(data))
}

// ownCapabilities reads this process's permitted set.
func ownCapabilities() (uint64, bool) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, false
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, true
}
