package start

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/monitor"
)

// Run is the command line of `layerctl run`.
type Run struct {
	Globals

	Remove      bool
	Interactive bool
	TTY         bool
	Detach      bool
	DetachKeys  string
	Explain     bool
	Init        bool
	Name        string
	Env         []string
	WorkDir     string
	User        string
	Entrypoint  string
	Hostname    string
	Network     string
	RootFS      string
	Pull        string
	Publish     []string
	EnvFiles    []string
	Labels      []string
	LabelFiles  []string
	CIDFile     string
	StopSignal  string
	StopTimeout *int
	Restart     string
	LogDriver   string
	LogOpts     []string
	PID         string
	IPC         string
	UTS         string

	entrypointGiven bool
}

// Flags are run's own flags. What follows the image is the container's, dashes and all.
func (r *Run) Flags() []Flag {
	r.Network, r.Pull, r.DetachKeys = "none", "missing", monitor.DefaultDetachKeys
	entrypoint := stringFlag(&r.Entrypoint, "entrypoint", "", "instead of the image's entrypoint; clears the image's command too")
	entrypoint.given = &r.entrypointGiven
	return []Flag{
		boolFlag(&r.Remove, "rm", "", "remove the container when it exits"),
		stringFlag(&r.Name, "name", "", "give the container a name"),
		listFlag(&r.Env, "env", "e", "set NAME=VALUE, or pass NAME on from the caller's environment"),
		stringFlag(&r.WorkDir, "workdir", "w", "the working directory inside; made where it is missing"),
		stringFlag(&r.User, "user", "u", "USER[:GROUP], by name or number, as the image knows them"),
		entrypoint,
		boolFlag(&r.Interactive, "interactive", "i", "keep stdin open"),
		boolFlag(&r.TTY, "tty", "t", "give the container a terminal"),
		boolFlag(&r.Init, "init", "", "a small first process that reaps orphans and passes signals on to the command"),
		boolFlag(&r.Detach, "detach", "d", "run in the background, and print the container's ID"),
		stringFlag(&r.DetachKeys, "detach-keys", "", "the keys that detach from the terminal"),
		stringFlag(&r.RootFS, "rootfs", "", "run over this directory instead of an image; it is never written"),
		stringFlag(&r.Hostname, "hostname", "", "the container's host name (default: its short ID)"),
		stringFlag(&r.Network, "network", "", "none, host, or container:NAME for another one's"),
		stringFlag(&r.PID, "pid", "", "whose processes it sees: host, or container:NAME (default: its own)"),
		stringFlag(&r.IPC, "ipc", "", "whose shared memory and queues it has: host, or container:NAME (default: its own)"),
		stringFlag(&r.UTS, "uts", "", "whose host name it has: host, or container:NAME (default: its own)"),
		stringFlag(&r.Pull, "pull", "", "fetch the image first: always, missing or never"),
		listFlag(&r.Publish, "publish", "p", "publish a port (refused until containers have networks)"),
		listFlag(&r.EnvFiles, "env-file", "", "a file of NAME=VALUE lines, or NAME to pass on; --env comes after it"),
		listFlag(&r.Labels, "label", "l", "KEY=VALUE or KEY: a mark on the container, for filters"),
		listFlag(&r.LabelFiles, "label-file", "", "a file of labels, a line each"),
		stringFlag(&r.CIDFile, "cidfile", "", "write the container's ID to this new file"),
		stringFlag(&r.StopSignal, "stop-signal", "", "the signal that asks the container to end (default: the image's, or SIGTERM)"),
		intFlag(&r.StopTimeout, "stop-timeout", "", "seconds from that signal to SIGKILL; -1 is for ever (default: 10)"),
		stringFlag(&r.Restart, "restart", "", "start it again when it has ended: no, on-failure[:N], always or unless-stopped"),
		stringFlag(&r.LogDriver, "log-driver", "", "k8s-file (the default) or none"),
		listFlag(&r.LogOpts, "log-opt", "", "max-size=SIZE or max-file=N, of the container's log"),
		boolFlag(&r.Explain, "explain", "", "print what the kernel would be asked for, and run nothing"),
	}
}

// Check refuses what cannot be, before anything is looked up or made.
func (r *Run) Check(args []string) error {
	switch {
	case len(r.Publish) > 0:
		return Hinted(runtime.Refuse("publish ports (-p %s)", r.Publish[0]), "containers have no network yet; --network host shares the host's")
	case r.Network != "none" && !runtime.CheckShared(r.Network):
		return Hinted(runtime.Refuse("--network %s", r.Network), "containers have no networks of their own yet: use none (the default), host or container:NAME")
	case r.PID != "" && !runtime.CheckShared(r.PID):
		return fmt.Errorf("run: --pid %s: want host or container:NAME", r.PID)
	case r.IPC != "" && !runtime.CheckShared(r.IPC):
		return fmt.Errorf("run: --ipc %s: want host or container:NAME", r.IPC)
	case r.UTS != "" && !runtime.CheckShared(r.UTS):
		return fmt.Errorf("run: --uts %s: want host or container:NAME", r.UTS)
	case badKeys(r.DetachKeys):
		return fmt.Errorf("run: --detach-keys %s: want single characters or ctrl-<a-z, @, [, \\, ], ^ or _>, by commas", r.DetachKeys)
	case r.Pull != "always" && r.Pull != "missing" && r.Pull != "never":
		return fmt.Errorf("run: --pull %s: want always, missing or never", r.Pull)
	case r.RootFS == "" && len(args) == 0:
		return Hinted(errors.New("run: no image named"), "usage: layerctl run [flags] IMAGE|--rootfs DIR [COMMAND [ARG…]]")
	}
	return nil
}

// Guard makes this program unwritable for whoever sees it become the container's first process. It comes before anything is done.
func (r *Run) Guard() error {
	if r.PID == "" {
		return nil // nobody does
	}
	return executor.BecomeUnwritable()
}

// Detached is the exit status of a command whose user has left a container. The shell's next line begins where the container's ended.
func Detached(code int) int {
	if code == 0 {
		os.Stderr.WriteString("\n")
	}
	return code
}

func badKeys(keys string) bool {
	_, err := monitor.ParseDetachKeys(keys)
	return err != nil
}

// Find returns the run record of the image that args name, without opening a database. It answers record.ErrNotFound for what only
// the image store can resolve (an ID, a digest, an image that is not here yet).
func (r *Run) Find(args []string) (*record.Record, error) {
	return record.Find(r.ImagesDir(), args[0])
}

// Options joins the flags, the image's run record (nil with --rootfs) and the arguments into what the runtime is asked for.
func (r *Run) Options(image *record.Record, args []string) runtime.CreateOptions {
	o := runtime.CreateOptions{
		Name: r.Name, RootFS: r.RootFS, Args: args, Env: r.Env, WorkDir: r.WorkDir, User: r.User,
		Hostname: r.Hostname, Network: r.Network, TTY: r.TTY, Interactive: r.Interactive, AutoRemove: r.Remove, Init: r.Init, Detach: r.Detach,
		EnvFiles: r.EnvFiles, Labels: r.Labels, LabelFiles: r.LabelFiles, CIDFile: r.CIDFile, StopSignal: r.StopSignal,
		StopTimeout: r.StopTimeout, Restart: r.Restart, LogDriver: r.LogDriver, LogOpts: r.LogOpts,
		PidMode: r.PID, IPCMode: r.IPC, UTSMode: r.UTS,
		StdinOnce: r.Interactive && !r.Detach,
	}
	o.DetachKeys, _ = monitor.ParseDetachKeys(r.DetachKeys)
	if r.entrypointGiven {
		entrypoint := []string{}
		if r.Entrypoint != "" {
			entrypoint = append(entrypoint, r.Entrypoint)
		}
		o.Entrypoint = &entrypoint
	}
	if image != nil {
		o.Args = args[1:]
		o.Image = runtime.ImageInfo{
			Name: image.Name, ID: image.ID, Digest: image.Digest, Chain: image.Chain,
			Settings: runtime.Settings(image.Settings), // the same fields: image and runtime do not know each other
		}
	}
	return o
}

// Execute runs the container, or explains how it would be run, and returns its exit status.
func (r *Run) Execute(ctx context.Context, containers *runtime.Store, o runtime.CreateOptions) (int, error) {
	if r.Explain {
		return 0, containers.Explain(ctx, o, os.Stdout)
	}
	id, code, err := containers.Run(ctx, o, runtime.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if errors.Is(err, monitor.ErrDetached) {
		return Detached(code), nil
	}
	if err == nil && o.Detach {
		_, err = fmt.Println(id)
	}
	return code, err
}
