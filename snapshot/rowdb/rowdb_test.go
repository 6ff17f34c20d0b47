package rowdb

import (
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// A maker that is killed leaves its unfinished file under another name, where the next one starts anew and a reader sees nothing.
func TestMakerKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := New(path, "rows")
	read := func() (got string) {
		t.Helper()
		if err := d.View(func(tx *bbolt.Tx) error { got = string(tx.Bucket([]byte("rows")).Get([]byte("k"))); return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(); got != "" {
		t.Errorf("a database that was never made holds %q", got)
	}
	if err := d.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("rows")).Put([]byte("k"), []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "v" {
		t.Errorf("read %q", got)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}
