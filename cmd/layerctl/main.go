// Command layerctl pulls, imports, runs and looks into container images without a daemon.
//
// This package is the command line and nothing else: flags in, one call into image, snapshot or runtime, the answer out.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version, commit and date are stamped by the Makefile (-ldflags -X).
var (
	version = "dev"
	commit  = "unknown"
	date    = "unknown"
)

func main() {
	// SIGINT and SIGTERM end what is under way in an orderly manner: a pull gives up its stagings, and whatever is half made is
	// taken away again. `run` takes the signals over from here and hands them to the container.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := execute(ctx, stop, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
