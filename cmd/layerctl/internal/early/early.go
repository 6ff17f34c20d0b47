// Package early takes the short paths before the rest of the program has been initialised: `layerctl run` of an image that is here,
// `layerctl exec`, the monitor of a container, and the reaper of what was removed.
//
// Go initialises packages in the order of their import paths once their imports are, before main begins. Everything this package
// needs is light (see package start), so it comes before what the registry side brings in (TLS, HTTP, regular expressions, templates):
// about half of a small command's time, and a container started through here never pays it. Whatever is not plainly on the short
// path (an image that must be resolved or pulled, a flag that does not parse, help) returns from here with nothing done, and takes
// the ordinary way through main.
package early

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/runtime/monitor"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/flock"
)

func init() {
	if len(os.Args) == 0 {
		return
	}
	// A container's command is process 1 of its pid namespace, or 2 below init. Elsewhere a program that is not where it was started from
	// has been upgraded meanwhile.
	if os.Getpid() <= 2 && foreign() {
		os.Stderr.WriteString("layerctl: a container's command led to the program that started it (/proc/self/exe): refused\n")
		os.Exit(126)
	}
	switch os.Args[0] {
	case monitor.Name:
		os.Exit(runtime.MonitorMain(os.Args[1:]))
	case snapshot.ReaperName:
		os.Exit(snapshot.ReaperMain(os.Args[1:]))
	}
	flock.Tell = func(line string) { os.Stderr.WriteString("layerctl: warning: " + line + "\n") }
	for _, command := range []func([]string) (int, bool){run, exec} {
		if code, done := command(os.Args[1:]); done {
			os.Exit(code)
		}
	}
}

// foreign says that this program is not in the file system that it runs in: an image has named /proc/self/exe as its command, or as an
// interpreter, before it had a process of its own. Nothing of the image's may run in a process of that file, for its root could then
// write to it (CVE-2019-5736). Where that cannot be, as after executor.BecomeUnwritable, nothing is wrong.
func foreign() bool {
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return false
	}
	var it, named unix.Stat_t
	if unix.Stat("/proc/self/exe", &it) != nil {
		return false
	}
	if safe, err := executor.Unwritable(); safe && err == nil {
		return false
	}
	return unix.Stat(name, &named) != nil || it.Dev != named.Dev || it.Ino != named.Ino
}

// run tries the short path for a command line, and says whether it took it.
func run(args []string) (code int, done bool) {
	var r start.Run
	globals := r.Globals.Flags()
	rest, ok := start.Parse(globals, args)
	if !ok || len(rest) == 0 || rest[0] != "run" {
		return 0, false
	}
	// Global flags may stand behind the command's name, too.
	operands, ok := start.Parse(append(globals, r.Flags()...), rest[1:])
	if !ok || r.Check(operands) != nil || r.Pull == "always" || r.Guard() != nil || r.Resolve() != nil {
		return 0, false
	}
	_, containers, err := r.Open()
	if err != nil {
		return 0, false
	}
	var image *record.Record
	if r.RootFS == "" {
		if image, err = r.Find(operands); err != nil {
			return 0, false
		}
	}
	code, err = r.Execute(context.Background(), containers, r.Options(image, operands))
	if err == nil {
		return code, true
	}
	if image != nil && errors.Is(err, snapshot.ErrNotFound) {
		return 0, false // removed since it was found: nothing was started, and the ordinary way knows what to do
	}
	return failed(err), true
}

// exec tries the short path for `layerctl exec`, which has no other: only what does not parse takes the ordinary way, to be explained.
func exec(args []string) (code int, done bool) {
	var x start.Exec
	globals := x.Globals.Flags()
	rest, ok := start.Parse(globals, args)
	if !ok || len(rest) == 0 || rest[0] != "exec" {
		return 0, false
	}
	operands, ok := start.Parse(append(globals, x.Flags()...), rest[1:])
	if !ok || x.Check(operands) != nil {
		return 0, false
	}
	code, err := x.Execute(context.Background(), operands)
	if err != nil {
		return failed(err), true
	}
	return code, true
}

// failed says what went wrong and returns the exit status for it.
func failed(err error) int {
	start.Report(os.Stderr, start.WithHint(err))
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	return 125
}
