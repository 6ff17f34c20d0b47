package tests

import (
	"bufio"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// initBudget is what a package may take to initialise on the way to a container, in milliseconds. The test takes the best of several
// starts, so that it measures the packages and not the machine.
const initBudget = 0.1

// Over the budget, and not to be kept out: klauspost's zstd makes a CRC table for a format that we do not read. It sorts before
// us, so the early branch cannot leave it behind.
var overBudget = map[string]float64{"github.com/klauspost/compress/internal/snapref": 0.4}

// The registry side's packages must not be initialised at all before a container starts.
var leftBehind = []string{"net/http", "crypto/tls", "github.com/spf13/cobra", "github.com/google/go-containerregistry/pkg/name"}

func TestInitialiserBudget(t *testing.T) {
	e := withBusybox(t)
	line := regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock`)
	best := map[string]float64{}
	for range 15 {
		cmd := e.command("run", "--rm", "busybox", "true")
		cmd.Env = append(cmd.Env, "GODEBUG=inittrace=1")
		r := e.finish(cmd)
		if r.code != 0 {
			t.Fatalf("run: %s", r.stderr)
		}
		for _, m := range line.FindAllStringSubmatch(r.stderr, -1) {
			ms, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			if old, ok := best[m[1]]; !ok || ms < old {
				best[m[1]] = ms
			}
		}
	}
	if len(best) < 5 {
		t.Fatalf("inittrace names %d packages", len(best))
	}
	for name, ms := range best {
		limit := initBudget
		if l, ok := overBudget[name]; ok {
			limit = l
		}
		if ms > limit {
			t.Errorf("%s takes %.3f ms to initialise; the budget is %.1f", name, ms, limit)
		}
	}
	for _, name := range leftBehind {
		if _, ok := best[name]; ok {
			t.Errorf("%s is initialised before a container starts", name)
		}
	}
}

// faultBudget is how many minor page faults this program may take until its container runs. An empty Go program takes some 165; the
// design hoped for 300 with everything linked in. The rest is the early packages' initialisers, compiling the plan, and stacks that grow.
const faultBudget = 600

func TestFaultBudget(t *testing.T) {
	e := withBusybox(t)
	best := 1 << 30
	for range 20 { // on a busy machine a start takes some 50 more now and then
		cmd := e.command("run", "-i", "--rm", "busybox", "sh", "-c", "echo up; read x")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
			t.Fatalf("%q, %v", line, err)
		}
		// proc(5): minflt is the tenth field; none before it but the name in brackets has a blank.
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		faults, err := strconv.Atoi(strings.Fields(after)[7])
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, faults)
		in.Close()
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 {
			t.Fatal(err)
		}
	}
	t.Logf("%d minor faults until the container runs", best)
	if best > faultBudget {
		t.Errorf("%d minor faults until the container runs; the budget is %d", best, faultBudget)
	}
}
