package runtime

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerctl/layerctl/snapshot"
)

// checked is what a check says, a line each.
func checked(t *testing.T, s *Store) string {
	t.Helper()
	r, err := s.Check(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range r.Findings {
		lines = append(lines, f.Container+" "+f.File+": "+f.Problem)
	}
	return strings.Join(lines, "\n")
}

// Every record of a container that is damaged or lost is found, and made again of what is left; and nothing is swept before that.
func TestRepair(t *testing.T) {
	const wrote = "what was written"
	type made struct {
		s                  *Store
		id, active         string
		config, exit, name string
	}
	overwrite := func(path string, at int) error {
		b, err := os.ReadFile(path)
		if err == nil {
			b[at] ^= 1
			err = os.WriteFile(path, b, 0o600)
		}
		return err
	}
	unseal := func(path string) error {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, append(b[:strings.LastIndex(string(b), `,"sum":`)], '}'), 0o600)
		}
		return err
	}
	for _, row := range []struct {
		name               string
		damage             func(m made) error
		found              string // "" for nothing
		healed, lost, gone string // what repair says; gone is a container that is no more
	}{
		{"nothing", func(made) error { return nil }, "", "", "", ""},
		{"a bit of the record", func(m made) error { return overwrite(m.config, 40) }, "mine containers/ID/config.json: is damaged", "containers/ID/config.json: made right", "", ""},
		{"an empty record", func(m made) error { return os.Truncate(m.config, 0) }, "mine containers/ID/config.json: is damaged", "containers/ID/config.json: made right", "", ""},
		{"no record", func(m made) error { return os.Remove(m.config) }, "mine containers/ID/config.json: is damaged", "containers/ID/config.json: made right", "", ""},
		{"another's record", func(m made) error {
			other := newID()
			b, err := seal(m.id, "config.json", Config{Version: configVersion, ID: other, Name: "other"})
			if err != nil {
				return err
			}
			return os.WriteFile(m.config, b, 0o600)
		}, "mine containers/ID/config.json: is damaged", "containers/ID/config.json: made right", "", ""},
		{"a record without a checksum", func(m made) error { return unseal(m.config) }, "mine containers/ID/config.json: has no checksum", "containers/ID/config.json: made right", "", ""},
		{"a bit of the end", func(m made) error { return overwrite(m.exit, 13) }, "mine containers/ID/exit.json: is damaged", "containers/ID/exit.json: made anew: how container mine ended is not known any more", "", ""},
		{"an end without a checksum", func(m made) error { return unseal(m.exit) }, "mine containers/ID/exit.json: has no checksum", "containers/ID/exit.json: made right", "", ""},
		{"no name", func(m made) error { return os.Remove(m.name) }, "mine containers/names/mine: does not lead to its container", "containers/names/mine: made right", "", ""},
		{"no record and no name", func(m made) error {
			if err := os.Remove(m.name); err != nil {
				return err
			}
			return os.Remove(m.config)
		}, "SHORT containers/ID/config.json: is damaged", "containers/ID/config.json: made right\ncontainers/names/mine: made right", "", ""},
		{"no record of the snapshot", func(m made) error { return os.Remove(filepath.Join(m.active, "record.json")) }, "mine containers/ID: its snapshot is not there", "", "", ""},
		{"no copy", func(m made) error {
			if err := os.Truncate(m.config, 30); err != nil {
				return err
			}
			// As an older version made it.
			if err := os.Remove(filepath.Join(m.active, "record.json")); err != nil {
				return err
			}
			_, err := m.s.snaps.Repair(context.Background(), map[string]snapshot.Claim{snapshotKey(m.id): {Dirs: []string{"/"}}})
			return err
		}, "mine containers/ID/config.json: is damaged", "", "container mine: its image's name, command and settings; what was written in it is kept", ""},
		{"both records", func(m made) error {
			if err := os.Truncate(m.config, 30); err != nil {
				return err
			}
			return os.Truncate(filepath.Join(m.active, "record.json"), 30)
		}, "mine containers/ID/config.json: is damaged", "", "container mine: its record and its snapshot's are damaged, so that nobody knows what it stands on", "mine"},
		{"no record, and none of the snapshot", func(m made) error {
			if err := os.Remove(m.config); err != nil {
				return err
			}
			return os.Remove(filepath.Join(m.active, "record.json"))
		}, "mine containers/ID/config.json: is damaged", "", "container mine: its record and its snapshot's are damaged, so that nobody knows what it stands on", "mine"},
		{"no upper", func(m made) error { return os.RemoveAll(filepath.Join(m.active, "fs")) }, "", "", "container mine: what was written in it is gone", "mine"}, // found by the snapshots' check
		{"no snapshot", func(m made) error { return os.RemoveAll(m.active) }, "mine containers/ID: its snapshot is not there", "", "container mine: what was written in it is gone", "mine"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, ctx := testStore(t), context.Background()
			c, err := CreateOptions{Name: "mine", RootFS: "/", Network: "none", Env: []string{"A=\xff"}}.config()
			if err != nil {
				t.Fatal(err)
			}
			made := made{s: s, id: c.ID, config: s.path(c.ID, "config.json"), exit: s.path(c.ID, "exit.json"), name: filepath.Join(s.dir, "names/mine")}
			r, err := s.add(ctx, c)
			if err == nil {
				err = s.finish(ctx, r, ended{ExitCode: 7, StartedAt: time.Now(), FinishedAt: time.Now()})
			}
			if err != nil {
				t.Fatal(err)
			}
			r.lock.Close()
			before, err := s.Lookup(ctx, "mine")
			if err != nil {
				t.Fatal(err)
			}
			actives, err := s.snaps.Actives()
			if err != nil || len(actives) != 1 {
				t.Fatalf("%+v, %v", actives, err)
			}
			made.active = actives[0].Path
			if err := os.WriteFile(filepath.Join(made.active, "fs/file"), []byte(wrote), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := row.damage(made); err != nil {
				t.Fatal(err)
			}

			here := func(s string) string {
				return strings.ReplaceAll(strings.ReplaceAll(s, "SHORT", c.ID[:12]), "ID", c.ID)
			}
			_ = s.Sweep(ctx) // which may say what is damaged
			if err := s.snaps.Sweep(ctx); err != nil {
				t.Errorf("sweep: %v", err)
			}
			if found := checked(t, s); !strings.Contains(found, here(row.found)) || row.found == "" && found != "" {
				t.Errorf("found %q, want %q", found, here(row.found))
			}
			report, err := s.Repair(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if healed, lost := strings.Join(report.Healed, "\n"), strings.Join(report.Lost, "\n"); healed != here(row.healed) || lost != row.lost || len(report.Left) > 0 {
				t.Errorf("healed %q, want %q; lost %q, want %q; left %q", healed, here(row.healed), lost, row.lost, report.Left)
			}
			if _, err := s.snaps.Repair(ctx, report.Claims); err != nil {
				t.Error(err)
			}
			if found := checked(t, s); found != "" {
				t.Errorf("after the repair: %s", found)
			}
			if again, err := s.Repair(ctx); err != nil || len(again.Healed)+len(again.Lost) > 0 {
				t.Errorf("repaired a second time: %+v, %v", again, err)
			}
			if row.gone != "" {
				if list, err := s.List(ctx, true); err != nil || len(list) > 0 {
					t.Errorf("it is still there: %+v, %v", list, err)
				}
				if names, err := os.ReadDir(s.dir); err != nil || len(names) != 1 {
					t.Errorf("containers/ has %v, %v", names, err)
				}
				if left, err := s.snaps.Actives(); err != nil || len(left) > 0 {
					t.Errorf("its snapshot is still there: %+v, %v", left, err)
				}
				return
			}
			if b, err := os.ReadFile(filepath.Join(made.active, "fs/file")); err != nil || string(b) != wrote {
				t.Errorf("what was written is %q, %v", b, err)
			}
			after, err := s.Lookup(ctx, "mine")
			if err != nil {
				t.Fatal(err)
			}
			if after.RootFS != "/" || after.ID != c.ID || row.lost == "" && (!slices.Equal(after.Env, before.Env) || !slices.Equal(after.Command, before.Command) || after.Created != before.Created) {
				t.Errorf("the container is %+v, was %+v", after.Config, before.Config)
			}
			if unknown := strings.Contains(row.healed, "made anew"); unknown && after.State.ExitCode != 255 || !unknown && after.State.ExitCode != 7 {
				t.Errorf("its state is %+v", after.State)
			}
			if err := s.Remove(ctx, after, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever removes what a half-made container stands on asks for the containers' snapshots while the rows are locked, and must not wait for
// himself.
func TestSweepAsksNoRows(t *testing.T) {
	s, ctx, id := testStore(t), context.Background(), newID()
	_, err := s.snaps.Prepare(ctx, "base", "")
	if err == nil {
		err = s.snaps.Commit(ctx, "parent", "base")
	}
	if err == nil {
		err = s.snaps.Create(ctx, snapshotKey(id), "parent")
	}
	if err != nil {
		t.Fatal(err)
	}
	actives, err := s.snaps.Actives()
	if err != nil || len(actives) != 1 {
		t.Fatalf("%+v, %v", actives, err)
	}
	// Killed before either record was written.
	if err := os.Remove(filepath.Join(actives[0].Path, "record.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path(id), 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.snaps.Remove(ctx, "parent") }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for itself")
	}
	if left, err := s.snaps.Actives(); err != nil || len(left) > 0 {
		t.Errorf("what was half made is still there: %+v, %v", left, err)
	}
}
