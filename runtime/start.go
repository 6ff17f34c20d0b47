package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/initproc"
	"github.com/layerctl/layerctl/runtime/network"
	"github.com/layerctl/layerctl/runtime/plan"
	"github.com/layerctl/layerctl/runtime/spec"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// prepared is a container ready to be started, with everything that it holds.
type prepared struct {
	*plan.Compiled
	root  *snapshot.Root
	group *cgroup.Group
	v2    *os.File
	init  *os.File // the program, with Config.Init
	of    *shared

	network *network.Pending // nil in one that is there
}

func (p *prepared) close() {
	if p.Compiled != nil {
		p.Compiled.Close()
	}
	if p.v2 != nil {
		p.v2.Close()
	}
	if p.init != nil {
		p.init.Close()
	}
	if p.network != nil {
		p.network.Close()
	}
	if p.root != nil {
		p.root.Close()
	}
	if p.of != nil {
		p.of.close()
	}
}

// prepare mounts the container's root, attached nowhere, finds in it what the command line names, and compiles the start plan.
func (s *Store) prepare(ctx context.Context, r *recorded, stdio [3]int) (_ *prepared, err error) {
	c := &r.Config
	p := &prepared{group: cgroup.Of(c.ID), network: r.network}
	r.network = nil
	if p.network == nil && c.Network == "none" {
		p.network = network.Begin()
	}
	defer func() {
		if err != nil {
			p.close()
			p.group.Remove()
		}
	}()
	if p.of, err = s.share(ctx, c); err != nil {
		return nil, err
	}
	if p.root, err = s.snaps.Attach(ctx, snapshotKey(c.ID), snapshot.AttachOptions{Init: true, Volatile: c.AutoRemove}); err != nil {
		return nil, err
	}
	failpoint.Hit("start/attached")
	root := p.root.FD
	user, err := findUser(root, c.User)
	if err != nil {
		return nil, err
	}
	files, err := s.makeFiles(c, p.of.net)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("start/files")
	if err := p.group.Make(); err != nil {
		return nil, err
	}
	failpoint.Hit("start/cgroups")
	if c.PidMode != "" && len(p.group.Dirs) == 0 {
		return nil, Refuse("--pid %s where no cgroup can be made: nothing else would know all processes of the container", c.PidMode)
	}
	if p.v2, err = p.group.OpenV2(); err != nil {
		return nil, err
	}
	if c.Init {
		if p.init, err = initproc.Memory(); err != nil {
			return nil, err
		}
	}
	soft, hard, err := fileLimits()
	if err != nil {
		return nil, err
	}
	in := plan.Inputs{
		Spec: spec.Build(spec.Options{
			Args: c.Command, Env: spec.Environment(c.Image.Settings.Env, c.Env, c.Hostname, user.home, c.TTY), Cwd: c.WorkDir,
			UID: user.uid, GID: user.gid, Groups: user.groups, Hostname: c.Hostname, Terminal: c.TTY,
			Shared: p.of.spec, Shm: p.of.shm,
			MayMakeDevices: p.group.LimitsDevices(), Files: files, SoftFiles: soft, HardFiles: hard,
		}),
		Root: root, RootSteps: p.root.Steps, Cgroups: p.group.V1(), CgroupFD: -1, Stdio: stdio, PDeathSig: unix.SIGKILL, Init: p.init,
		Namespaces: p.of.opened, Mounts: p.of.mounts,
	}
	if p.v2 != nil {
		in.CgroupFD = int(p.v2.Fd())
	}
	if p.network != nil {
		if in.Network, err = p.network.Wait(); errors.Is(err, unix.ENOSPC) { // namespaces(7): not a matter of disks
			err = fmt.Errorf("%w: %w", executor.ErrNamespaces, err)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.Compiled, err = plan.Compile(in); err != nil {
		return nil, err
	}
	return p, nil
}

// fileLimits is RLIMIT_NOFILE for the container: Go raised the soft limit of this process to the hard one, which is nobody's wish.
func fileLimits() (soft, hard uint64, err error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, 0, fmt.Errorf("read RLIMIT_NOFILE: %w", err)
	}
	return min(1024, r.Max), r.Max, nil
}

// start walks the plan. The calling goroutine must keep its thread until the container has ended: the kernel ends the container with it.
func (p *prepared) start(vfork bool) (*executor.Process, error) {
	g, err := executor.Load(p.Plan)
	if err != nil {
		return nil, err
	}
	goruntime.LockOSThread()
	return executor.Start(g, vfork)
}

// exitCode is the status with which a run ends that failed by err, as Docker has it.
func exitCode(err error) int {
	var said *ExitError
	switch {
	case errors.As(err, &said):
		return said.Code
	case errors.Is(err, executor.ErrNotFound):
		return 127
	case errors.Is(err, executor.ErrNotExecutable), errors.Is(err, executor.ErrWorkDir):
		return 126
	}
	return 125
}

// makeFiles makes what is mounted over the files in /etc that tell a machine who it is, and returns where they go. A container that has
// another one's network has that one's files.
func (s *Store) makeFiles(c *Config, net *Container) ([][2]string, error) {
	if net != nil {
		var files [][2]string
		for _, name := range [...]string{"hosts", "hostname", "resolv.conf"} {
			files = append(files, [2]string{s.volatile(&net.Config, name), "/etc/" + name})
		}
		return files, nil
	}
	hosts := "127.0.0.1\tlocalhost " + c.Hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	resolv := "# The container has no network: there is nobody to ask.\n"
	if c.Network == "host" {
		for file, content := range map[string]*string{"/etc/hosts": &hosts, "/etc/resolv.conf": &resolv} {
			if b, err := os.ReadFile(file); err == nil {
				*content = string(b)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("copy the host's %s: %w", file, err)
			}
		}
	}
	var files [][2]string
	for _, f := range [...][2]string{{"hosts", hosts}, {"hostname", c.Hostname + "\n"}, {"resolv.conf", resolv}} {
		path := s.volatile(c, f[0])
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
		if err == nil {
			_, err = unix.Write(fd, []byte(f[1]))
			if err == nil {
				err = unix.Fchmod(fd, 0o644) // whatever the caller's umask is
			}
			unix.Close(fd)
		}
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		files = append(files, [2]string{path, "/etc/" + f[0]})
	}
	return files, nil
}
