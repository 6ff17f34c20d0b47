package runtime

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// maxGivenFile bounds a file of variables or labels: execve(2) would take no more of them.
const maxGivenFile = 4 << 20

// readEnvFile reads a file of variables in Docker's form, and returns them as NAME=VALUE: one a line, of which blanks before the name are
// dropped and nothing else; a line that begins with "#" is a comment; NAME alone is the caller's value, or nothing where he has none.
func readEnvFile(path string) ([]string, error) {
	return readGivenFile("environment file", path, func(name string) (string, bool) {
		value, ok := os.LookupEnv(name)
		return name + "=" + value, ok
	})
}

func readGivenFile(what, path string, alone func(name string) (string, bool)) ([]string, error) {
	fail := func(err error) ([]string, error) { return nil, fmt.Errorf("read %s %s: %w", what, path, err) }
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxGivenFile+1))
	if err != nil {
		return fail(err)
	}
	if len(b) > maxGivenFile {
		return fail(invalid("it is larger than %d MiB", maxGivenFile>>20))
	}
	var list []string
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		n++
		line = strings.TrimLeft(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, given := strings.Cut(line, "=")
		switch {
		case !utf8.ValidString(line) || strings.Contains(line, "\x00"):
			return fail(invalid("line %d is not UTF-8 text", n))
		case name == "":
			return fail(invalid("line %d has no name before the =", n))
		case strings.ContainsAny(name, " \t"):
			return fail(invalid("line %d: the name %q has blanks in it", n, name))
		}
		if !given {
			var ok bool
			if line, ok = alone(name); !ok {
				continue
			}
		}
		list = append(list, line)
	}
	return list, nil
}

// labels joins an image's labels, those of files, and those that the user gave one by one, KEY=VALUE or KEY; the later wins.
func labels(image map[string]string, files, given []string) (map[string]string, error) {
	var all []string
	for _, path := range files {
		list, err := readGivenFile("label file", path, func(name string) (string, bool) { return name, true })
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	all = append(all, given...)
	if len(all) == 0 {
		return image, nil
	}
	joined := make(map[string]string, len(image)+len(all))
	for k, v := range image {
		joined[k] = v
	}
	for _, l := range all {
		key, value, _ := strings.Cut(l, "=")
		if strings.TrimSpace(key) == "" {
			return nil, invalid("label %q: want KEY=VALUE or KEY", l)
		}
		if !utf8.ValidString(l) {
			return nil, invalid("label %q is not UTF-8 text", l)
		}
		joined[key] = value
	}
	return joined, nil
}

// RestartPolicy says when the monitor starts a container again that has ended: "" (never; Docker's "no"), "on-failure" (where its status was
// not 0, Max times at most where that is not 0), "always", or "unless-stopped", which is the same here: what Docker's daemon does with
// these two when it is started is the unit's matter, and whether that is enabled (Unit).
type RestartPolicy struct {
	Name string
	Max  int `json:",omitempty"`
}

// String is the policy as Docker writes it: no, on-failure:3.
func (p RestartPolicy) String() string {
	switch {
	case p.Name == "":
		return "no"
	case p.Max > 0:
		return p.Name + ":" + strconv.Itoa(p.Max)
	}
	return p.Name
}

// ParseRestart reads what --restart takes.
func ParseRestart(s string) (RestartPolicy, error) {
	name, limit, limited := strings.Cut(s, ":")
	p := RestartPolicy{Name: name}
	switch name {
	case "", "no":
		p.Name = ""
	case "on-failure", "always", "unless-stopped":
	default:
		return p, invalid("restart policy %q: want no, on-failure[:N], always or unless-stopped", s)
	}
	if !limited {
		return p, nil
	}
	if name != "on-failure" {
		return p, invalid("restart policy %q: only on-failure counts", s)
	}
	n, err := strconv.ParseUint(limit, 10, 31)
	if err != nil {
		return p, invalid("restart policy %q: want a number of times behind the colon", s)
	}
	p.Max = int(n)
	return p, nil
}

// LogOptions are what --log-opt sets of a container's log: how long it may be in bytes before a new one is begun (0: as long as it likes), and
// how many there may be (0 is 1).
type LogOptions struct {
	MaxSize int64 `json:",omitempty"`
	MaxFile int   `json:",omitempty"`
}

func parseLogOptions(driver string, given []string) (o LogOptions, err error) {
	for _, g := range given {
		name, value, _ := strings.Cut(g, "=")
		switch name {
		case "max-size":
			o.MaxSize, err = parseSize(value)
			if err != nil || o.MaxSize < 1 {
				return o, invalid("--log-opt %s: want a size such as 500k, 10m or 1g", g)
			}
		case "max-file":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n < 1 || n > 1000 {
				return o, invalid("--log-opt %s: want how many files there may be, 1 to 1000", g)
			}
			o.MaxFile = int(n)
		default:
			return o, Refuse("--log-opt %s: only max-size and max-file are known", g)
		}
	}
	if driver == "none" && len(given) > 0 {
		return o, invalid("--log-opt %s: there is no log with --log-driver none", given[0])
	}
	if o.MaxFile > 0 && o.MaxSize == 0 {
		return o, invalid("--log-opt max-file=%d: there is one file of any size, unless max-size says how large one may be", o.MaxFile)
	}
	return o, nil
}

// parseSize reads bytes as Docker's log options take them, in powers of 1000: 100, 5k, 10m, 1.5g, 10mb; and 10MiB in those of 1024.
func parseSize(s string) (int64, error) {
	number, base := strings.TrimSuffix(strings.ToLower(s), "b"), 1000.0
	if n, binary := strings.CutSuffix(number, "i"); binary {
		number, base = n, 1024
	}
	unit := 1.0
	if number != "" {
		if i := strings.IndexByte("kmgtp", number[len(number)-1]); i >= 0 {
			number = number[:len(number)-1]
			for range i + 1 {
				unit *= base
			}
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if f *= unit; err != nil || !(f >= 0 && f < 1<<62) || strings.Trim(number, "0123456789.") != "" {
		return 0, invalid("size %q", s)
	}
	return int64(f), nil
}

// noTimeout is a StopTimeout that has no end.
const noTimeout = -1

// defaultStopTimeout is how long a container has from its stop signal to SIGKILL, in seconds: Docker's.
const defaultStopTimeout = 10

// EndsBy is the signal that asks the container to end, and how many seconds it has then; -1 is for ever. What an image names that is
// no signal is not heeded: SIGTERM is sent.
func (c *Config) EndsBy() (signal unix.Signal, seconds int) {
	seconds = defaultStopTimeout
	if c.StopTimeout != nil {
		seconds = *c.StopTimeout
	}
	signal, err := ParseSignal(cmp.Or(c.StopSignal, c.Image.Settings.StopSignal))
	if err != nil {
		signal = unix.SIGTERM
	}
	return signal, seconds
}

// checkShared checks whose namespace of a kind a container is to have: its own (""), the host's, or another container's by ID.
func checkShared(kind, mode string) error {
	id, other := strings.CutPrefix(mode, "container:")
	if mode == "" || mode == "host" || other && len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		return nil
	}
	return Refuse("--%s %s", kind, mode)
}
