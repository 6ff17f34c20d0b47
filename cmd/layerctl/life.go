package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/monitor"
)

// lifeCommands are those that lead a container through its life, but for run.
func (a *app) lifeCommands() []*cobra.Command {
	return []*cobra.Command{a.createCommand(), a.startCommand(), a.attachCommand(), a.waitCommand(), a.stopCommand(), a.restartCommand(),
		a.killCommand(), a.pauseCommand(), a.unpauseCommand()}
}

func (a *app) createCommand() *cobra.Command {
	var r start.Run
	cmd := &cobra.Command{
		Use:     "create [flags] IMAGE|--rootfs DIR [COMMAND [ARG...]]",
		Short:   "Make a container, and print its ID; start starts it",
		Example: "  layerctl create --name work -it debian bash\n  layerctl start -ai work",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.Check(args); err != nil {
				return err
			}
			r.Globals = a.Globals
			images, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			c, err := onImage(cmd.Context(), a, images, &r, args, func(ctx context.Context, o runtime.CreateOptions) (*runtime.Config, error) {
				return containers.Create(ctx, o)
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, c.ID)
			return nil
		},
	}
	register(cmd.Flags(), start.Without(r.Flags(), "detach", "detach-keys", "explain"))
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) startCommand() *cobra.Command {
	var o runtime.StartOptions
	var keys string
	cmd := a.eachContainer(&cobra.Command{
		Use:   "start [flags] CONTAINER...",
		Short: "Start containers that do not run",
		Long: `Start containers that were made by "create", or have ended: with the same command, over what they have written. With -a its output is
shown and the exit status is the container's own; -i gives it stdin, too, where it was made with -i.`,
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error {
		_, err := s.Start(ctx, c, o, callersIO())
		return err
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container, w io.Writer) error {
		return s.ExplainStart(ctx, c, w)
	})
	each := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Attach = o.Attach || o.Input
		if o.Attach && len(args) > 1 {
			return usagef("start: -a and -i are for one container, got %d", len(args))
		}
		if err := parseKeys(keys, &o); err != nil {
			return err
		}
		if explain, _ := cmd.Flags().GetBool("explain"); explain || !o.Attach {
			return each(cmd, args)
		}
		s, c, err := a.container(cmd, args[0])
		if err != nil {
			return err
		}
		a.stopSignals()
		return ownStatus(s.Start(context.WithoutCancel(cmd.Context()), c, o, callersIO()))
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Attach, "attach", "a", false, "show its output, and end with its exit status")
	f.BoolVarP(&o.Input, "interactive", "i", false, "give it stdin, too")
	f.StringVar(&keys, "detach-keys", monitor.DefaultDetachKeys, "the keys that detach from the terminal")
	return cmd
}

func callersIO() runtime.IO { return runtime.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr} }

// ownStatus makes a container's exit status the command's.
func ownStatus(code int, err error) error {
	if errors.Is(err, monitor.ErrDetached) {
		code, err = start.Detached(code), nil
	}
	if err == nil && code != 0 {
		return exitStatus(code)
	}
	return err
}

func parseKeys(keys string, o *runtime.StartOptions) (err error) {
	if o.DetachKeys, err = monitor.ParseDetachKeys(keys); err != nil {
		return usagef("--detach-keys %s: %w", keys, err)
	}
	return nil
}

func (a *app) attachCommand() *cobra.Command {
	var noStdin bool
	var keys string
	cmd := &cobra.Command{
		Use:   "attach [flags] CONTAINER",
		Short: "Connect the terminal, or the streams, with a running container's",
		Long: `Connect this terminal with that of a running container, or its streams with ours, until it ends or is detached from: the keys Ctrl-P
Ctrl-Q leave a container with a terminal running. Several may be attached at once. The exit status is the container's own.`,
		Args: exactArgs(1, "a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := runtime.StartOptions{Attach: true, Input: !noStdin}
			if err := parseKeys(keys, &o); err != nil {
				return err
			}
			s, c, err := a.container(cmd, args[0])
			if err != nil {
				return err
			}
			a.stopSignals()
			return ownStatus(s.Attach(context.WithoutCancel(cmd.Context()), c, o, callersIO()))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "do not send what is typed")
	f.StringVar(&keys, "detach-keys", monitor.DefaultDetachKeys, "the keys that detach from the terminal")
	return cmd
}

func (a *app) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER...",
		Short: "Wait until containers end, and print their exit statuses",
		Args:  minArgs(1, "at least one container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			return a.each(cmd, args, func(ctx context.Context, name string) error {
				c, err := lookUp(cmd, containers, name)
				if err != nil {
					return err
				}
				code, err := containers.Wait(ctx, c)
				if err == nil {
					fmt.Fprintln(a.stdout, code)
				}
				return err
			})
		},
	}
}

// container finds the container that a command is about.
func (a *app) container(cmd *cobra.Command, name string) (*runtime.Store, *runtime.Container, error) {
	_, _, containers, err := a.stores()
	if err != nil {
		return nil, nil, err
	}
	c, err := lookUp(cmd, containers, name)
	return containers, c, err
}

// lookUp finds a container; an error says which command wanted it.
func lookUp(cmd *cobra.Command, containers *runtime.Store, name string) (*runtime.Container, error) {
	c, err := containers.Lookup(cmd.Context(), name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd.Name(), err)
	}
	return c, nil
}

// eachContainer makes a command that does one thing to each container that is named, and prints the name. With explain it can say instead
// what that would be.
func (a *app) eachContainer(cmd *cobra.Command, do func(context.Context, *runtime.Store, *runtime.Container) error,
	explain func(context.Context, *runtime.Store, *runtime.Container, io.Writer) error) *cobra.Command {
	var only bool
	if explain != nil {
		explainFlag(cmd, &only)
	}
	cmd.Args = minArgs(1, "at least one container")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, _, containers, err := a.stores()
		if err != nil {
			return err
		}
		return a.each(cmd, args, func(ctx context.Context, name string) error {
			c, err := lookUp(cmd, containers, name)
			if err != nil {
				return err
			}
			if only {
				return explain(ctx, containers, c, a.stdout)
			}
			if err := do(ctx, containers, c); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, name)
			return nil
		})
	}
	return cmd
}

// explainFlag gives a command the flag that says what it would do.
func explainFlag(cmd *cobra.Command, only *bool) {
	cmd.Flags().BoolVar(only, "explain", false, "print what the kernel would be asked for, and do nothing")
}

// seconds is a flag of stop and restart: how long to wait, nil for what the container says.
type seconds struct{ d *time.Duration }

func (s *seconds) String() string { return "" }
func (s *seconds) Type() string   { return "seconds" }
func (s *seconds) Set(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < -1 || n > 1<<30 {
		return errors.New("want a number of seconds, -1 for ever")
	}
	d := time.Duration(n) * time.Second
	s.d = &d
	return nil
}

func (a *app) stopCommand() *cobra.Command {
	var t seconds
	cmd := a.eachContainer(&cobra.Command{
		Use:   "stop [flags] CONTAINER...",
		Short: "Ask containers to end, and kill those that do not",
		Long: `Send the container's first process its stop signal (SIGTERM, if neither the image nor --stop-signal says another), wait, and kill it with
all others after 10 seconds, or what --stop-timeout or -t says. What is stopped so is not started again by its restart policy.`,
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error { return s.Stop(ctx, c, t.d) },
		func(ctx context.Context, s *runtime.Store, c *runtime.Container, w io.Writer) error {
			return s.ExplainStop(ctx, c, t.d, w)
		})
	cmd.Flags().VarP(&t, "time", "t", "seconds to wait before it is killed; -1 waits for ever")
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	var t seconds
	cmd := a.eachContainer(&cobra.Command{
		Use:   "restart [flags] CONTAINER...",
		Short: "Stop containers, and start them again",
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error { return s.Restart(ctx, c, t.d) }, nil)
	cmd.Flags().VarP(&t, "time", "t", "seconds to wait before it is killed; -1 waits for ever")
	return cmd
}

func (a *app) killCommand() *cobra.Command {
	var name string
	sig := unix.SIGKILL
	cmd := a.eachContainer(&cobra.Command{
		Use:   "kill [flags] CONTAINER...",
		Short: "Send a signal to the first process of containers",
		PreRunE: func(*cobra.Command, []string) (err error) {
			if sig, err = runtime.ParseSignal(name); err != nil {
				return usagef("kill: -s %s: %w", name, err)
			}
			return nil
		},
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error { return s.Kill(ctx, c, sig) }, nil)
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "the signal, by name or number")
	return cmd
}

func (a *app) pauseCommand() *cobra.Command {
	return a.eachContainer(&cobra.Command{
		Use:   "pause CONTAINER...",
		Short: "Stop all processes of containers where they are, by the freezer cgroup",
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error { return s.Pause(ctx, c) },
		func(ctx context.Context, s *runtime.Store, c *runtime.Container, w io.Writer) error {
			return s.ExplainPause(ctx, c, w)
		})
}

func (a *app) unpauseCommand() *cobra.Command {
	return a.eachContainer(&cobra.Command{
		Use:   "unpause CONTAINER...",
		Short: "Let the processes of paused containers go on",
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error { return s.Unpause(ctx, c) },
		func(ctx context.Context, s *runtime.Store, c *runtime.Container, w io.Writer) error {
			return s.ExplainUnpause(ctx, c, w)
		})
}
