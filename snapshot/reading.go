package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// AttachChain mounts the committed snapshot of that name read-only and attached nowhere, and keeps its trees from being deleted until the
// mount is closed. It is ErrNotFound where there is no such snapshot.
func (s *Store) AttachChain(_ context.Context, name string) (*Root, error) {
	fail := func(err error) error { return fmt.Errorf("mount snapshot %s: %w", name, err) }
	held := &Lease{}
	for {
		c, err := s.readChain(name)
		if err != nil {
			return nil, fail(err)
		}
		var lowers []string
		for _, t := range slices.Backward(s.uncovered(c.Trees)) {
			err = errors.Join(err, held.Hold(s.path("trees", t)))
			lowers = append(lowers, s.path("trees", t, "fs"))
		}
		now, nerr := s.readChain(name) // what it names now, it names as long as we hold that
		if nerr == nil && !slices.Equal(now.Trees, c.Trees) {
			held.Close() // removed and made again meanwhile
			continue
		}
		r := &Root{lock: held}
		if nerr != nil {
			err = nerr
		}
		if err == nil {
			err = checkDepth(len(lowers))
		}
		if err == nil {
			r.FD, r.Steps, err = s.mountDetached(overlay{lowers: lowers}, false)
		}
		if err != nil {
			held.Close()
			return nil, fail(err)
		}
		return r, nil
	}
}

// AttachReading mounts the active snapshot under key read-only: its upper is the highest lower. Any number may read it at a time, and
// until they are done nobody mounts it to write, commits or removes it. It is ErrInUse where somebody has done so already.
func (s *Store) AttachReading(_ context.Context, key string, o AttachOptions) (*Root, error) {
	return s.attachActive(key, o, unix.LOCK_SH)
}

// Stubs lists what of the active snapshot under key is there only for mounts, and is neither in its layers nor was written: paths of the
// init lower, without a slash before them.
func (s *Store) Stubs(ctx context.Context, key string) ([]string, error) {
	lowers, upper, err := s.Lowers(ctx, key)
	if err != nil {
		return nil, err
	}
	stack, err := OpenStack(append([]string{upper}, lowers...))
	if err != nil {
		return nil, err
	}
	defer stack.Close()
	var stubs []string
	for _, stub := range initStubs {
		if stub.path == "" {
			continue
		}
		_, err := stack.Lookup(stub.path)
		if errors.Is(err, fs.ErrNotExist) {
			stubs = append(stubs, stub.path)
		} else if err != nil && !errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("look for %s in snapshot %s: %w", stub.path, key, err)
		}
	}
	return stubs, nil
}
