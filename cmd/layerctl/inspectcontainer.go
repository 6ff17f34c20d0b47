package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layerctl/layerctl/runtime"
)

// containerDetails is what inspect shows of a container: Docker's fields and nesting, of what there is. A field that Docker has and that
// is missing here would have nothing to say.
type containerDetails struct {
	ID             string `json:"Id"`
	Created        string
	Path           string
	Args           []string
	State          containerState
	Image          string // the image's ID
	ResolvConfPath string
	HostnamePath   string
	HostsPath      string
	LogPath        string
	Name           string
	RestartCount   int
	Driver         string
	Platform       string
	ExecIDs        []string
	HostConfig     containerHostConfig
	RootFS         string `json:",omitempty"` // the directory that it was made on instead of an image
	GraphDriver    struct {
		Name string
		Data map[string]string
	}
	Config containerConfig
}

type containerState struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
}

type containerHostConfig struct {
	LogConfig struct {
		Type   string
		Config map[string]string
	}
	NetworkMode   string
	RestartPolicy struct {
		Name              string
		MaximumRetryCount int
	}
	AutoRemove bool
	PidMode    string
	IpcMode    string
	UTSMode    string
	Init       bool
}

type containerConfig struct {
	Hostname     string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Image        string
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string
	StopTimeout  int
}

func (in inspector) container(ctx context.Context, c *runtime.Container) (containerDetails, error) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	s := c.State
	d := containerDetails{ID: c.ID, Created: stamp(c.Created), Path: c.Command[0], Args: orEmpty(c.Command[1:]), Image: c.Image.ID, Name: c.Name,
		RestartCount: s.RestartCount, Driver: "overlay", Platform: "linux", RootFS: c.RootFS}
	d.State = containerState{Status: string(s.Status), Paused: s.Status == runtime.StatusPaused, Restarting: s.Status == runtime.StatusRestarting,
		OOMKilled: s.OOMKilled, Dead: s.Status == runtime.StatusDead, Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error,
		StartedAt: stamp(s.StartedAt), FinishedAt: stamp(s.FinishedAt)}
	d.State.Running = s.Running() || d.State.Restarting // as Docker counts it
	p := in.containers.Paths(c)
	d.ResolvConfPath, d.HostnamePath, d.HostsPath, d.LogPath = p.ResolvConf, p.Hostname, p.Hosts, p.Log
	d.ExecIDs = orEmpty(in.containers.ExecIDs(c))

	h := &d.HostConfig
	h.LogConfig.Type, h.LogConfig.Config = c.LogDriver, map[string]string{}
	if c.LogOpts.MaxSize > 0 {
		h.LogConfig.Config["max-size"] = strconv.FormatInt(c.LogOpts.MaxSize, 10)
	}
	if c.LogOpts.MaxFile > 0 {
		h.LogConfig.Config["max-file"] = strconv.Itoa(c.LogOpts.MaxFile)
	}
	h.NetworkMode, h.AutoRemove, h.Init = c.Network, c.AutoRemove, c.Init
	h.PidMode, h.IpcMode, h.UTSMode = c.PidMode, cmp.Or(c.IPCMode, "private"), c.UTSMode
	h.RestartPolicy.Name, h.RestartPolicy.MaximumRetryCount = cmp.Or(c.Restart.Name, "no"), c.Restart.Max

	signal, timeout := c.EndsBy()
	d.Config = containerConfig{Hostname: c.Hostname, User: c.User, AttachStdin: c.Attached && c.Interactive, AttachStdout: c.Attached, AttachStderr: c.Attached,
		Tty: c.TTY, OpenStdin: c.Interactive, StdinOnce: c.StdinOnce, Env: orEmpty(environment(c)), Cmd: c.Command[c.Entrypoint:], Image: c.Image.Name,
		WorkingDir: c.WorkDir, Entrypoint: c.Command[:c.Entrypoint], Labels: c.Labels, StopSignal: runtime.SignalName(signal), StopTimeout: timeout}
	if d.Config.Labels == nil {
		d.Config.Labels = map[string]string{}
	}
	upper, lowers, err := in.containers.Dirs(ctx, c)
	if err != nil {
		return d, fmt.Errorf("inspect: %w", err)
	}
	d.GraphDriver.Name = "overlay"
	d.GraphDriver.Data = map[string]string{"UpperDir": upper, "LowerDir": strings.Join(lowers, ":")}
	return d, nil
}

// orEmpty is a list that JSON shows as one where it is nil, too.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// environment is what a container's image sets, and what the user set or took away.
func environment(c *runtime.Container) []string {
	env := slices.Clone(c.Image.Settings.Env)
	for _, kv := range c.Env {
		name, _, given := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if given {
			env = append(env, kv)
		}
	}
	return env
}
