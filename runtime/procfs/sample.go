package procfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/layerctl/layerctl/runtime/cgroup"
)

// Sample is what a container has used until a moment.
type Sample struct {
	cgroup.Stats
	NetRead, NetWritten uint64 // bytes, by all of its interfaces but loopback; 0 in the host's network
}

// Sample reads what the container has used. It is cgroup.ErrNoStats where nothing counts that.
func (c Container) Sample() (s Sample, err error) {
	if s.Stats, err = cgroup.Of(c.ID).Stats(); err != nil {
		return s, err
	}
	if own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.Pid)); err == nil {
		if host, err := os.Readlink("/proc/self/ns/net"); err == nil && host != own {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", c.Pid))
			s.NetRead, s.NetWritten = traffic(string(b))
		}
	}
	return s, nil
}

// CPUPercent is how much of a processor the container used on average since an earlier sample: 200 is two of them.
func (s Sample) CPUPercent(before Sample) float64 {
	took := s.Time.Sub(before.Time)
	if took <= 0 || s.CPU < before.CPU { // it was started again in between
		return 0
	}
	return 100 * (s.CPU - before.CPU).Seconds() / took.Seconds()
}

// MemoryPercent is how much of the memory that the container may have it has.
func (s Sample) MemoryPercent() float64 {
	if s.MemoryLimit == 0 {
		return 0
	}
	return 100 * float64(s.Memory) / float64(s.MemoryLimit)
}

// traffic adds up what interfaces have received and sent (proc(5), net/dev): after the name, the first and the ninth number.
func traffic(dev string) (read, written uint64) {
	for line := range strings.Lines(dev) {
		name, counts, found := strings.Cut(line, ":")
		fields := strings.Fields(counts)
		if !found || len(fields) < 16 || strings.TrimSpace(name) == "lo" {
			continue
		}
		r, _ := strconv.ParseUint(fields[0], 10, 64)
		w, _ := strconv.ParseUint(fields[8], 10, 64)
		read, written = read+r, written+w
	}
	return read, written
}
