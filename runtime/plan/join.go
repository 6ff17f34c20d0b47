package plan

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// joined is a namespace that the process enters instead of getting a new one.
type joined struct {
	file *os.File
	kind specs.LinuxNamespaceType
	flag uint64
	path string
}

// joins notes a namespace of the spec's that has a path, and makes sure that what is there is one of its kind (ioctl_ns(2)).
func (c *compiler) joins(n specs.LinuxNamespace, flag uint64) error {
	fail := func(err error) error { return fmt.Errorf("join %s namespace %s: %w", n.Type, n.Path, err) }
	if n.Type == specs.MountNamespace {
		return fail(ErrUnsupported) // the root of a new container is attached in its own
	}
	f := c.in.Namespaces[n.Type]
	if f == nil {
		var err error
		if f, err = os.Open(n.Path); err != nil {
			return fail(err)
		}
		c.files = append(c.files, f)
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || uint64(kind) != flag {
		return fail(fmt.Errorf("it is no %s namespace: %w", n.Type, unix.EINVAL))
	}
	if n.Type == specs.PIDNamespace {
		c.Plan.PidNS = int(f.Fd())
		c.pidJoined = "nsenter --pid=" + quote(n.Path) + " "
		return nil
	}
	c.join = append(c.join, joined{f, n.Type, flag, n.Path})
	return nil
}

// joinNamespaces enters the noted ones. The file systems that show a namespace are mounted later, and show these.
func (c *compiler) joinNamespaces() {
	for _, j := range c.join {
		word := ""
		for _, f := range namespaceFlags {
			if f.flag == j.flag {
				word = f.word
			}
		}
		c.call("join the "+string(j.kind)+" namespace "+j.path, "# setns: as nsenter "+word+"="+quote(j.path), unix.SYS_SETNS, Int(int(j.file.Fd())), Int(j.flag))
	}
}

// enter plans a process in the namespaces that another one has, with that one's mounts: what `exec` starts. The plan makes nothing.
func (c *compiler) enter() error {
	pid, err := pidOf(c.in.Enter)
	if err != nil {
		return err
	}
	c.entered, c.pty = true, c.spec.Process.Terminal
	if c.pty {
		if c.in.Pts == nil {
			return fmt.Errorf("a terminal without a devpts: %w", ErrUnsupported)
		}
		if err := c.openConsole(c.in.Pts); err != nil {
			return fmt.Errorf("make a terminal: %w", err)
		}
	}
	if err := c.streams(); err != nil {
		return err
	}
	c.Plan.PidNS = int(c.in.Enter.Fd())
	c.beginning()
	var flags uint64
	words := ""
	for _, f := range namespaceFlags {
		// The pid namespace is that of which the process was made; the mount namespace brings its root and working directory (setns(2)).
		if f.kind != specs.PIDNamespace {
			flags |= f.flag
		}
		word, _, _ := strings.Cut(f.word, " ")
		words += " " + word
	}
	c.call("enter the container's namespaces", fmt.Sprintf("nsenter --target %d%s", pid, words), unix.SYS_SETNS, Int(int(c.in.Enter.Fd())), Int(flags))
	c.identity()
	return nil
}

// pidOf is the pid of a pidfd's process, for those who read.
func pidOf(pidFD *os.File) (pid int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidFD.Fd()))
	if err != nil {
		return 0, fmt.Errorf("look up the process: %w", err)
	}
	_, after, _ := strings.Cut(string(b), "\nPid:\t")
	if _, err := fmt.Sscanf(after, "%d\n", &pid); err != nil || pid <= 0 {
		return 0, fmt.Errorf("enter the namespaces of a process that has ended: %w", unix.ESRCH)
	}
	return pid, nil
}
