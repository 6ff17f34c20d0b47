package monitor

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The program goes on, with less of it in memory.
func TestRest(t *testing.T) {
	before := mapped(t)
	if err := Rest(); err != nil {
		t.Fatal(err)
	}
	if after := mapped(t); after >= before {
		t.Errorf("%d kB of files are mapped, of %d before", after, before)
	}
}

// mapped is how much of files this process has in its memory, in kB (proc_pid_status(5)).
func mapped(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nRssFile:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
