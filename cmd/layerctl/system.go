package main

import (
	"fmt"
	goruntime "runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/cgroup"
)

func (a *app) versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			v := struct{ Version, Commit, Built, GoVersion, Os, Arch string }{version, commit, date, goruntime.Version(), goruntime.GOOS, goruntime.GOARCH}
			if format != "" {
				return printDocument(a.stdout, format, v, v)
			}
			_, err := fmt.Fprintf(a.stdout, "layerctl %s\ncommit    %s\nbuilt     %s\ngo        %s\nplatform  %s/%s\n",
				v.Version, v.Commit, v.Built, v.GoVersion, v.Os, v.Arch)
			return err
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

// hostInfo is the answer of `info`, in Docker's field names where Docker has the field.
type hostInfo struct {
	Version           string
	LayerctlRootDir   string
	RunRootDir        string
	Images            int
	Containers        int
	ContainersRunning int
	ContainersStopped int
	Driver            string
	DriverStatus      [][2]string
	CgroupVersion     string
	KernelVersion     string
	Architecture      string
	NCPU              int
	MemTotal          int64
}

func (a *app) infoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show the store, the kernel and what was found of it",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, err := a.hostInfo(cmd)
			if err != nil {
				return err
			}
			if format != "" {
				return printDocument(a.stdout, format, info, info)
			}
			var status strings.Builder
			for _, kv := range info.DriverStatus {
				fmt.Fprintf(&status, "\n  %s: %s", kv[0], kv[1])
			}
			_, err = fmt.Fprintf(a.stdout, `Version: %s
Store: %s
Run root: %s
Images: %d
Containers: %d
 Running: %d
 Stopped: %d
Driver: %s%s
Cgroup Version: %s
Kernel Version: %s
Architecture: %s
CPUs: %d
Total Memory: %s
`, info.Version, info.LayerctlRootDir, info.RunRootDir, info.Images, info.Containers, info.ContainersRunning, info.ContainersStopped,
				info.Driver, status.String(), info.CgroupVersion, info.KernelVersion, info.Architecture, info.NCPU, humanSize(info.MemTotal))
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "a Go template, or json")
	return cmd
}

func (a *app) hostInfo(cmd *cobra.Command) (hostInfo, error) {
	images, snaps, containers, err := a.stores()
	if err != nil {
		return hostInfo{}, err
	}
	list, err := images.List(cmd.Context())
	if err != nil {
		return hostInfo{}, err
	}
	ids := map[string]bool{}
	for _, img := range list {
		ids[img.ID] = true
	}
	all, err := containers.List(cmd.Context(), true)
	if err != nil {
		return hostInfo{}, err
	}
	info := hostInfo{
		Version: version, LayerctlRootDir: a.Root, RunRootDir: a.RunRoot, Images: len(ids), Containers: len(all),
		Driver: "overlay", CgroupVersion: cgroup.Version(), Architecture: goruntime.GOARCH, NCPU: goruntime.NumCPU(),
	}
	for _, c := range all {
		if c.State.Running() {
			info.ContainersRunning++
		} else {
			info.ContainersStopped++
		}
	}
	if info.DriverStatus, err = snaps.Status(); err != nil {
		return hostInfo{}, err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return hostInfo{}, fmt.Errorf("read the kernel's version: %w", err)
	}
	info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	var sys unix.Sysinfo_t
	if err := unix.Sysinfo(&sys); err != nil {
		return hostInfo{}, fmt.Errorf("read the memory's size: %w", err)
	}
	info.MemTotal = int64(uint64(sys.Totalram) * uint64(sys.Unit))
	return info, nil
}
