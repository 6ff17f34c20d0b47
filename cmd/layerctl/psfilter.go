package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// psFilter is what --filter of ps says, in Docker's words.
type psFilter struct {
	ids, names []*regexp.Regexp
	labels     []labelFilter
	statuses   []runtime.Status
	exited     []int
	ancestors  []string
	before     []string // of before and since the last holds
	since      []string
	networks   []string
	all        bool // those that do not run are meant, too

	older, newer *runtime.Container // the ones that before and since name
	stands       func(*runtime.Container) bool
}

func parsePsFilter(given []string) (*psFilter, error) {
	p := &psFilter{}
	for _, g := range given {
		key, value, ok := strings.Cut(g, "=")
		if !ok {
			return nil, usagef("--filter %s: want KEY=VALUE", g)
		}
		switch key {
		case "id", "name":
			// A name may have Docker's slash before it.
			re, err := regexp.Compile(strings.TrimPrefix(strings.Replace(value, "^/", "^", 1), "/"))
			if err != nil {
				return nil, usagef("--filter %s: not a regular expression: %v", g, err)
			}
			if key == "id" {
				p.ids = append(p.ids, re)
			} else {
				p.names = append(p.names, re)
			}
		case "label":
			p.labels = append(p.labels, parseLabelFilter(value, false))
		case "status":
			switch s := runtime.Status(value); s {
			case runtime.StatusCreated, runtime.StatusRunning, runtime.StatusPaused, runtime.StatusRestarting, runtime.StatusExited, runtime.StatusDead:
				p.statuses, p.all = append(p.statuses, s), true
			default:
				return nil, usagef("--filter %s: want created, running, paused, restarting, exited or dead", g)
			}
		case "exited":
			code, err := strconv.Atoi(value)
			if err != nil {
				return nil, usagef("--filter %s: want an exit status", g)
			}
			p.exited = append(p.exited, code)
		case "ancestor":
			p.ancestors = append(p.ancestors, value)
		case "before":
			p.before = append(p.before, value)
		case "since":
			p.since = append(p.since, value)
		case "network":
			p.networks = append(p.networks, value)
		case "volume", "health", "publish", "expose", "is-task":
			return nil, runtime.Refuse("--filter %s", g)
		default:
			return nil, usagef("--filter %s: want id, name, label, status, exited, ancestor, before, since or network", g)
		}
	}
	return p, nil
}

// resolve looks up the images and containers that the filter names.
func (p *psFilter) resolve(ctx context.Context, images *image.Store, snaps *snapshot.Store, containers *runtime.Store) error {
	for _, w := range []struct {
		names []string
		to    **runtime.Container
		key   string
	}{{p.before, &p.older, "before"}, {p.since, &p.newer, "since"}} {
		for _, name := range w.names {
			c, err := containers.Lookup(ctx, name)
			if err != nil {
				return fmt.Errorf("--filter %s=%s: %w", w.key, name, err)
			}
			*w.to = c
		}
	}
	var ids, names, chains []string
	for _, ref := range p.ancestors {
		img, err := images.Resolve(ctx, ref)
		switch {
		case err == nil:
			ids, chains = append(ids, img.ID), append(chains, img.Chain)
		case errors.Is(err, image.ErrNotFound): // it was removed, and containers may still stand on its layers
			for _, full := range []string{ref, "localhost/" + ref} {
				if r, err := reference.Parse(full); err == nil {
					names = append(names, r.String())
				}
			}
		default:
			return fmt.Errorf("--filter ancestor=%s: %w", ref, err)
		}
	}
	known := map[string]bool{}
	p.stands = func(c *runtime.Container) bool {
		if c.RootFS != "" {
			return false
		}
		if slices.Contains(ids, c.Image.ID) || slices.Contains(names, c.Image.Name) {
			return true
		}
		is, ok := known[c.Image.Chain]
		for at := c.Image.Chain; !ok && at != ""; {
			if slices.Contains(chains, at) {
				is = true
				break
			}
			info, err := snaps.Stat(ctx, at)
			if err != nil {
				break // it is being removed
			}
			at = info.Parent
		}
		known[c.Image.Chain] = is
		return is
	}
	return nil
}

// match says whether a container is to be shown.
func (p *psFilter) match(c *runtime.Container) bool {
	matches := func(list []*regexp.Regexp, s string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(s) })
	}
	if !matches(p.ids, c.ID) || !matches(p.names, c.Name) {
		return false
	}
	for _, l := range p.labels {
		if !l.match(c.Labels) {
			return false
		}
	}
	s := c.State
	switch {
	case len(p.statuses) > 0 && !slices.Contains(p.statuses, s.Status),
		len(p.exited) > 0 && (s.Status != runtime.StatusExited && s.Status != runtime.StatusDead || !slices.Contains(p.exited, s.ExitCode)),
		len(p.networks) > 0 && !slices.Contains(p.networks, c.Network),
		p.older != nil && !c.Created.Before(p.older.Created),
		p.newer != nil && !c.Created.After(p.newer.Created),
		len(p.ancestors) > 0 && !p.stands(c):
		return false
	}
	return true
}
