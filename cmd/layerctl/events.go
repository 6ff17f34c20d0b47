package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/runtime/events"
)

// eventRow is an event, in Docker's field names.
type eventRow struct {
	Status   string `json:"status"`
	ID       string `json:"id"`
	From     string `json:"from,omitempty"`
	Type     string
	Action   string
	Actor    eventActor
	Scope    string `json:"scope"`
	Time     int64  `json:"time"`
	TimeNano int64  `json:"timeNano"`
}

type eventActor struct {
	ID         string
	Attributes map[string]string
}

func eventRowOf(e events.Event) eventRow {
	row := eventRow{Status: e.Action, ID: e.ID, From: e.Attributes["image"], Type: e.Type, Action: e.Action,
		Actor: eventActor{e.ID, e.Attributes}, Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano()}
	if row.Actor.Attributes == nil {
		row.Actor.Attributes = map[string]string{}
	}
	return row
}

func (a *app) eventsCommand() *cobra.Command {
	var since, until, format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Show what happens to containers and images, as it happens",
		Long: `Show what happens to containers and images of this store, as it happens, until it is interrupted. With --since it begins with what is past,
with --until it ends. Without a daemon it is the commands and the containers' monitors that write it down, below the run root: a reboot
begins a new diary, and some 8 MB are kept.

Filters: container=NAME or ID, image=NAME or ID, type=container or image, event=ACTION, label=KEY or KEY=VALUE; several of one kind are
alternatives, but for labels.`,
		Example: `  layerctl events --since 1h --until 0s
  layerctl events --filter container=web --filter event=die --format '{{.Actor.Attributes.exitCode}}'`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := events.ReadOptions{Follow: true}
			var err error
			if o.Since, o.Until, err = parseWindow("events", since, until); err != nil {
				return err
			}
			if o.Since.IsZero() {
				o.Since = time.Now()
			}
			match, err := parseEventFilter(filters)
			if err != nil {
				return err
			}
			show, err := eventPrinter(format)
			if err != nil {
				return err
			}
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			err = containers.Events(cmd.Context(), o, func(e events.Event) error {
				if !match.match(e) {
					return nil
				}
				return show(a.stdout, e)
			})
			if err == nil && cmd.Context().Err() != nil {
				return interrupted
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "begin with what happened at a `TIME` or behind it: 10m, seconds since 1970, a date (default: now)")
	f.StringVar(&until, "until", "", "end at a `TIME`")
	f.StringArrayVarP(&filters, "filter", "f", nil, "only these: container=, image=, type=, event=, label=")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

// eventPrinter makes what prints an event.
func eventPrinter(format string) (func(io.Writer, events.Event) error, error) {
	switch format {
	case "":
		return printEvent, nil
	case "json":
		return func(w io.Writer, e events.Event) error {
			enc := json.NewEncoder(w)
			enc.SetEscapeHTML(false)
			return enc.Encode(eventRowOf(e))
		}, nil
	}
	var t *template.Template
	t, err := parseTemplate(unescape(format))
	// An attribute that an event does not have is empty, as in Docker.
	return func(w io.Writer, e events.Event) error {
		return execTemplate(w, t.Option("missingkey=zero"), eventRowOf(e))
	}, err
}

// printEvent prints an event as Docker does, on a line whatever is in it.
func printEvent(w io.Writer, e events.Event) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s", e.Time.Local().Format("2006-01-02T15:04:05.000000000Z07:00"), e.Type, e.Action, e.ID)
	for i, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		separator := ", "
		if i == 0 {
			separator = " ("
		}
		fmt.Fprintf(&b, "%s%s=%s", separator, k, e.Attributes[k])
	}
	if len(e.Attributes) > 0 {
		b.WriteByte(')')
	}
	_, err := fmt.Fprintln(w, start.OneLine(b.String()))
	return err
}

// eventFilter is what --filter of events says, in Docker's words.
type eventFilter map[string][]string

func parseEventFilter(given []string) (eventFilter, error) {
	filter := eventFilter{}
	for _, g := range given {
		key, value, ok := strings.Cut(g, "=")
		switch {
		case !ok || value == "":
			return nil, usagef("--filter %s: want KEY=VALUE", g)
		case key == "type" && value != events.Container && value != events.Image:
			return nil, usagef("--filter %s: there are events of the types container and image", g)
		case key != "container" && key != "image" && key != "type" && key != "event" && key != "label":
			return nil, usagef("--filter %s: only container, image, type, event and label are known", g)
		}
		filter[key] = append(filter[key], value)
	}
	return filter, nil
}

func (f eventFilter) match(e events.Event) bool {
	any := func(key string, is func(string) bool) bool {
		return len(f[key]) == 0 || slices.ContainsFunc(f[key], is)
	}
	for _, l := range f["label"] {
		key, value, valued := strings.Cut(l, "=")
		if has, ok := e.Attributes[key]; !ok || valued && has != value {
			return false
		}
	}
	return any("type", func(v string) bool { return v == e.Type }) &&
		any("event", func(v string) bool { return v == e.Action }) &&
		any("container", func(v string) bool {
			return e.Type == events.Container && (v == e.Attributes["name"] || isPrefixOfID(v, e.ID))
		}) &&
		any("image", func(v string) bool {
			name := e.Attributes["image"]
			if e.Type == events.Image {
				name = e.Attributes["name"]
				if isPrefixOfID(v, e.ID) {
					return true
				}
			}
			return name != "" && (v == name || matchesName(v, name))
		})
}

// isPrefixOfID says whether what was typed is an ID, or a beginning of it that is long enough for one.
func isPrefixOfID(typed, id string) bool {
	typed, id = strings.TrimPrefix(typed, "sha256:"), strings.TrimPrefix(id, "sha256:")
	return len(typed) >= 4 && strings.HasPrefix(id, typed)
}

// imageEvent writes down what was done with an image. name may be "".
func (a *app) imageEvent(action, id, name string) {
	e := events.Event{Type: events.Image, Action: action, ID: id}
	if name != "" {
		e.Attributes = map[string]string{"name": name}
	}
	a.diary.Happened(e)
}

// imageEventOf is imageEvent for an image that is known by what the user called it.
func (a *app) imageEventOf(ctx context.Context, images *image.Store, action, name string) {
	img, err := images.Resolve(ctx, name)
	if err != nil {
		slog.Debug("no event: " + err.Error()) // somebody was quicker to remove it
		return
	}
	a.imageEvent(action, img.ID, img.Name)
}

// removalEvents writes down what of an image was removed.
func (a *app) removalEvents(id string, names []string, done []image.Deleted) {
	for _, d := range done {
		switch {
		case d.Kind == "Untagged" && slices.Contains(names, d.What):
			a.imageEvent("untag", id, d.What)
		case d.Kind == "Deleted" && d.What == id:
			a.imageEvent("delete", id, "")
		}
	}
}
