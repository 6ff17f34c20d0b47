package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerctl/layerctl/runtime"
)

func TestStatusText(t *testing.T) {
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d - 100*time.Millisecond) }
	for _, row := range []struct {
		state runtime.State
		want  string
	}{
		{runtime.State{Status: runtime.StatusCreated}, "Created"},
		{runtime.State{Status: runtime.StatusRunning, StartedAt: ago(5 * time.Minute)}, "Up 5 minutes"},
		{runtime.State{Status: runtime.StatusPaused, StartedAt: ago(5 * time.Minute)}, "Up 5 minutes (Paused)"},
		{runtime.State{Status: runtime.StatusRestarting, ExitCode: 1, FinishedAt: ago(5 * time.Second)}, "Restarting (1) 5 seconds ago"},
		{runtime.State{Status: runtime.StatusExited, FinishedAt: ago(2 * time.Hour)}, "Exited (0) 2 hours ago"},
		{runtime.State{Status: runtime.StatusExited, ExitCode: 255}, "Exited (255)"},
		{runtime.State{Status: runtime.StatusDead}, "Dead"},
	} {
		if got := statusText(row.state); got != row.want {
			t.Errorf("%+v is %q, want %q", row.state, got, row.want)
		}
	}
}

func TestPsFilter(t *testing.T) {
	of := func(id, name string, s runtime.State, labels map[string]string) runtime.Container {
		return runtime.Container{Config: runtime.Config{ID: id, Name: name, Network: "none", Labels: labels}, State: s}
	}
	list := []runtime.Container{
		of("aa01", "web", runtime.State{Status: runtime.StatusRunning}, map[string]string{"tier": "front", "x": ""}),
		of("aa02", "web-old", runtime.State{Status: runtime.StatusExited, ExitCode: 1}, map[string]string{"tier": "front"}),
		of("bb03", "db", runtime.State{Status: runtime.StatusPaused}, map[string]string{"tier": "back", "x": "1"}),
		of("bb04", "job", runtime.State{Status: runtime.StatusExited}, nil),
		of("cc05", "new", runtime.State{Status: runtime.StatusCreated}, nil),
	}
	for _, row := range []struct {
		filters []string
		want    string
	}{
		{nil, "web web-old db job new"},
		{[]string{"name=web"}, "web web-old"},
		{[]string{"name=^/web$"}, "web"},
		{[]string{"name=/web"}, "web web-old"},
		{[]string{"name=^(db|job)$"}, "db job"},
		{[]string{"name=db", "name=job"}, "db job"},
		{[]string{"id=aa"}, "web web-old"},
		{[]string{"id=^b", "name=o"}, "job"},
		{[]string{"label=tier"}, "web web-old db"},
		{[]string{"label=tier=front", "label=x"}, "web"},
		{[]string{"label=x="}, "web"},
		{[]string{"status=exited"}, "web-old job"},
		{[]string{"status=paused", "status=created"}, "db new"},
		{[]string{"status=dead"}, ""},
		{[]string{"exited=0"}, "job"},
		{[]string{"exited=0", "exited=1"}, "web-old job"},
		{[]string{"network=none"}, "web web-old db job new"},
		{[]string{"network=host"}, ""},
	} {
		p, err := parsePsFilter(row.filters)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range list {
			if p.match(&c) {
				got = append(got, c.Name)
			}
		}
		if s := strings.Join(got, " "); s != row.want {
			t.Errorf("%q: %q, want %q", row.filters, s, row.want)
		}
		if p.all != slices.ContainsFunc(row.filters, func(f string) bool { return strings.HasPrefix(f, "status=") }) {
			t.Errorf("%q: all %v", row.filters, p.all)
		}
	}
	for _, f := range []string{"", "name", "name=(", "status=up", "status=", "exited=x", "color=red", "=x"} {
		var usage usageError
		if _, err := parsePsFilter([]string{f}); !errors.As(err, &usage) {
			t.Errorf("%q: %v", f, err)
		}
	}
	for _, f := range []string{"volume=x", "health=healthy", "publish=80", "expose=80", "is-task=true"} {
		if _, err := parsePsFilter([]string{f}); !errors.Is(err, runtime.ErrUnsupported) {
			t.Errorf("%q: %v", f, err)
		}
	}
}
