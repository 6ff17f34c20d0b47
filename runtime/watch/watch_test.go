package watch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDir(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(context.Background(), dir, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	changed := func(what string) {
		t.Helper()
		select {
		case _, open := <-d.Changed:
			if !open {
				t.Fatalf("%s: the watch has ended", what)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing was told", what)
		}
		for { // one change may be told in two pieces
			select {
			case <-d.Changed:
			case <-time.After(20 * time.Millisecond):
				return
			}
		}
	}
	path := filepath.Join(dir, "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	changed("a new file")
	f.WriteString("x")
	changed("a write")
	os.Rename(path, path+".1")
	changed("a new name")
	f.Close()
	changed("a close")
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, open := <-d.Changed; open {
		t.Error("a watch that was closed tells of a change")
	}
	if _, err := Open(context.Background(), path+"/none", time.Time{}); err == nil {
		t.Error("a directory that is not there was watched")
	}
	if err := new(Dir).Close(); err != nil {
		t.Error(err)
	}
	d, err = Open(context.Background(), dir, time.Now().Add(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	select {
	case <-d.Done:
	case <-time.After(20 * time.Second):
		t.Error("it goes on past its time")
	}
}
