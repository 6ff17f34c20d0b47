package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// app is what every command shares: the global flags and the three streams.
type app struct {
	start.Globals
	progress            string
	logLevel, logFormat string

	stdin          io.Reader
	stdout, stderr io.Writer
	stopSignals    func()
	diary          *runtime.Store // where image commands write down what they did; set by stores
}

// usageError is a mistake in how layerctl was called: exit status 2 (125 for run and exec).
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// execute runs one command line and returns its exit status.
func execute(ctx context.Context, stopSignals func(), args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	answer := &answer{Writer: stdout}
	a := &app{stdin: stdin, stdout: answer, stderr: stderr, stopSignals: stopSignals}
	root := a.rootCommand()
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		a.completions(root)
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(answer)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && answer.failed != nil {
		err = fmt.Errorf("print the answer: %w", answer.failed)
	}
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	a.report(withHint(err, cmd))
	var exit *runtime.ExitError
	var usage usageError
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case cmd != nil && (cmd.Name() == "run" || cmd.Name() == "create" || cmd.Name() == "exec"):
		return 125
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

// answer is stdout, and remembers what went wrong with it: much of what prints, cobra's help among it, does not ask.
type answer struct {
	io.Writer
	failed error
}

func (a *answer) Write(p []byte) (int, error) {
	n, err := a.Writer.Write(p)
	if a.failed == nil {
		a.failed = err
	}
	return n, err
}

// exitStatus carries a container's own exit status through cobra.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "layerctl",
		Short: "Pull, import, run and look into container images, without a daemon",
		Long: `layerctl pulls images from any OCI or Docker registry, or imports a debootstrap tree or a tarball, as layers;
stacks them as read-only overlayfs lowers under a private read-write upper; runs commands in the merged root; and
shows what is inside the layers.`,
		Example: `  layerctl pull ubuntu
  layerctl import ./debian
  layerctl run --rm -it debian bash
  layerctl diff CONTAINER`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = version
	root.SetVersionTemplate("layerctl {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{fmt.Errorf("%s: %w", cmd.Name(), err)} })
	root.SuggestionsMinimumDistance = 2
	register(root.PersistentFlags(), a.Flags())
	root.PersistentFlags().StringVar(&a.progress, "progress", "auto", "progress on stderr: auto, tty, plain or none")
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "warn", "what to say on stderr: debug (each request to a registry), info, warn or error")
	root.PersistentFlags().StringVar(&a.logFormat, "log-format", "text", "how to say it: text or json")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.diagnostics(); err != nil {
			return err
		}
		switch a.progress {
		case "auto", "tty", "plain", "none":
		default:
			return usagef("--progress %s: want auto, tty, plain or none", a.progress)
		}
		return nil
	}
	root.AddCommand(
		a.pullCommand(), a.importCommand(), a.imagesCommand(), a.historyCommand(), a.loadCommand(), a.saveCommand(), a.pushCommand(), a.tagCommand(), a.rmiCommand(),
		a.commitCommand(), a.configCommand(), a.squashCommand(), a.rebaseCommand(),
		a.inspectCommand(), a.layersCommand(), a.diffCommand(), a.blameCommand(),
		a.exploreCommand(), a.wasteCommand(), a.reportCommand(),
		a.runCommand(), a.execCommand(), a.psCommand(), a.rmCommand(),
		a.nsCommand(), a.topCommand(), a.statsCommand(),
		a.renameCommand(), a.updateCommand(), a.portCommand(),
		a.logsCommand(), a.eventsCommand(),
		groupCommand("generate", "Make files for other programs", a.generateSystemdCommand()),
		a.cpCommand(), a.exportCommand(), a.mountCommand(), a.umountCommand(),
		a.checkCommand(), a.infoCommand(), a.versionCommand(),
		a.dfCommand(), a.pruneCommand(), groupCommand("image", "Manage images", a.imagePruneCommand()),
		groupCommand("container", "Manage containers", a.containerCommands()...),
	)
	root.AddCommand(a.lifeCommands()...)
	root.AddCommand(a.buildCommands()...)
	strict(root)
	return root
}

// strict makes cobra's own commands, help and completion, refuse what they do not know.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run = nil
			cmd.RunE = func(_ *cobra.Command, args []string) error {
				of, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 {
					err = unknownCommand(of, rest[0])
				}
				if err != nil {
					return err
				}
				of.InitDefaultHelpFlag()
				return of.Help()
			}
		case "completion":
			cmd.Args = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return unknownCommand(cmd, args[0])
				}
				return nil
			}
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Args = exactArgs(0, "no arguments")
			}
		}
	}
}

func unknownCommand(parent *cobra.Command, name string) error {
	err := fmt.Errorf("unknown command %q", name)
	path := parent.CommandPath()
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		return start.Hinted(usageError{err}, "did you mean `"+path+" "+strings.Join(near, "` or `"+path+" ")+"`?")
	}
	return start.Hinted(usageError{err}, "`"+path+" --help` lists the commands")
}

// register adds flags that the short path knows, too.
func register(fs *pflag.FlagSet, flags []start.Flag) {
	for _, f := range flags {
		v := fs.VarPF(flagValue{f}, f.Name, f.Short, f.Usage)
		if f.Type == "bool" {
			v.NoOptDefVal = "true"
		}
	}
}

// flagValue is a start.Flag as pflag wants to see it.
type flagValue struct{ start.Flag }

func (v flagValue) String() string { return v.Default }
func (v flagValue) Type() string   { return v.Flag.Type }

// exactArgs, minArgs and maxArgs are cobra's, with usage errors that fit on one line.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return start.Hinted(usagef("%s: want %s, got %d arguments", cmd.Name(), what, len(args)), "usage: "+cmd.UseLine())
		}
		return nil
	}
}

func minArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return start.Hinted(usagef("%s: want %s", cmd.Name(), what), "usage: "+cmd.UseLine())
		}
		return nil
	}
}

func rangeArgs(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return start.Hinted(usagef("%s: want %s, got %d arguments", cmd.Name(), what, len(args)), "usage: "+cmd.UseLine())
		}
		return nil
	}
}

// stores opens what is below --root. Every store is cheap to open: no database is touched before it is asked something.
func (a *app) stores() (*image.Store, *snapshot.Store, *runtime.Store, error) {
	if err := a.Resolve(); err != nil {
		return nil, nil, nil, err
	}
	snaps, containers, err := a.Open()
	if err != nil {
		return nil, nil, nil, err
	}
	images, err := image.Open(a.Root, snaps)
	if err != nil {
		return nil, nil, nil, err
	}
	images.Warn = func(line string) { slog.Warn(line) }
	a.diary = containers
	return images, snaps, containers, nil
}

// withHint adds what a person can do about an error, where there is something.
func withHint(err error, cmd *cobra.Command) error {
	var said interface{ Hint() string }
	var usage usageError
	switch {
	case errors.As(err, &said):
		return err
	case errors.As(err, &usage) && cmd != nil:
		return start.Hinted(err, "see `"+cmd.CommandPath()+" --help`")
	case errors.Is(err, image.ErrUnauthorized):
		return start.Hinted(err, "the name may be misspelt; if not, `docker login` or `podman login` leaves credentials that layerctl reads")
	case errors.Is(err, image.ErrUnavailable):
		return start.Hinted(err, "check the host's name and port and the network; a registry without TLS needs --plain-http")
	case errors.Is(err, image.ErrDamaged):
		return start.Hinted(err, "`layerctl check --repair` unpacks the layer again, from its blob or from where it came")
	case errors.Is(err, image.ErrSeveralLayers):
		return start.Hinted(err, "give more digits")
	case errors.Is(err, image.ErrSeveralChains):
		return start.Hinted(err, "give a chain ID, or IMAGE#N for an image's layer N")
	case errors.Is(err, image.ErrNoLayer):
		return start.Hinted(err, "`layerctl layers IMAGE` lists an image's layers")
	case errors.Is(err, image.ErrAmbiguous):
		return start.Hinted(err, "give more digits of the ID, or the name")
	case errors.Is(err, image.ErrCorrupt) && cmd != nil && cmd.Name() == "load":
		return start.Hinted(err, "nothing of it was given a name: copy or save the archive again; of a root file system's tarball `layerctl import` makes an image")
	case errors.Is(err, image.ErrCorrupt) && cmd != nil && (cmd.Name() == "save" || cmd.Name() == "push"):
		return start.Hinted(err, "`layerctl check` says what else of the store is damaged")
	case errors.Is(err, image.ErrCorrupt):
		return start.Hinted(err, "what arrived is not what was asked for, and nothing of it was kept: try again, or tell the registry's owner")
	case errors.Is(err, image.ErrNotServed):
		return start.Hinted(err, "check the name and the tag, and whether the registry has them")
	case errors.Is(err, image.ErrSeveralNames):
		return start.Hinted(err, "name the one to remove, or remove the image with all of them by -f")
	case errors.Is(err, image.ErrNotFound) && cmd != nil && cmd.Name() == "pull":
		return start.Hinted(err, "`layerctl images` lists what is here; --platform takes what the image has, and --policy always asks the registry")
	case errors.Is(err, image.ErrNotFound) && cmd != nil && cmd.Name() == "commit":
		return start.Hinted(err, "its history, settings and layers are needed: `layerctl pull` or `layerctl load` it again")
	case errors.Is(err, image.ErrNotFound):
		return start.Hinted(err, "`layerctl images` lists what is here; `layerctl pull NAME` fetches an image")
	case errors.Is(err, image.ErrNotPaused):
		return start.Hinted(err, "`layerctl commit --pause=false` copies what it wrote while it goes on: files that it writes at that moment may not belong together")
	case errors.Is(err, image.ErrInUse):
		return start.Hinted(err, "remove the container first (`layerctl ps -a`, `layerctl rm`), or unmount it (`layerctl umount`), or use -f")
	}
	return start.WithHint(err)
}
