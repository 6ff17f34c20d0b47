package tests

import (
	"encoding/json"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

type dfReport struct {
	Summary []struct {
		Type                    string
		TotalCount, Active      int
		Bytes, ReclaimableBytes int64
	}
	Images []struct {
		Repository               string
		Containers               int
		SharedBytes, UniqueBytes int64
	}
	SharedBytes int64
	Containers  []struct {
		Names string
		Bytes int64
	}
	Leftovers []struct {
		Name, State string
		Bytes       int64
	}
	PruneFrees, PruneAllFrees int64
}

func (e *env) du(args string) int64 {
	e.t.Helper()
	out := sh(e.t, e.root, "du -s --block-size=1 "+args+" | awk '{s += $1} END {print s}'")
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

// df compares what layerctl says with what du says, and returns the first.
func (e *env) df() dfReport {
	e.t.Helper()
	var r dfReport
	// The blocks of what was just written are settled by the sync; bytes count from then on.
	sh(e.t, e.root, "sync -f .")
	if err := json.Unmarshal([]byte(e.ok("df", "-v", "--format", "json")), &r); err != nil {
		e.t.Fatal(err)
	}
	var total int64
	bytes := map[string]int64{}
	for _, s := range r.Summary {
		total += s.Bytes
		bytes[s.Type] = s.Bytes
	}
	sh(e.t, e.root, "sync -f .")
	if want := e.du("."); total != want {
		e.t.Errorf("df says %d bytes, du %d: %+v", total, want, r)
	}
	images, containers, leftovers := r.SharedBytes, int64(0), int64(0)
	for _, i := range r.Images {
		images += i.UniqueBytes
	}
	for _, c := range r.Containers {
		containers += c.Bytes
	}
	for _, l := range r.Leftovers {
		leftovers += l.Bytes
	}
	if images != bytes["Images"] || containers != bytes["Containers"] || leftovers != bytes["Leftovers"] {
		e.t.Errorf("df -v does not add up: images %d, containers %d, leftovers %d: %+v", images, containers, leftovers, r)
	}
	return r
}

func (r dfReport) row(kind string) (total, active int, reclaimable int64) {
	for _, s := range r.Summary {
		if s.Type == kind {
			return s.TotalCount, s.Active, s.ReclaimableBytes
		}
	}
	return -1, -1, -1
}

func TestDF(t *testing.T) {
	reg := startRegistry(t, "")
	reg.pushBoth("head -c 700000 /dev/urandom > big; ln big linked; truncate -s 5M sparse")
	e := withBusybox(t)
	e.df()
	e.ok("pull", reg.addr+"/base")
	e.ok("pull", reg.addr+"/app")
	e.ok("tag", "busybox", "again")
	e.ok("run", "--name", "dead", reg.addr+"/app", "sh", "-c", "cat /big > /copy")
	running := e.command("run", "-i", "--name", "alive", "busybox", "sh", "-c", "head -c 50000 /dev/zero > /z; sync; echo up; cat")
	in, err := running.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := running.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.start(running)
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	sh(t, e.root, "mkdir snapshots/staging/dead && head -c 30000 /dev/zero > snapshots/staging/dead/x && head -c 20000 /dev/zero > images/blobs/sha256/"+strings.Repeat("ab", 32))

	r := e.df()
	if total, active, _ := r.row("Images"); total != 3 || active != 2 {
		t.Errorf("%d images, %d active", total, active)
	}
	if total, active, free := r.row("Containers"); total != 2 || active != 1 || free < 700000 {
		t.Errorf("%d containers, %d running, %d to be had", total, active, free)
	}
	if total, active, free := r.row("Leftovers"); total != 2 || active != 0 || free < 50000 {
		t.Errorf("%d leftovers, %d active, %d to be had", total, active, free)
	}
	for _, i := range r.Images {
		if pulled := strings.Contains(i.Repository, ":"); pulled != (i.SharedBytes > 0) || i.UniqueBytes == 0 {
			t.Errorf("%+v", i)
		}
	}
	if r.PruneFrees < 750000 || r.PruneAllFrees < r.PruneFrees+700000 {
		t.Errorf("prune frees %d, prune --all %d", r.PruneFrees, r.PruneAllFrees)
	}
	plain := e.ok("df")
	if !strings.HasPrefix(plain, "TYPE ") || !strings.Contains(plain, "RECLAIMABLE") || !strings.Contains(plain, "`layerctl prune` would free ") {
		t.Errorf("df:\n%s", plain)
	}
	if got := e.ok("df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"); got != "Images 3 2\nContainers 2 1\nLeftovers 2 0\nStore 1 1\n" {
		t.Errorf("df --format:\n%s", got)
	}
	if got := e.ok("df", "-v"); !strings.Contains(got, "UNIQUE SIZE") || !strings.Contains(got, "alive") || !strings.Contains(got, "staging dead") {
		t.Errorf("df -v:\n%s", got)
	}
	// It frees what was said, and that is what du misses then.
	trees := filepath.Join("snapshots", "trees")
	before := e.du(trees + "/[0-9]* images/blobs/sha256/* containers/" + strings.Repeat("?", 64) + " snapshots/active/* snapshots/staging/*")
	if got := e.ok("prune", "-af"); !strings.Contains(got, "Total reclaimed space: "+humanSize(r.PruneAllFrees)+"\n") {
		t.Errorf("prune -af, of which df said that it frees %d:\n%s", r.PruneAllFrees, got)
	}
	after := e.du(trees + "/[0-9]* images/blobs/sha256/* containers/" + strings.Repeat("?", 64) + " snapshots/active/*")
	if before-after != r.PruneAllFrees {
		t.Errorf("prune -af freed %d bytes, df said %d", before-after, r.PruneAllFrees)
	}
	if r = e.df(); r.PruneFrees != 0 || r.PruneAllFrees != 0 || len(r.Images) != 1 {
		t.Errorf("after it: %+v", r)
	}
	in.Close()
	if err := running.Wait(); err != nil {
		t.Error(err)
	}
	e.df()
}

// humanSize is how sizes are shown: powers of 1000, three digits.
func humanSize(n int64) string {
	units, f, i := []string{"B", "kB", "MB", "GB"}, float64(n), 0
	for f >= 1000 && i < 3 {
		f, i = f/1000, i+1
	}
	return strconv.FormatFloat(f, 'g', 3, 64) + units[i]
}
