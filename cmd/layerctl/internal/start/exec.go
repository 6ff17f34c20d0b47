package start

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/monitor"
)

// Exec is the command line of `layerctl exec`.
type Exec struct {
	Globals

	Interactive bool
	TTY         bool
	Detach      bool
	DetachKeys  string
	Privileged  bool
	Explain     bool
	Env         []string
	EnvFiles    []string
	WorkDir     string
	User        string
}

// Flags are exec's own flags. What follows the container is the command's, dashes and all.
func (x *Exec) Flags() []Flag {
	x.DetachKeys = monitor.DefaultDetachKeys
	return []Flag{
		boolFlag(&x.Interactive, "interactive", "i", "keep stdin open"),
		boolFlag(&x.TTY, "tty", "t", "give the command a terminal"),
		boolFlag(&x.Detach, "detach", "d", "run in the background"),
		stringFlag(&x.DetachKeys, "detach-keys", "", "the keys that detach from the terminal"),
		listFlag(&x.EnvFiles, "env-file", "", "a file of NAME=VALUE lines, or NAME to pass on; --env comes after it"),
		listFlag(&x.Env, "env", "e", "set NAME=VALUE, or pass NAME on from the caller's environment"),
		stringFlag(&x.WorkDir, "workdir", "w", "the working directory inside (default: the container's)"),
		stringFlag(&x.User, "user", "u", "USER[:GROUP], by name or number, as the container knows them (default: the container's)"),
		boolFlag(&x.Privileged, "privileged", "", "more privileges than the container has (refused)"),
		boolFlag(&x.Explain, "explain", "", "print what the kernel would be asked for, and run nothing"),
	}
}

// Check refuses what cannot be, before anything is looked up or made.
func (x *Exec) Check(args []string) error {
	switch {
	case len(args) < 2:
		return Hinted(errors.New("exec: want a container and a command"), "usage: layerctl exec [flags] CONTAINER COMMAND [ARG…]")
	case x.Privileged:
		return Hinted(runtime.Refuse("exec: --privileged"), "a command may do what its container may; `nsenter --target PID --all` enters as the host's root")
	case badKeys(x.DetachKeys):
		return fmt.Errorf("exec: --detach-keys %s: want single characters or ctrl-<a-z, @, [, \\, ], ^ or _>, by commas", x.DetachKeys)
	}
	return nil
}

// Execute runs the command, and returns its exit status.
func (x *Exec) Execute(ctx context.Context, args []string) (int, error) {
	if err := executor.BecomeUnwritable(); err != nil {
		return 0, err
	}
	if err := x.Resolve(); err != nil {
		return 0, err
	}
	_, containers, err := x.Open()
	if err != nil {
		return 0, err
	}
	o := runtime.ExecOptions{Args: args[1:], Env: x.Env, EnvFiles: x.EnvFiles, WorkDir: x.WorkDir, User: x.User, Interactive: x.Interactive, TTY: x.TTY, Detach: x.Detach}
	o.DetachKeys, _ = monitor.ParseDetachKeys(x.DetachKeys)
	if x.Explain {
		return 0, containers.ExplainExec(ctx, args[0], o, os.Stdout)
	}
	code, err := containers.Exec(ctx, args[0], o, runtime.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if errors.Is(err, monitor.ErrDetached) {
		return Detached(code), nil
	}
	return code, err
}
