package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Unix(1764072000, 123456789)

func read(t testing.TB, dir string, o ReadOptions) (list []Event) {
	t.Helper()
	if err := Read(context.Background(), dir, o, func(e Event) error {
		list = append(list, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestEvents(t *testing.T) {
	dir := t.TempDir()
	if got := read(t, dir, ReadOptions{}); got != nil {
		t.Errorf("no diary has %v", got)
	}
	want := []Event{
		{noon, Container, "create", "c1", map[string]string{"name": "work", "image": "debian", "a label": "with \"quotes\" and \x01 & ü"}},
		{noon.Add(time.Second), Container, "die", "c1", map[string]string{"exitCode": "137"}},
		{noon.Add(2 * time.Second), Image, "delete", "sha256:1", nil},
	}
	for i, e := range want {
		if err := Append(dir, e); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // what is no event, and half a line that a full disk left
			f, err := os.OpenFile(filepath.Join(dir, "events"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString("\x00\n{}\n[1]\n{\"time\":\"x\"}\n\n{\"time\":17640720")
			f.Close()
		}
	}
	if got := read(t, dir, ReadOptions{}); !reflect.DeepEqual(got, want) {
		t.Errorf("the diary has\n%v\nwant\n%v", got, want)
	}
	if got := read(t, dir, ReadOptions{Since: noon.Add(1), Until: noon.Add(time.Second)}); !reflect.DeepEqual(got, want[1:2]) {
		t.Errorf("a second has %v", got)
	}
	stop := errors.New("stop")
	n := 0
	if err := Read(context.Background(), dir, ReadOptions{Follow: true}, func(Event) error { n++; return stop }); err != stop || n != 1 {
		t.Errorf("a reader who has enough: %v after %d", err, n)
	}
	before := time.Now()
	if err := Append(dir, Event{Type: Image, Action: "pull", ID: "i"}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, ReadOptions{Since: before}); len(got) != 1 || got[0].Time.Before(before) || time.Since(got[0].Time) > time.Minute {
		t.Errorf("now: %v", got)
	}
	if err := Append(dir+"/none", want[0]); err == nil {
		t.Error("an event was recorded nowhere")
	}
}

// Many write and rotate at once, and those who follow miss nothing.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	const writers, each = 8, 100
	long := strings.Repeat("x", 8<<10) // so that there is a rotation: no more, for who is slower than that misses some
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	var seen [3]map[string]int
	all := make(chan int, len(seen))
	for i := range seen {
		seen[i] = map[string]int{}
		readers.Go(func() {
			err := Read(ctx, dir, ReadOptions{Follow: true}, func(e Event) error {
				if seen[i][e.ID]++; len(seen[i]) == writers*each {
					all <- i
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				if err := Append(dir, Event{Type: Container, Action: "start", ID: fmt.Sprint(w, "-", n), Attributes: map[string]string{"a": long}}); err != nil {
					t.Error(err)
				}
				if n%10 == 9 {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	writing.Wait()
	for range seen {
		select {
		case <-all:
		case <-time.After(20 * time.Second):
			t.Error("a reader missed some")
		}
	}
	cancel()
	readers.Wait()
	for i := range seen {
		if len(seen[i]) != writers*each {
			t.Errorf("reader %d saw %d events of %d", i, len(seen[i]), writers*each)
		}
		for id, n := range seen[i] {
			if n != 1 {
				t.Errorf("reader %d saw %s %d times", i, id, n)
			}
		}
	}
	var size int64
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if len(files) != 2 || size > 2*(maxSize+writers*10<<10) {
		t.Errorf("%d files of %d bytes are left", len(files), size)
	}
	// Until a time that is to come.
	begun := time.Now()
	if err := Read(context.Background(), dir, ReadOptions{Since: begun, Until: begun.Add(50 * time.Millisecond), Follow: true}, nil); err != nil {
		t.Error(err)
	}
	if d := time.Since(begun); d < 50*time.Millisecond || d > 20*time.Second {
		t.Errorf("it followed for %v", d)
	}
}

// Whatever is in the file, reading it is no error; whatever an event says comes back, but for what is no text.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("{\"time\":1}\n"), "start", "name", "value")
	f.Add([]byte("\x00{"), "\n", "\"", "\\\xff")
	f.Fuzz(func(t *testing.T, before []byte, action, key, value string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "events"), before, 0o600); err != nil {
			t.Fatal(err)
		}
		had := len(read(t, dir, ReadOptions{}))
		if n := len(before); n > 0 && before[n-1] != '\n' {
			if _, ok := parse(before[bytes.LastIndexByte(before, '\n')+1:]); ok {
				had++ // only its newline was missing
			}
		}
		if action == "" {
			action = "start"
		}
		if err := Append(dir, Event{noon, Image, action, "id", map[string]string{key: value}}); err != nil {
			t.Fatal(err)
		}
		got := read(t, dir, ReadOptions{})
		if len(got) != had+1 {
			t.Fatalf("%d events, want %d", len(got), had+1)
		}
		text := func(s string) string { return strings.ToValidUTF8(s, "") }
		e := got[had]
		for k, v := range e.Attributes {
			if strings.ReplaceAll(k, "\ufffd", "") != strings.ReplaceAll(text(key), "\ufffd", "") || strings.ReplaceAll(v, "\ufffd", "") != strings.ReplaceAll(text(value), "\ufffd", "") {
				t.Errorf("%q: %q came back as %q: %q", key, value, k, v)
			}
		}
		if len(e.Attributes) != 1 || !e.Time.Equal(noon) || e.ID != "id" {
			t.Errorf("%+v came back", e)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	dir := b.TempDir()
	e := Event{Type: Container, Action: "create", ID: strings.Repeat("0123456789abcdef", 4), Attributes: map[string]string{"name": "eager_hopper", "image": "docker.io/library/debian:latest"}}
	b.ReportAllocs()
	for b.Loop() {
		if err := Append(dir, e); err != nil {
			b.Fatal(err)
		}
	}
}
