package spec

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Options are what a container's spec is built of. Everything is resolved: users are numbers, the command is complete.
type Options struct {
	Args           []string
	Env            []string
	Cwd            string
	UID, GID       uint32
	Groups         []uint32
	Hostname       string
	Terminal       bool
	Shared         map[specs.LinuxNamespaceType]string // namespaces that are not new: "host", or the path of one to join
	Shm            string                              // what is mounted at /dev/shm instead of a new file system; "" for that
	NoNewPrivs     bool
	MayMakeDevices bool        // the cgroup limits devices, so CAP_MKNOD is harmless
	Files          [][2]string // host file, path inside: bind mounts
	SoftFiles      uint64      // RLIMIT_NOFILE
	HardFiles      uint64
}

// defaultPath is the PATH of a container whose image has none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultCapabilities are Docker's (profiles of moby/moby, oci/caps).
func defaultCapabilities(makeDevices bool) []string {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	if makeDevices {
		caps = append(caps, "CAP_MKNOD")
	}
	return caps
}

// Build makes the spec.
func Build(o Options) *specs.Spec {
	s := &specs.Spec{
		Version:  "1.2.0",
		Hostname: o.Hostname,
		Process:  process(o),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			// Docker's defaults (moby/moby, oci/defaults.go).
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
				"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	for _, kind := range [...]specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.UTSNamespace, specs.IPCNamespace, specs.CgroupNamespace,
		specs.NetworkNamespace} {
		if path := o.Shared[kind]; path != "host" {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Destination == "/dev/shm" && o.Shm != "" {
			m.Type, m.Source, m.Options = "bind", o.Shm, []string{"bind"}
		}
	}
	for _, f := range o.Files {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: f[1], Type: "bind", Source: f[0], Options: []string{"bind", "rprivate"}})
	}
	return s
}

// Process makes the spec of one more process in a container that runs: everything else is there already.
func Process(o Options) *specs.Spec {
	return &specs.Spec{Version: "1.2.0", Process: process(o), Linux: &specs.Linux{}}
}

// process is what a process may do and be, alike for the first of a container and every other.
func process(o Options) *specs.Process {
	caps := defaultCapabilities(o.MayMakeDevices)
	set := &specs.LinuxCapabilities{Bounding: caps}
	if o.UID == 0 {
		set.Effective, set.Permitted = caps, caps
	}
	return &specs.Process{
		Args: o.Args, Env: o.Env, Cwd: o.Cwd, Terminal: o.Terminal, NoNewPrivileges: o.NoNewPrivs,
		User:         specs.User{UID: o.UID, GID: o.GID, AdditionalGids: o.Groups},
		Capabilities: set,
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: o.SoftFiles, Hard: o.HardFiles}},
	}
}

// Environment joins what every container has, what the image sets, and what the user sets; the later wins. A name alone, without "=", is
// unset.
func Environment(image, user []string, hostname, home string, terminal bool) []string {
	env := append([]string(nil), image...)
	set := func(name, value string) {
		for i, kv := range env {
			if strings.HasPrefix(kv, name+"=") {
				env[i] = name + "=" + value
				return
			}
		}
		env = append(env, name+"="+value)
	}
	if !hasName(env, "PATH") {
		env = append([]string{defaultPath}, env...)
	}
	if !hasName(env, "HOSTNAME") {
		set("HOSTNAME", hostname)
	}
	if terminal && !hasName(env, "TERM") {
		set("TERM", "xterm")
	}
	if !hasName(env, "HOME") {
		set("HOME", home)
	}
	for _, kv := range user {
		name, value, given := strings.Cut(kv, "=")
		if !given {
			env = without(env, name)
			continue
		}
		set(name, value)
	}
	return env
}

func hasName(env []string, name string) bool {
	for _, kv := range env {
		if strings.HasPrefix(kv, name+"=") {
			return true
		}
	}
	return false
}

func without(env []string, name string) []string {
	kept := env[:0]
	for _, kv := range env {
		if !strings.HasPrefix(kv, name+"=") {
			kept = append(kept, kv)
		}
	}
	return kept
}
