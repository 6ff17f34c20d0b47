package snapshot

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"
)

func TestRelabel(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, key := range []string{"one", "two"} {
		if err := s.Create(ctx, key, "", WithLabels(map[string]string{"a": key})); err != nil {
			t.Fatal(err)
		}
	}
	labels := func(key string) map[string]string {
		t.Helper()
		info, err := s.Stat(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		return info.Labels
	}
	if err := s.Relabel(ctx, "one", func(l map[string]string) error { l["b"] = l["a"] + "!"; delete(l, "a"); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := labels("one"); !maps.Equal(got, map[string]string{"b": "one!"}) || !maps.Equal(labels("two"), map[string]string{"a": "two"}) {
		t.Errorf("labels %q, of the other %q", got, labels("two"))
	}
	refused := errors.New("refused")
	if err := s.Relabel(ctx, "one", func(l map[string]string) error { clear(l); return refused }); !errors.Is(err, refused) || len(labels("one")) != 1 {
		t.Errorf("a change that was given up: %v, %q", err, labels("one"))
	}
	if err := s.Relabel(ctx, "three", func(map[string]string) error { return nil }); !errors.Is(err, ErrNotFound) {
		t.Errorf("of what is not there: %v", err)
	}

	// Nobody relabels what is being committed: its record is going to be another.
	c, err := s.Capture(ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if err := s.Relabel(short, "one", func(map[string]string) error { t.Error("it was changed"); return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of what is being committed: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Relabel(ctx, "one", func(l map[string]string) error { l["c"] = ""; return nil }); err != nil || len(labels("one")) != 2 {
		t.Errorf("after it: %v, %q", err, labels("one"))
	}
}
