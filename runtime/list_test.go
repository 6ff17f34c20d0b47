package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// A container that should be gone and cannot be removed is dead, until it can.
func TestDead(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	r, err := s.create(ctx, CreateOptions{Name: "gone", RootFS: t.TempDir(), Network: "none", AutoRemove: true})
	if err != nil {
		t.Fatal(err)
	}
	active, _ := filepath.Glob(s.root + "/snapshots/active/*")
	user, err := os.Create(active[0] + "/lock") // as whoever has it mounted
	if err == nil {
		err = flock.Try(user, unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.lock.Close() // its monitor dies
	list, err := s.List(ctx, true)
	if err != nil || len(list) != 1 || list[0].State.Status != StatusDead || list[0].State.Error == "" {
		t.Fatalf("%+v, %v", list, err)
	}
	if running, err := s.List(ctx, false); err != nil || len(running) != 0 {
		t.Errorf("it runs: %+v, %v", running, err)
	}
	if plan := (&Survey{Containers: []SurveyedContainer{{Container: list[0]}}}).Plan(PruneOptions{}); len(plan) != 1 {
		t.Error("prune leaves it")
	}
	user.Close()
	if list, err := s.List(ctx, true); err != nil || len(list) != 0 {
		t.Errorf("when it could be removed: %+v, %v", list, err)
	}
}

// One record that cannot be read hides no other.
func TestListDamaged(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	made(t, s, "one")
	bad, two := made(t, s, "bad"), made(t, s, "two")
	if err := os.WriteFile(s.path(bad.ID, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx, true)
	if !errors.Is(err, snapshot.ErrDamaged) || len(list) != 2 || list[0].ID != two.ID {
		t.Errorf("%+v, %v", list, err)
	}
	if got := named(t, s); len(got) != 3 {
		t.Errorf("names %q", got)
	}
}

// BenchmarkList is what `ps -a` asks of a store with 1,000 stopped containers.
func BenchmarkList(b *testing.B) {
	s := testStore(b)
	ctx := context.Background()
	settings := Settings{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, Cmd: []string{"bash"}, Labels: map[string]string{"a": "b"}}
	dir := b.TempDir()
	for i := range 1000 {
		r, err := s.create(ctx, CreateOptions{Name: fmt.Sprintf("c%d", i), RootFS: dir, Image: ImageInfo{Name: "docker.io/library/debian:latest", Settings: settings}, Network: "none"})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.finish(ctx, r, ended{StartedAt: time.Now(), FinishedAt: time.Now()}); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(r.RunDir)
		r.lock.Close()
	}
	for b.Loop() {
		if list, err := s.List(ctx, true); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}

// What state.json says of a container whose monitor lives.
func TestObserve(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	r, err := s.create(ctx, CreateOptions{Name: "one", RootFS: t.TempDir(), Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.lock.Close()
	began, ended1 := time.Now().Add(-time.Minute).UTC(), time.Now().UTC()
	seven := 7
	for _, row := range []struct {
		write running
		begun bool // the next run has
		want  State
	}{
		{running{}, false, State{Status: StatusCreated}},
		{running{Pid: 1, StartedAt: began}, true, State{Status: StatusRunning, Pid: 1, StartedAt: began}},
		{running{RestartAt: time.Now(), Last: &ended{ExitCode: 3, StartedAt: began, FinishedAt: ended1}}, false,
			State{Status: StatusRestarting, ExitCode: 3, StartedAt: began, FinishedAt: ended1}},
		{running{RestartAt: time.Now(), Last: &ended{ExitCode: 3, StartedAt: began, FinishedAt: ended1}}, true,
			State{Status: StatusRestarting, ExitCode: 3, StartedAt: began, FinishedAt: ended1}},
		{running{ExitCode: &seven}, true, State{Status: StatusExited, ExitCode: 7}},
	} {
		if err := s.record(r, ended{Begun: row.begun, ExitCode: 3, StartedAt: began, FinishedAt: ended1}, false); err != nil {
			t.Fatal(err)
		}
		if err := s.writeState(r, row.write); err != nil {
			t.Fatal(err)
		}
		c, err := s.Lookup(ctx, "one")
		if err != nil || c.State != row.want {
			t.Errorf("%+v: %+v, want %+v; %v", row.write, c.State, row.want, err)
		}
	}
	if err := os.WriteFile(s.volatile(&r.Config, "state.json"), []byte(`{"Pid":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Lookup(ctx, "one"); err != nil || c.State.Status != StatusCreated {
		t.Errorf("half a file: %+v, %v", c.State, err)
	}
}

// A container that was removed since it was looked up is not there to be started.
func TestStartOfRemoved(t *testing.T) {
	s, ctx := testStore(t), context.Background()
	c := made(t, s, "one")
	if err := s.Remove(ctx, c, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(ctx, c, StartOptions{}, IO{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("start: %v", err)
	}
	if err := s.ExplainStart(ctx, c, io.Discard); !errors.Is(err, ErrNotFound) {
		t.Errorf("its explanation: %v", err)
	}
}
