package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// Survey is all that the images of a store take, and what is below them. Every byte is in one item, or in Own: rows, records and
// directories.
type Survey struct {
	Images    []SurveyedImage
	Blobs     []snapshot.Item // Name is the digest
	Leftovers []snapshot.Item // what is being fetched
	Own       int64
	Snapshots *snapshot.Survey
}

// SurveyedImage is an image, and what it needs.
type SurveyedImage struct {
	ID, Chain string
	Names     []string
	Created   time.Time
	Labels    map[string]string
	Blobs     []string
}

// PruneOptions say which images nobody needs.
type PruneOptions struct {
	All     bool                                                   // also those that have a name, where no container was made from them
	Match   func(created time.Time, labels map[string]string) bool // which of them; nil is all
	Leaving func(key string) bool                                  // active snapshots that will be removed first; nil is none
	Made    func(key string) string                                // the ID of the image that an active snapshot was made of, "" if unknown

	keepImages bool // nothing but what no image needs
}

// Plan is what ExecutePrune would remove.
type Plan struct {
	Images    []SurveyedImage
	Blobs     []snapshot.Item
	Leftovers []snapshot.Item
	Snapshots snapshot.Plan

	actives map[string]bool // the directories of the active snapshots that were there
}

// Items are all the files and directories that a plan removes.
func (p Plan) Items() []snapshot.Item { return slices.Concat(p.Blobs, p.Leftovers, p.Snapshots.Items) }

// Survey looks at everything that the images take.
func (s *Store) Survey(ctx context.Context) (*Survey, error) {
	v := &Survey{}
	// Files first, rows then: what a row names by then is not taken for unneeded.
	names, err := dirNames(filepath.Join(s.dir, "blobs/sha256"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		v.Blobs = append(v.Blobs, snapshot.Item{Name: "sha256:" + name, Path: s.content.Path("sha256:" + name)})
	}
	ingests, err := dirNames(filepath.Join(s.dir, "ingest"))
	if err != nil {
		return nil, err
	}
	for _, name := range ingests {
		dir := filepath.Join(s.dir, "ingest", name)
		v.Leftovers = append(v.Leftovers, snapshot.Item{Name: "download " + name, Path: dir, Leftover: true, Held: snapshot.Held(filepath.Join(dir, "lock"))})
	}
	if kept := s.db.Kept(); exists(kept) {
		v.Leftovers = append(v.Leftovers, snapshot.Item{Name: "damaged rows of images", Path: kept, Leftover: true})
	}
	for _, list := range [][]snapshot.Item{v.Blobs, v.Leftovers} {
		for i := range list {
			item := &list[i]
			item.Held = item.Held || snapshot.Held(item.Path)
			if item.Size, err = snapshot.DiskUsage(ctx, item.Path); err != nil {
				return nil, err
			}
		}
	}
	if v.Snapshots, err = s.snaps.Survey(ctx); err != nil {
		return nil, err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketImages).ForEach(func(k, _ []byte) error {
			img, err := surveyImage(tx, string(k))
			v.Images = append(v.Images, img)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	for _, own := range []struct{ dir, elsewhere string }{{"", "blobs ingest " + filepath.Base(s.db.Kept())}, {"blobs", "sha256"}, {"blobs/sha256", "*"}, {"ingest", "*"}} {
		size, err := snapshot.OwnUsage(ctx, filepath.Join(s.dir, own.dir), func(name string) bool {
			return own.elsewhere == "*" || slices.Contains(strings.Fields(own.elsewhere), name)
		})
		if err != nil {
			return nil, err
		}
		v.Own += size
	}
	return v, nil
}

func surveyImage(tx *bbolt.Tx, id string) (SurveyedImage, error) {
	var row imageRow
	if _, err := getJSON(tx, bucketImages, id, &row); err != nil {
		return SurveyedImage{}, err
	}
	img := SurveyedImage{ID: id, Chain: row.Chain, Created: row.Created, Labels: row.Settings.Labels}
	for _, what := range row.uses() {
		if strings.HasPrefix(what, "sha256:") {
			img.Blobs = append(img.Blobs, what)
		}
	}
	var err error
	img.Names, err = namesOf(tx, id)
	return img, err
}

// Plan finds the images that nobody needs, as o says, and what else no image that stays needs: blobs, snapshots, trees, and what a crash
// left. What an operation in flight holds is left out.
func (v *Survey) Plan(o PruneOptions) Plan {
	leaving := o.Leaving
	if leaving == nil {
		leaving = func(string) bool { return false }
	}
	p := Plan{actives: map[string]bool{}}
	used := map[string]bool{} // image IDs, and chains where it is not known which image it was
	for _, a := range v.Snapshots.Actives {
		p.actives[a.Path] = true
		if a.Key != "" && leaving(a.Key) {
			continue
		}
		id := ""
		if a.Key != "" && o.Made != nil {
			id = o.Made(a.Key)
		}
		if id == "" {
			id = a.Parent
		}
		used[id] = true
	}
	need := map[string]bool{}
	for _, img := range v.Images {
		if !o.keepImages && (o.All || len(img.Names) == 0) && !used[img.ID] && !used[img.Chain] && (o.Match == nil || o.Match(img.Created, img.Labels)) {
			p.Images = append(p.Images, img)
			continue
		}
		need["chain:"+img.Chain] = true
		for _, b := range img.Blobs {
			need[b] = true
		}
	}
	for _, b := range v.Blobs {
		if !need[b.Name] && !b.Held {
			b.Name = "blob " + b.Name
			p.Blobs = append(p.Blobs, b)
		}
	}
	for _, l := range v.Leftovers {
		if !l.Held {
			p.Leftovers = append(p.Leftovers, l)
		}
	}
	p.Snapshots = v.Snapshots.Plan(func(name string) bool { return need["chain:"+name] }, leaving)
	return p
}

// ExecutePrune removes what a plan says, as far as it is true still: an image that was given a name, or a container, since the plan was
// made stays, and so does everything that an operation in flight holds. What else nobody needs by then goes, too. It returns what was
// done to images; the error is of what could not be removed.
//
// What needs no rows goes first: on a full disk there may be no room for a transaction before that.
func (s *Store) ExecutePrune(ctx context.Context, p Plan) (done []Deleted, err error) {
	first := errors.Join(s.content.Sweep(), s.snaps.SweepFiles(ctx))
	for _, dir := range []string{"", "names", "blobs/sha256"} {
		first = errors.Join(first, snapshot.SweepTemporary(filepath.Join(s.dir, dir)))
	}
	if err := os.Remove(s.db.Kept()); !errors.Is(err, fs.ErrNotExist) {
		first = errors.Join(first, err)
	}
	failpoint.Hit("prune/files")
	for images := p.Images; len(images) > 0; {
		batch := images[:min(len(images), 100)] // their blobs are open descriptors meanwhile
		images = images[len(batch):]
		removed, err := s.pruneImages(p, batch)
		done = append(done, removed...)
		if err != nil {
			return done, errors.Join(first, fmt.Errorf("remove images: %w", err))
		}
		failpoint.Hit("prune/images")
	}
	err = s.sweepBlobs(p.Blobs)
	failpoint.Hit("prune/blobs")
	verr := s.db.View(func(tx *bbolt.Tx) error {
		removed, err := s.snaps.RemovePlanned(p.Snapshots, func(name string) bool { return used(tx, "chain:"+name) })
		for _, name := range removed {
			done = append(done, Deleted{"Deleted", name})
		}
		return err
	})
	failpoint.Hit("prune/snapshots")
	return done, errors.Join(first, err, verr, s.sweepNames(), s.sweepPacked(), s.snaps.Sweep(ctx))
}

func (s *Store) pruneImages(p Plan, batch []SurveyedImage) (done []Deleted, err error) {
	var free blobs
	defer free.close()
	err = s.update(func(tx *bbolt.Tx, c *naming) error {
		for _, img := range batch {
			if slices.ContainsFunc(s.snaps.Standing(img.Chain), func(dir string) bool { return !p.actives[dir] }) {
				continue // a container was made of it since
			}
			removed, err := s.drop(tx, c, &free, img.ID, img.Names, img.Names)
			if err != nil && !errors.Is(err, errChanged) {
				return err
			}
			done = append(done, removed...)
		}
		return nil
	})
	late := err
	if err != nil && !errors.Is(err, errUnwritten) {
		return nil, err
	}
	err = free.trash(s.snaps)
	return done, errors.Join(err, s.again(late))
}

// makeRoom frees what a command made that failed for want of space, with everything else that nobody needs. What a command made that
// failed otherwise stays: the next attempt finds it here.
func (s *Store) makeRoom(ctx context.Context, err error) {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	if v, serr := s.Survey(ctx); serr == nil {
		s.ExecutePrune(ctx, v.Plan(PruneOptions{keepImages: true})) // the first error is the one that counts
	}
}

// sweepBlobs deletes blobs that no image needs and nobody holds.
func (s *Store) sweepBlobs(items []snapshot.Item) error {
	for len(items) > 0 {
		batch := items[:min(len(items), 200)] // each is an open descriptor meanwhile
		items = items[len(batch):]
		var free blobs
		err := s.db.Update(func(tx *bbolt.Tx) error {
			for _, b := range batch {
				if !used(tx, "sha256:"+filepath.Base(b.Path)) {
					free.lock(b.Path)
				}
			}
			return nil
		})
		if err == nil {
			err = free.trash(s.snaps)
		}
		free.close()
		if err != nil {
			return fmt.Errorf("delete blobs: %w", err)
		}
	}
	return nil
}

// sweepNames deletes records whose names are gone. Like any change of names it writes the layout's index where a kill has left none.
func (s *Store) sweepNames() error {
	return s.update(func(tx *bbolt.Tx, _ *naming) error {
		known := map[string]bool{}
		err := tx.Bucket(bucketNames).ForEach(func(k, _ []byte) error {
			known[filepath.Base(record.Path(s.dir, string(k)))] = true
			return nil
		})
		if err != nil {
			return err
		}
		files, err := dirNames(filepath.Join(s.dir, "names"))
		for _, name := range files {
			if !known[name] && !strings.HasPrefix(name, ".") {
				err = errors.Join(err, os.Remove(filepath.Join(s.dir, "names", name)))
			}
		}
		return err
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func dirNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
