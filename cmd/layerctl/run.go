package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

func (a *app) runCommand() *cobra.Command {
	var r start.Run
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE|--rootfs DIR [COMMAND [ARG...]]",
		Short: "Run a command in a new container",
		Long: `Run a command in a new container: new pid, mount, uts, ipc, cgroup and net namespaces over the image's layers (or any
directory, with --rootfs), with a private writable layer on top. What the command writes can be seen with "layerctl diff".

Signals go to the command. It is the first process of its pid namespace, which the kernel spares signals that it has no handler for; so
the third SIGINT or SIGTERM that it does not handle kills it. The first process also inherits every process whose parent has ended, and
few programs reap those. With --init the first process is a small one that does, and passes signals on to the command, its child.

The exit status is the command's own; 125 when layerctl failed, 126 when the command could not be invoked, 127 when it was not found.`,
		Example: `  layerctl run --rm debian cat /etc/os-release
  layerctl run -it --name work debian bash
  layerctl run --rm --rootfs ./debian --explain`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd, &r, args) },
	}
	register(cmd.Flags(), r.Flags())
	// What follows the image is the container's, dashes and all.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) run(cmd *cobra.Command, r *start.Run, args []string) error {
	if err := r.Check(args); err != nil {
		return err
	}
	if err := r.Guard(); err != nil {
		return err
	}
	r.Globals = a.Globals
	images, _, containers, err := a.stores()
	if err != nil {
		return err
	}
	code, err := onImage(cmd.Context(), a, images, r, args, func(ctx context.Context, o runtime.CreateOptions) (int, error) {
		// From here on the signals are the container's. Letting go of them cancels the context, which is not meant.
		a.stopSignals()
		return r.Execute(context.WithoutCancel(ctx), containers, o)
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// onImage does something with the image that args name, and again where that was removed after it was found and before a container stood
// on it.
func onImage[T any](ctx context.Context, a *app, images *image.Store, r *start.Run, args []string, do func(context.Context, runtime.CreateOptions) (T, error)) (T, error) {
	for try := 1; ; try++ {
		var rec *record.Record
		var err error
		if r.RootFS == "" {
			if rec, err = a.runImage(ctx, images, r, args, try > 1); err != nil {
				var none T
				return none, err
			}
		}
		done, err := do(ctx, r.Options(rec, args))
		if !errors.Is(err, snapshot.ErrNotFound) || rec == nil || try == 3 {
			return done, err
		}
		ctx = context.WithoutCancel(ctx) // as it is when signals are a container's
	}
}

// runImage finds the image that is to be run, and pulls it where --pull says so. Where its record misled, the rows are asked.
func (a *app) runImage(ctx context.Context, images *image.Store, r *start.Run, args []string, misled bool) (*record.Record, error) {
	if r.Pull != "always" || misled {
		if !misled {
			rec, err := r.Find(args)
			if err == nil || !errors.Is(err, record.ErrNotFound) {
				return rec, err
			}
		}
		img, err := images.Resolve(ctx, args[0])
		if err == nil {
			return &img.Record, nil
		}
		if !errors.Is(err, image.ErrNotFound) || r.Pull == "never" {
			return nil, err
		}
	}
	img, err := a.pullImage(ctx, images, args[0], image.PullOptions{Policy: image.PullAlways})
	if err != nil {
		return nil, err
	}
	return &img.Record, nil
}
