package rowdb

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
)

// A row and a small file of ours are JSON objects whose last field is a checksum, so that a changed bit is found where no other record
// says the same. bbolt sums only its first two pages.
const (
	sealStart = `,"sum":"`
	sealSize  = len(sealStart) + 16 + len(`"}`)
)

// Seal marshals v, which must be a struct, and adds the checksum of its JSON and of where it belongs: a bucket and a key, or a file.
// Whoever reads it may ignore the field.
func Seal(where string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) < 3 || b[0] != '{' {
		return nil, fmt.Errorf("seal %s: no object with fields", where)
	}
	return append(b[:len(b)-1], sealOf(where, b[:len(b)-1])...), nil
}

// Sealed says whether b is as Seal made it for that place.
func Sealed(where string, b []byte) bool {
	if len(b) < sealSize {
		return false
	}
	at := len(b) - sealSize
	return bytes.Equal(b[at:], sealOf(where, b[:at]))
}

// Unsealed says whether b has no checksum at all: it was written by a version that made none.
func Unsealed(b []byte) bool {
	return len(b) < sealSize || !bytes.HasPrefix(b[len(b)-sealSize:], []byte(sealStart))
}

// Unseal unmarshals b into v. What has a checksum that is wrong is an ErrDamaged.
func Unseal(where string, b []byte, v any) error {
	if !Unsealed(b) && !Sealed(where, b) {
		return fmt.Errorf("%s: %w", where, ErrDamaged)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w: %w", where, ErrDamaged, err)
	}
	return nil
}

// Decode is Unseal for a check: it says whether v could be read, and notes in broken, by where, a row that is damaged or was written
// without a checksum.
func Decode(broken map[string]string, where string, b []byte, v any) bool {
	switch err := Unseal(where, b, v); {
	case err != nil:
		broken[where] = "is damaged"
		return false
	case Unsealed(b):
		broken[where] = "has no checksum"
	}
	return true
}

// sealOf is the seal of an object, which is open: without its last brace.
func sealOf(where string, open []byte) []byte {
	h := fnv.New64a()
	h.Write([]byte(where))
	h.Write([]byte{0})
	h.Write(open)
	h.Write([]byte{'}'})
	return []byte(sealStart + hex.EncodeToString(h.Sum(nil)) + `"}`)
}
