package main

import (
	"strconv"
	"strings"
	"time"
)

// pruneFilter is what --filter of the prune commands says, in Docker's words: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]. Several
// are all to be true.
type pruneFilter struct {
	given  []string
	until  time.Time
	labels []labelFilter
}

type labelFilter struct {
	key, value string
	valued     bool
	not        bool
}

func parseLabelFilter(value string, not bool) labelFilter {
	l := labelFilter{not: not}
	l.key, l.value, l.valued = strings.Cut(value, "=")
	return l
}

func (l labelFilter) match(labels map[string]string) bool {
	value, has := labels[l.key]
	return (has && (!l.valued || value == l.value)) != l.not
}

func parsePruneFilter(given []string, now time.Time) (*pruneFilter, error) {
	p := &pruneFilter{given: given}
	for _, g := range given {
		key, value, ok := strings.Cut(g, "=")
		switch {
		case !ok || value == "":
			return nil, usagef("--filter %s: want until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE]", g)
		case key == "label" || key == "label!":
			p.labels = append(p.labels, parseLabelFilter(value, key == "label!"))
		case key == "until":
			if !p.until.IsZero() {
				return nil, usagef("--filter %s: until can be given once", g)
			}
			until, ok := parseUntil(value, now)
			if !ok {
				return nil, usagef("--filter %s: want a duration (24h), seconds since 1970, or a date (2006-01-02T15:04:05)", g)
			}
			p.until = until
		default:
			return nil, usagef("--filter %s: only until, label and label! are known", g)
		}
	}
	return p, nil
}

// parseUntil reads a time in the forms that Docker knows: how long ago, seconds since 1970, or a date and time, local where no zone is
// said.
func parseUntil(s string, now time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), true
	}
	if seconds, rest, _ := strings.Cut(s, "."); strings.Trim(rest, "0123456789") == "" {
		if n, err := strconv.ParseInt(seconds, 10, 64); err == nil {
			nanos, _ := strconv.ParseInt((rest + "000000000")[:9], 10, 64)
			return time.Unix(n, nanos), true
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// match says whether something is among what is to be removed.
func (p *pruneFilter) match(created time.Time, labels map[string]string) bool {
	if !p.until.IsZero() && !created.Before(p.until) {
		return false
	}
	for _, l := range p.labels {
		if !l.match(labels) {
			return false
		}
	}
	return true
}
