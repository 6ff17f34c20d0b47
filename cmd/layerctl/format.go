package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
)

// column is one column of a table: its header and the name of the record's field that fills it.
type column struct{ header, field string }

// printList prints records as Docker's list commands do: a table by default, one JSON object a line for "json", or a Go template
// applied to each ("table TEMPLATE" prints aligned, with headers).
func printList[T any](w io.Writer, format string, columns []column, records []T) error {
	b := newBuffered(w)
	err := printRecords(b, format, columns, records)
	return errors.Join(err, b.Flush())
}

func printRecords[T any](w io.Writer, format string, columns []column, records []T) error {
	switch {
	case format == "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, r := range records {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	case format == "" || format == "table":
		fields := make([]string, len(columns))
		headers := make([]string, len(columns))
		for i, c := range columns {
			fields[i] = "{{." + c.field + "}}"
			headers[i] = c.header
		}
		return printTable(w, strings.Join(headers, "\t"), strings.Join(fields, "\t"), records)
	case strings.HasPrefix(format, "table "):
		body := unescape(strings.TrimPrefix(format, "table "))
		header, err := headerOf[T](body, columns)
		if err != nil {
			return err
		}
		return printTable(w, header, body, records)
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := execTemplate(w, t, r); err != nil {
			return err
		}
	}
	return nil
}

// headerOf is the first line of a table whose lines a template makes: the template with each field's header for its value.
func headerOf[T any](body string, columns []column) (string, error) {
	headers := labelHeaders{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		var words strings.Builder // CreatedAt is CREATED AT
		for i, r := range f.Name {
			if i > 0 && unicode.IsUpper(r) && !unicode.IsUpper(rune(f.Name[i-1])) {
				words.WriteByte(' ')
			}
			words.WriteRune(unicode.ToUpper(r))
		}
		headers[f.Name] = words.String()
	}
	for _, c := range columns {
		headers[c.field] = c.header
	}
	t, err := parseTemplate(body)
	if err != nil {
		return "", err
	}
	same := func(v string) string { return v }
	t.Funcs(template.FuncMap{"json": func(v any) any { return v }, "lower": same, "upper": same, "title": same,
		"join": func(v, _ string) string { return v }, "split": func(v, _ string) string { return v },
		"truncate": func(v string, _ int) string { return v }})
	var b strings.Builder
	if err := t.Execute(&b, headers); err != nil {
		return "", usagef("--format: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	return b.String(), nil
}

// labelHeaders are headers by field; that of a label is the last part of its name, as in Docker.
type labelHeaders map[string]string

// Label stands for the method that records of containers have.
func (labelHeaders) Label(name string) string {
	name = name[strings.LastIndexByte(name, '.')+1:]
	return strings.ToUpper(strings.NewReplacer("-", " ", "_", " ").Replace(name))
}

// oneLined is a record of strings as a table shows it: no name out of a foreign layer or image ends the line or moves the cursor.
func oneLined[T any](record T) T {
	v := reflect.ValueOf(&record).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.String && f.CanSet():
			f.SetString(start.OneLine(f.String()))
		case f.Type() == reflect.TypeFor[map[string]string]() && f.CanSet():
			shown := make(map[string]string, f.Len())
			for k, v := range f.Interface().(map[string]string) {
				shown[k] = start.OneLine(v)
			}
			f.Set(reflect.ValueOf(shown))
		}
	}
	return record
}

func printTable[T any](w io.Writer, header, body string, records []T) error {
	t, err := parseTemplate(body)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, header)
	for _, r := range records {
		if err := execTemplate(tw, t, oneLined(r)); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// unescape lets a shell user write \t and \n in a template.
func unescape(s string) string { return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s) }

func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper, "split": strings.Split,
		"title": func(s string) string {
			r, n := utf8.DecodeRuneInString(s)
			return strings.ToUpper(string(r)) + s[n:]
		},
		"truncate": func(s string, n int) string {
			if r := []rune(s); n >= 0 && len(r) > n {
				return string(r[:n])
			}
			return s
		},
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
		},
		"println": func(a ...any) string { return fmt.Sprintln(a...) },
	}).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, usagef("--format: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	return t, nil
}

// execDocument applies a template to a document. As with Docker, its fields have their Go names or the ones that the JSON shows.
func execDocument(w io.Writer, t *template.Template, record any) error {
	var b strings.Builder
	err := t.Execute(&b, record)
	if err == nil {
		_, err = fmt.Fprintln(w, b.String())
		return err
	}
	raw, jerr := json.Marshal(record)
	if jerr != nil {
		return jerr
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // 10000000 is not 1e+07
	var document any
	if err := dec.Decode(&document); err != nil {
		return err
	}
	// An image's settings leave out what is empty, and a template that asks for it means that.
	if top, ok := document.(map[string]any); ok {
		if settings, ok := top["Config"].(map[string]any); ok {
			for _, name := range []string{"Env", "Cmd", "Entrypoint"} {
				setMissing(settings, name, []any{})
			}
			for _, name := range []string{"Labels", "Volumes", "ExposedPorts"} {
				setMissing(settings, name, map[string]any{})
			}
			for _, name := range []string{"User", "WorkingDir", "StopSignal"} {
				setMissing(settings, name, "")
			}
		}
	}
	return execTemplate(w, t, document)
}

func setMissing(m map[string]any, name string, zero any) {
	if m[name] == nil {
		m[name] = zero
	}
}

func execTemplate(w io.Writer, t *template.Template, record any) error {
	var b strings.Builder
	if err := t.Execute(&b, record); err != nil {
		return usagef("--format: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

// printDocument prints what a command shows: v as JSON, or a template applied to each of the records, which v is or holds.
func printDocument(w io.Writer, format string, v any, records ...any) error {
	if format == "" || format == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		return enc.Encode(v)
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := execDocument(w, t, r); err != nil {
			return err
		}
	}
	return nil
}

// shortID is the form in which Docker's tables show an ID.
func shortID(id string, noTrunc bool) string {
	if noTrunc {
		return id
	}
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}

// humanSize prints bytes in powers of 1000 with at most four significant characters, as Docker does: 178MB, 2.05GB.
func humanSize(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.3g%s", f, units[i])
}

// ago prints how long ago t was, as Docker does: "2 hours ago".
func ago(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "N/A"
	}
	return humanDuration(time.Since(t)) + " ago"
}

func humanDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "Less than a second"
	case d < 2*time.Second:
		return "1 second"
	case d < time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Minute:
		return "About a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 90*time.Minute:
		return "About an hour"
	case d < 2*day:
		return fmt.Sprintf("%d hours", int(d.Hours()+0.5))
	case d < 14*day:
		return fmt.Sprintf("%d days", int(d/day))
	case d < 60*day:
		return fmt.Sprintf("%d weeks", int(d/(7*day)))
	case d < 2*365*day:
		return fmt.Sprintf("%d months", int(d/(30*day)))
	}
	return fmt.Sprintf("%d years", int(d/(365*day)))
}

// timestamp is the long form of a time in tables.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}

// newBuffered writes long answers in large pieces.
func newBuffered(w io.Writer) *bufio.Writer { return bufio.NewWriterSize(w, 64<<10) }
