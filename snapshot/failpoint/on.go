//go:build failpoints

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Enabled says whether this binary has failpoints.
const Enabled = true

var (
	mu    sync.Mutex
	total = before()
	hits  = map[string]int{}
)

func before() int {
	n, _ := strconv.Atoi(os.Getenv("LAYERCTL_FAILPOINT_BEFORE"))
	return n
}

// Environ is the environment of a process that goes on with the work of this one: its failpoints are counted on from here.
func Environ() []string {
	mu.Lock()
	defer mu.Unlock()
	return append(os.Environ(), "LAYERCTL_FAILPOINT_BEFORE="+strconv.Itoa(total))
}

// Hit says that the process has come to the place name. Where that is the one to die at, it does, at once and with nothing tidied; where it is
// the one to stop at, it goes on when it gets SIGCONT.
func Hit(name string) {
	mu.Lock()
	defer mu.Unlock()
	total++
	hits[name]++
	if path := os.Getenv("LAYERCTL_FAILPOINT_LOG"); path != "" {
		if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			f.WriteString(name + "\n")
			f.Close()
		}
	}
	if here(os.Getenv("LAYERCTL_FAILPOINT_STOP"), name) {
		unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
	if here(os.Getenv("LAYERCTL_FAILPOINT"), name) {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // the signal is on its way
	}
}

// here says whether the place that a variable names is this one.
func here(where, name string) bool {
	if n, ok := strings.CutPrefix(where, "@"); ok {
		at, err := strconv.Atoi(n)
		return err == nil && at == total
	}
	want, n, numbered := strings.Cut(where, ":")
	if want != name {
		return false
	}
	if !numbered {
		return true
	}
	at, err := strconv.Atoi(n)
	return err == nil && at == hits[name]
}
