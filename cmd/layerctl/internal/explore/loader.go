package explore

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"
)

// The loader reads in the background, and hands over what it has in portions: small ones first, so that the screen has something to show.
const (
	portion = 4096
	soon    = 15 * time.Millisecond
)

// loaded is a portion of a tree. more is where the next one comes from; nil after the last.
type loaded struct {
	gen   int // the tree that was asked for, so that what comes too late is thrown away
	items []item
	more  <-chan loaded
	err   error

	panicked any // what the reading ended with; it goes on where the terminal is given back
}

// listed is what is directly in a directory.
type listed struct {
	gen   int
	dir   string
	items []item
	err   error
}

// load begins to read a scope.
func load(ctx context.Context, images []Image, s scope, gen int) tea.Cmd {
	ch := make(chan loaded, 2)
	go func() {
		defer close(ch)
		defer func() {
			if r := recover(); r != nil {
				ch <- loaded{panicked: r}
			}
		}()
		send := func(l loaded) bool {
			select {
			case ch <- l:
				return true
			case <-ctx.Done():
				return false
			}
		}
		var items []item
		began := time.Now()
		for it, err := range stream(ctx, images, s) {
			if err != nil {
				send(loaded{gen: gen, items: items, err: err})
				return
			}
			items = append(items, it)
			if len(items) == portion || len(items)%64 == 0 && time.Since(began) > soon {
				if !send(loaded{gen: gen, items: items, more: ch}) {
					return
				}
				items, began = make([]item, 0, portion), time.Now()
			}
		}
		send(loaded{gen: gen, items: items})
	}()
	return wait(ch, gen)
}

func wait(ch <-chan loaded, gen int) tea.Cmd {
	return func() tea.Msg {
		l, ok := <-ch
		if !ok {
			return loaded{gen: -1} // given up
		}
		if l.panicked != nil {
			panic(l.panicked)
		}
		return l
	}
}

// listDir reads one directory ahead of the rest.
func listDir(images []Image, s scope, gen int, dir string) tea.Cmd {
	return func() tea.Msg {
		items, err := list(views(images, s, false), dir)
		return listed{gen: gen, dir: dir, items: items, err: err}
	}
}
