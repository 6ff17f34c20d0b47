package rowdb

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"go.etcd.io/bbolt"
)

// filled is a database of several pages, free ones among them.
func filled(t *testing.T) *DB {
	t.Helper()
	d := New(filepath.Join(t.TempDir(), "meta.db"), "a", "b", "c")
	for round := range 3 {
		err := d.Update(func(tx *bbolt.Tx) error {
			for i := range 400 {
				key := fmt.Sprintf("key-%04d", i)
				if round == 2 && i%3 == 0 {
					if err := tx.Bucket([]byte("a")).Delete([]byte(key)); err != nil {
						return err
					}
					continue
				}
				row, err := Seal("a/"+key, struct{ Round, I int }{round, i})
				if err != nil {
					return err
				}
				if err := tx.Bucket([]byte("a")).Put([]byte(key), row); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("b")).Put([]byte("few"), bytes.Repeat([]byte("x"), 6000*round))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// dump reads every row by bbolt, with its own check; a panic of its is an error.
func dump(d *DB) (c Contents, err error) {
	c = Contents{}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	db, err := bbolt.Open(d.path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			rows := map[string][]byte{}
			c[string(name)] = rows
			return b.ForEach(func(k, v []byte) error { rows[string(k)] = bytes.Clone(v); return nil })
		})
	})
	return c, errors.Join(err, db.Close())
}

func equal(a, b Contents) bool {
	return maps.EqualFunc(a, b, func(x, y map[string][]byte) bool { return maps.EqualFunc(x, y, bytes.Equal) })
}

func TestVerifyWhole(t *testing.T) {
	d := filled(t)
	want, err := dump(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Verify()
	if err != nil || len(got.Problems) > 0 {
		t.Fatalf("%v %q", err, got.Problems)
	}
	if !equal(got.Rows, want) || len(got.Rows["a"]) != 266 {
		t.Errorf("Verify reads other rows than bbolt (%d of %d)", len(got.Rows["a"]), len(want["a"]))
	}
	if got, err := New(filepath.Join(t.TempDir(), "none")).Verify(); err != nil || len(got.Rows)+len(got.Problems) > 0 {
		t.Errorf("no file: %v %v", got, err)
	}
}

// Whatever is done to the file, Verify or a row's checksum tells, or the rows are the same; and no transaction panics.
func TestVerifyDamaged(t *testing.T) {
	d := filled(t)
	whole, err := os.ReadFile(d.path)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := d.Verify()
	want := v.Rows
	rng := rand.New(rand.NewPCG(1, 2))
	found := 0
	for round := range 3000 {
		data := bytes.Clone(whole)
		at := rng.IntN(len(data))
		if round%2 == 0 {
			at = rng.IntN(16384) &^ 0xf0f // the heads of the first pages
		}
		switch rng.IntN(8) {
		case 0:
			data = data[:at]
		case 1:
			clear(data[at&^511 : min(at&^511+512, len(data))])
		case 2:
			from := rng.IntN(len(data)/4096) * 4096
			copy(data[at&^4095:], whole[from:from+4096])
		default:
			data[at] ^= 1 << rng.IntN(8)
		}
		if err := os.WriteFile(d.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := d.Verify()
		if err != nil {
			t.Fatal(err)
		}
		got, told := v.Rows, len(v.Problems) > 0
		for key, row := range got["a"] {
			told = told || !Sealed("a/"+key, row)
		}
		told = told || len(got["b"]) != 1 || !bytes.Equal(got["b"]["few"], want["b"]["few"])
		if told {
			found++
		} else if seen, err := dump(d); err != nil || !equal(seen, want) {
			t.Fatalf("round %d, at %d: bbolt says %v, Verify nothing", round, at, err)
		}
		sum := 0
		err = d.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("a")).ForEach(func(k, v []byte) error { sum += len(k) + len(v); return nil })
		})
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("round %d, at %d: %v", round, at, err)
		}
	}
	if found < 500 {
		t.Errorf("only %d of 3000 were found", found)
	}
}

// A panic that is not the database's is nobody's damage.
func TestForeignPanic(t *testing.T) {
	d := filled(t)
	defer func() {
		if recover() == nil {
			t.Error("the panic was swallowed")
		}
	}()
	var none map[string]int
	d.View(func(*bbolt.Tx) error { none["x"] = 1; return nil })
}

func TestSeal(t *testing.T) {
	type row struct{ A, B string }
	b, err := Seal("x/1", row{"one", "two"})
	if err != nil || !Sealed("x/1", b) || Unsealed(b) {
		t.Fatalf("%s %v", b, err)
	}
	var r row
	if err := Unseal("x/1", b, &r); err != nil || r != (row{"one", "two"}) {
		t.Errorf("%+v %v", r, err)
	}
	if err := Unseal("x/2", b, &r); !errors.Is(err, ErrDamaged) {
		t.Errorf("under another key: %v", err)
	}
	for i := range len(b) * 8 {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		if Sealed("x/1", c) {
			t.Errorf("bit %d changed, and nobody saw it", i)
		}
	}
	if err := Unseal("x/1", []byte(`{"A":"old"}`), &r); err != nil || r.A != "old" {
		t.Errorf("a row without a checksum: %v", err)
	}
	if _, err := Seal("x", struct{}{}); err == nil {
		t.Error("an empty object was sealed")
	}
}

func TestApply(t *testing.T) {
	d := filled(t)
	v, err := d.Verify()
	if err != nil {
		t.Fatal(err)
	}
	want := v.Rows
	want["c"] = map[string][]byte{"new": []byte("row")}
	delete(want["a"], "key-0001")
	a, err := d.Apply(v, want)
	if err != nil || a != (Applied{Changed: 2}) {
		t.Errorf("%+v %v", a, err)
	}
	if got, _ := dump(d); !equal(got, want) {
		t.Error("other rows than were applied")
	}
	if _, err := d.Apply(v, want); !errors.Is(err, ErrChanged) {
		t.Errorf("a database that was written to: %v", err)
	}
	for _, damage := range []func() error{
		func() error { return os.Truncate(d.path, 5000) },
		func() error { return os.Truncate(d.path, 0) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if v, err = d.Verify(); err != nil || len(v.Problems) == 0 {
			t.Fatalf("%v %v", v, err)
		}
		if a, err := d.Apply(v, want); err != nil || !a.Anew || a.Kept != d.path+".damaged" {
			t.Errorf("%+v %v", a, err)
		}
		if got, err := dump(d); err != nil || !equal(got, want) {
			t.Errorf("other rows than were applied (%v)", err)
		}
	}
	if err := os.Remove(d.path); err != nil {
		t.Fatal(err)
	}
	if v, err = d.Verify(); err != nil {
		t.Fatal(err)
	}
	v.Problems = append(v.Problems, "is not there")
	if a, err := d.Apply(v, want); err != nil || !a.Anew || a.Kept != "" {
		t.Errorf("%+v %v", a, err)
	}
	if got, err := dump(d); err != nil || !equal(got, want) {
		t.Errorf("other rows than were applied (%v)", err)
	}
}
