package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Eight workers start, attach to, pause, stop, kill and remove 200 containers at random. Every exit status is the right one, and nothing
// is left. LAYERCTL_TEST_SECONDS says how long; two minutes in `make torture`.
func TestChurn(t *testing.T) {
	seconds := 15
	if s := os.Getenv("LAYERCTL_TEST_SECONDS"); s != "" {
		var err error
		if seconds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	e := withBusybox(t)
	// What each of a worker's 25 containers does. Its status is its number.
	const heeds = "trap 'exit %d' TERM; echo >> /up; while :; do sleep 0.05; done"
	until := time.Now().Add(time.Duration(seconds) * time.Second)
	var steps atomic.Int64
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 6))
			made := map[string]int{} // and how often each was started
			ready := func(name string) {
				made[name]++
				upper := strings.TrimSpace(e.run("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", name).stdout)
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
					if b, _ := os.ReadFile(filepath.Join(upper, "up")); len(b) >= made[name] {
						return
					}
					if time.Now().After(deadline) {
						t.Errorf("%s does not come up", name)
						return
					}
				}
			}
			status := func(what string, r result, want int) {
				steps.Add(1)
				if r.code != want {
					t.Errorf("%s: status %d, want %d\n%s%s", what, r.code, want, r.stdout, r.stderr)
				}
			}
			for time.Now().Before(until) && !t.Failed() {
				n := rnd.IntN(25)
				name, code := fmt.Sprintf("c%d-%d", worker, n), n+1
				if _, there := made[name]; !there {
					switch rnd.IntN(4) {
					case 0: // it is over at once, and so is its container
						r := e.run("run", "--rm", "--name", name, "busybox", "sh", "-c", fmt.Sprintf("echo out; exit %d", code))
						status("run --rm", r, code)
						if r.stdout != "out\n" {
							t.Errorf("run --rm %s printed %q", name, r.stdout)
						}
						continue
					case 1:
						status("create", e.run("create", "--name", name, "busybox", "sh", "-c", fmt.Sprintf(heeds, code)), 0)
						status("start", e.run("start", name), 0)
					default:
						args := []string{"run", "-d", "--name", name}
						if rnd.IntN(2) == 0 {
							args = append(args, "-t")
						}
						status("run -d", e.run(append(args, "busybox", "sh", "-c", fmt.Sprintf(heeds, code))...), 0)
					}
					ready(name)
					continue
				}
				switch rnd.IntN(6) {
				case 0: // who is attached sees the end
					attached := make(chan result)
					go func() { attached <- e.run("attach", "--no-stdin", name) }()
					time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
					status("stop", e.run("stop", name), 0)
					if r := <-attached; r.code != code && !(r.code == 1 && strings.Contains(r.stderr, "not running")) {
						t.Errorf("attach %s: status %d, want %d: %s", name, r.code, code, r.stderr)
					}
				case 1:
					status("pause", e.run("pause", name), 0)
					status("unpause", e.run("unpause", name), 0)
					continue
				case 2:
					status("kill", e.run("kill", name), 0)
					code = 137
				case 3:
					status("restart", e.run("restart", name), 0)
					ready(name)
					continue
				default:
					status("stop", e.run("stop", name), 0)
				}
				r := e.run("wait", name)
				status("wait", r, 0)
				if got := strings.TrimSpace(r.stdout); got != strconv.Itoa(code) {
					t.Errorf("%s ended with status %s, want %d", name, got, code)
				}
				if rnd.IntN(3) == 0 {
					status("start", e.run("start", name), 0)
					status("rm -f", e.run("rm", "-f", name), 0)
				} else {
					status("rm", e.run("rm", name), 0)
				}
				delete(made, name)
			}
			for name := range made {
				status("rm -f", e.run("rm", "-f", name), 0)
			}
		})
	}
	wg.Wait()
	t.Logf("%d commands", steps.Load())
	if left := e.ok("ps", "-aq"); left != "" {
		t.Errorf("there are still %q", left)
	}
	for _, p := range holders(filepath.Join(e.dir, "run")) {
		t.Errorf("leaked: %s", p)
	}
}
