package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// RepairReport is what Repair did, a line each.
type RepairReport struct {
	Healed []string
	Lost   []string // containers of which something is gone for good: what
	Left   []string // what could not be done now, and may be another time
	Claims map[string]snapshot.Claim
}

// Repair makes the containers' records right, from the copies that their snapshots have, and the names lead to them again. Of a container
// whose record is nowhere any more it keeps what was written, if it is known over what; one whose writing is gone is removed. Claims are
// what is known of the containers' snapshots after that.
func (s *Store) Repair(ctx context.Context) (*RepairReport, error) {
	r := &repairer{s, RepairReport{Claims: map[string]snapshot.Claim{}}}
	ids, err := s.ids()
	for _, id := range ids {
		err = errors.Join(err, r.container(ctx, id))
	}
	if err == nil {
		err = r.names(ctx)
	}
	if err != nil {
		err = fmt.Errorf("repair containers: %w", err)
	}
	return &r.RepairReport, err
}

type repairer struct {
	*Store
	RepairReport
}

func (r *repairer) healed(file, how string) {
	r.Healed = append(r.Healed, filepath.Join(filepath.Base(r.dir), file)+": "+how)
}

func (r *repairer) container(ctx context.Context, id string) error {
	c, err := r.readConfig(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	whole := err == nil && r.sealed(id, "config.json")
	there := r.snaps.Remains(snapshotKey(id)).Upper
	var e ended
	exit := r.readRecord(id, "exit.json", &e)
	if whole && there && (errors.Is(exit, fs.ErrNotExist) || exit == nil && r.sealed(id, "exit.json")) {
		r.Claims[snapshotKey(id)] = claimOf(&c, r.path(id, "config.json"))
		return nil
	}
	name := c.Name
	if err != nil {
		name = r.nameOf(id)
	}
	lock, lerr := r.hold(ctx, id, 100*time.Millisecond) // for those who only look
	if errors.Is(lerr, unix.EWOULDBLOCK) {
		r.Left = append(r.Left, "container "+name+": its records, for it runs")
		return nil
	}
	if errors.Is(lerr, fs.ErrNotExist) {
		return nil
	}
	if lerr != nil {
		return lerr
	}
	defer lock.Close()
	if !there {
		if !r.recorded(id) {
			return nil // removed since
		}
		r.Lost = append(r.Lost, "container "+name+": what was written in it is gone")
		return r.abandon(ctx, id, name)
	}
	if !whole {
		if c, err = r.config(ctx, id, name, c, err); err != nil || c.ID == "" {
			return err
		}
	}
	r.Claims[snapshotKey(id)] = claimOf(&c, r.path(id, "config.json"))
	if exit != nil && !errors.Is(exit, fs.ErrNotExist) {
		e = ended{Begun: true, Error: "the record of its end was damaged"}
	} else if exit != nil || r.sealed(id, "exit.json") {
		return nil
	}
	b, err := seal(id, "exit.json", e)
	if err == nil {
		err = r.write(id, "exit.json", b)
	}
	if err == nil && exit != nil {
		r.healed(id+"/exit.json", "made anew: how container "+name+" ended is not known any more")
	} else if err == nil {
		r.healed(id+"/exit.json", "made right")
	}
	return err
}

// write writes a record, whatever stands in its place.
func (r *repairer) write(id, name string, b []byte) error {
	path := r.path(id, name)
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return snapshot.WriteFile(path, b, true)
}

func (s *Store) sealed(id, name string) bool {
	b, err := readBytes(s.path(id, name))
	return err == nil && !rowdb.Unsealed(b)
}

// config writes config.json again: of the copy, or of what it says itself where only its checksum is missing, or of what the snapshot says.
// Where there is nothing of all that, the container goes, and what is returned is nobody's.
func (r *repairer) config(ctx context.Context, id, name string, c Config, damaged error) (Config, error) {
	info, serr := r.snaps.Stat(ctx, snapshotKey(id))
	copied := []byte(info.Labels[copyLabel])
	var other Config
	var b []byte
	var err error
	switch {
	case serr == nil && rowdb.Unseal(id+"/config.json", copied, &other) == nil && other.ID == id:
		c, b = other, copied
		if target, lerr := os.Readlink(filepath.Join(r.dir, "names", c.Name)); lerr == nil && !r.strayName(c.Name, filepath.Base(target)) && filepath.Base(target) != id {
			c.Name = name // the copy is of a rename that was broken off, and somebody has that name by now
			b, err = seal(id, "config.json", c)
		}
		r.healed(id+"/config.json", "made right")
	case damaged == nil:
		b, err = seal(id, "config.json", c)
		r.healed(id+"/config.json", "made right")
	case serr == nil:
		c = Config{Version: configVersion, ID: id, Name: name, Created: info.Created, Image: ImageInfo{Chain: info.Parent}, RunDir: r.runPath(id),
			Command: []string{"/bin/sh"}, WorkDir: "/", Hostname: id[:12], Network: "none"}
		if len(info.Dirs) > 0 {
			c.RootFS = info.Dirs[0]
		}
		b, err = seal(id, "config.json", c)
		r.Lost = append(r.Lost, "container "+name+": its image's name, command and settings; what was written in it is kept")
	default:
		r.Lost = append(r.Lost, "container "+name+": its record and its snapshot's are damaged, so that nobody knows what it stands on")
		return Config{}, r.abandon(ctx, id, name)
	}
	if err == nil {
		err = r.write(id, "config.json", b)
	}
	return c, err
}

// abandon removes a container of which too much is lost. Its lock must be held.
func (r *repairer) abandon(ctx context.Context, id, name string) error {
	err := endProcesses(id)
	if err == nil {
		err = r.snaps.Abandon(ctx, snapshotKey(id))
	}
	if err != nil {
		return err
	}
	return r.remove(ctx, Config{ID: id, Name: name})
}

// names makes the links in names/ lead to the containers of these names.
func (r *repairer) names(ctx context.Context) error {
	findings := r.check(ctx).Findings
	names, err := r.lockNames(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer names.Close()
	for _, f := range findings {
		link := filepath.Join(filepath.Dir(r.dir), f.File)
		if filepath.Dir(link) != filepath.Join(r.dir, "names") || !validName(filepath.Base(link)) {
			continue
		}
		err := os.Remove(link)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		for _, id := range r.idsNamed(f.Container) {
			if err == nil {
				err = os.Symlink("../"+id, link)
			}
		}
		if err != nil {
			return fmt.Errorf("name %s: %w", f.Container, err)
		}
		r.healed("names/"+filepath.Base(link), "made right")
	}
	return nil
}

// idsNamed are the containers whose record says that they have a name: at most one.
func (s *Store) idsNamed(name string) []string {
	ids, _ := s.ids()
	for _, id := range ids {
		if c, err := s.readConfig(id); err == nil && c.Name == name {
			return []string{id}
		}
	}
	return nil
}
