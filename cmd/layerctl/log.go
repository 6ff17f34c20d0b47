package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// diagnostics makes the log that --log-level and --log-format ask for, and makes it the one that all packages write to.
func (a *app) diagnostics() error {
	flock.Tell = func(line string) { slog.Warn(line) }
	var level slog.Level
	switch a.logLevel {
	case "debug", "info", "warn", "error":
		if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
			return err
		}
	default:
		return usagef("--log-level %s: want debug, info, warn or error", a.logLevel)
	}
	switch a.logFormat {
	case "text":
		slog.SetDefault(slog.New(&lineHandler{out: a.stderr, level: level, mu: &sync.Mutex{}}))
	case "json":
		slog.SetDefault(slog.New(slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{Level: level})))
	default:
		return usagef("--log-format %s: want text or json", a.logFormat)
	}
	return nil
}

// report prints an error: a line and perhaps a hint, or an object with both where the log is JSON.
func (a *app) report(err error) {
	if a.logFormat != "json" {
		start.Report(a.stderr, err)
		return
	}
	var attrs []any
	if hint := start.HintOf(err); hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	slog.New(slog.NewJSONHandler(a.stderr, nil)).Error(err.Error(), attrs...) // the flags may not have been read to their end
}

// lineHandler writes a record as the other lines on stderr are: "layerctl: warning: what happened key=value".
type lineHandler struct {
	out   io.Writer
	level slog.Level
	attrs []slog.Attr
	mu    *sync.Mutex
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	kind := strings.ToLower(r.Level.String())
	if r.Level == slog.LevelWarn {
		kind = "warning"
	}
	fmt.Fprintf(&b, "layerctl: %s: %s", kind, r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintln(h.out, start.OneLine(b.String()))
	return err
}

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &with
}

// WithGroup implements slog.Handler. Lines have no groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
