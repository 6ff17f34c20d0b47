package start

import (
	"context"
	"errors"
	"os"

	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/executor"
)

// Exec is the command line of `layerctl exec`.
type Exec struct {
	Globals

	Interactive bool
	Privileged  bool
	Explain     bool
	Env         []string
	WorkDir     string
	User        string
}

// Flags are exec's own flags. What follows the container is the command's, dashes and all.
func (x *Exec) Flags() []Flag {
	return []Flag{
		boolFlag(&x.Interactive, "interactive", "i", "keep stdin open"),
		listFlag(&x.Env, "env", "e", "set NAME=VALUE, or pass NAME on from the caller's environment"),
		stringFlag(&x.WorkDir, "workdir", "w", "the working directory inside (default: the container's)"),
		stringFlag(&x.User, "user", "u", "USER[:GROUP], by name or number, as the container knows them (default: the container's)"),
		boolFlag(&x.Explain, "explain", "", "print what the kernel would be asked for, and run nothing"),
		boolFlag(&x.Privileged, "privileged", "", "more privileges than the container has (refused)"),
	}
}

// Check refuses what cannot be, before anything is looked up or made.
func (x *Exec) Check(args []string) error {
	switch {
	case len(args) < 2:
		return Hinted(errors.New("exec: want a container and a command"), "usage: layerctl exec [flags] CONTAINER COMMAND [ARG…]")
	case x.Privileged:
		return Hinted(runtime.Refuse("exec: --privileged"), "a command may do what its container may; `nsenter --target PID --all` enters as the host's root")
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
	o := runtime.ExecOptions{Args: args[1:], Env: x.Env, WorkDir: x.WorkDir, User: x.User, Interactive: x.Interactive}
	if x.Explain {
		return 0, containers.ExplainExec(ctx, args[0], o, os.Stdout)
	}
	return containers.Exec(ctx, args[0], o, runtime.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}
