package main

import (
	"testing"
	"time"
)

func TestPruneFilter(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	old, young := now.Add(-48*time.Hour), now.Add(-time.Hour)
	labels := map[string]string{"a": "1", "b": ""}
	for _, row := range []struct {
		filters    []string
		old, young bool
	}{
		{nil, true, true},
		{[]string{"until=24h"}, true, false},
		{[]string{"until=72h"}, false, false},
		{[]string{"until=1777960000"}, true, false},
		{[]string{"until=1777960000.5"}, true, false},
		{[]string{"until=2026-05-05"}, true, false},
		{[]string{"until=2026-05-05T00:00:00Z"}, true, false},
		{[]string{"until=2026-05-05T00:00:00"}, true, false},
		{[]string{"until=2027-01-01"}, true, true},
		{[]string{"label=a"}, true, true},
		{[]string{"label=a=1"}, true, true},
		{[]string{"label=a=2"}, false, false},
		{[]string{"label=b"}, true, true},
		{[]string{"label=c"}, false, false},
		{[]string{"label!=c"}, true, true},
		{[]string{"label!=a"}, false, false},
		{[]string{"label!=a=1"}, false, false},
		{[]string{"label!=a=2"}, true, true},
		{[]string{"label=a", "label=c"}, false, false},
		{[]string{"label=a", "until=24h"}, true, false},
	} {
		f, err := parsePruneFilter(row.filters, now)
		if err != nil {
			t.Errorf("%q: %v", row.filters, err)
			continue
		}
		if got := f.match(old, labels); got != row.old {
			t.Errorf("%q: the old one: %v", row.filters, got)
		}
		if got := f.match(young, labels); got != row.young {
			t.Errorf("%q: the young one: %v", row.filters, got)
		}
	}
	for _, bad := range []string{"until", "until=", "until=soon", "label", "dangling=true", "x=y"} {
		if _, err := parsePruneFilter([]string{bad}, now); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := parsePruneFilter([]string{"until=1h", "until=2h"}, now); err == nil {
		t.Error("until was taken twice")
	}
}
