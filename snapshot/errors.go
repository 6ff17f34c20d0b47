package snapshot

import (
	"errors"

	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// ErrDamaged says that a record of the store is not what was written.
var ErrDamaged = rowdb.ErrDamaged

// What callers decide on; test with errors.Is.
var (
	ErrNotFound    = errors.New("no such snapshot")
	ErrExists      = errors.New("snapshot exists")
	ErrInUse       = errors.New("snapshot in use")
	ErrInvalid     = errors.New("invalid")
	ErrUnavailable = errors.New("overlayfs unavailable")
	ErrFormat      = errors.New("unknown store format")
	ErrNotStore    = errors.New("not a layerctl store")
)
