package spec

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestEnvironment(t *testing.T) {
	for _, row := range []struct {
		name        string
		image, user []string
		terminal    bool
		want        []string
	}{
		{"nothing", nil, nil, false, []string{defaultPath, "HOSTNAME=box", "HOME=/root"}},
		{"the image's own", []string{"PATH=/bin", "A=1", "HOME=/srv"}, nil, false, []string{"PATH=/bin", "A=1", "HOME=/srv", "HOSTNAME=box"}},
		{"a terminal", nil, nil, true, []string{defaultPath, "HOSTNAME=box", "TERM=xterm", "HOME=/root"}},
		{"the user wins", []string{"A=1"}, []string{"A=2", "A=3", "HOSTNAME=mine"}, false, []string{defaultPath, "A=3", "HOSTNAME=mine", "HOME=/root"}},
		{"names alone", []string{"GONE=1"}, []string{"GONE", "NEVER"}, false, []string{defaultPath, "HOSTNAME=box", "HOME=/root"}},
		{"the image's host name", []string{"HOSTNAME=its"}, nil, false, []string{defaultPath, "HOSTNAME=its", "HOME=/root"}},
		{"empty values", nil, []string{"A=", "B=c=d"}, false, []string{defaultPath, "HOSTNAME=box", "HOME=/root", "A=", "B=c=d"}},
	} {
		if got := Environment(row.image, row.user, "box", "/root", row.terminal); !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

func TestBuild(t *testing.T) {
	has := func(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
		return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	}
	s := Build(Options{Args: []string{"true"}, MayMakeDevices: true, Files: [][2]string{{"/a", "/etc/hosts"}}})
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.UTSNamespace, specs.IPCNamespace, specs.CgroupNamespace, specs.NetworkNamespace} {
		if !has(s, kind) {
			t.Errorf("no %s namespace", kind)
		}
	}
	if has(s, specs.UserNamespace) {
		t.Error("a user namespace that nobody asked for")
	}
	caps := s.Process.Capabilities
	if len(caps.Bounding) != 14 || !slices.Equal(caps.Bounding, caps.Effective) || len(caps.Inheritable)+len(caps.Ambient) != 0 {
		t.Errorf("root's capabilities: %+v", caps)
	}
	if last := s.Mounts[len(s.Mounts)-1]; last.Source != "/a" || last.Destination != "/etc/hosts" || last.Type != "bind" {
		t.Errorf("%+v", last)
	}

	s = Build(Options{UID: 1000, Shared: map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "host"}})
	if has(s, specs.NetworkNamespace) {
		t.Error("the host's network was asked for")
	}
	if caps := s.Process.Capabilities; len(caps.Effective)+len(caps.Permitted) != 0 || slices.Contains(caps.Bounding, "CAP_MKNOD") {
		t.Errorf("an ordinary user's capabilities where devices are not limited: %+v", caps)
	}
	for _, c := range []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_SYS_MODULE"} {
		if slices.Contains(s.Process.Capabilities.Bounding, c) {
			t.Errorf("%s is not among Docker's defaults", c)
		}
	}
}
