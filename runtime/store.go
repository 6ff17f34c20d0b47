package runtime

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layerctl/layerctl/runtime/logs"
	"github.com/layerctl/layerctl/runtime/network"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// What callers decide on; test with errors.Is.
var (
	ErrNotFound    = errors.New("no such container")
	ErrExists      = errors.New("name in use")
	ErrInUse       = errors.New("container is running")
	ErrInvalid     = errors.New("invalid")
	ErrNoCommand   = fmt.Errorf("no command: %w", ErrInvalid) // neither the image nor the caller says what to run
	ErrUnsupported = errors.New("not supported")
)

// kindError is an error of a kind that callers test for, whose text already says it all.
type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }

// invalid makes an ErrInvalid.
func invalid(format string, a ...any) error { return &kindError{fmt.Sprintf(format, a...), ErrInvalid} }

// Refuse makes the error for what is understood but not supported.
func Refuse(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, ErrUnsupported)...)
}

// ExitError is an error with the exit status that a run which failed by it has: 125 for layerctl's own failure, 126 for a command that
// cannot be invoked, 127 for one that is not there.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the error.
func (e *ExitError) Unwrap() error { return e.Err }

// Settings are an image's wishes for a container (image-spec, config.md, "config").
type Settings struct {
	Env, Entrypoint, Cmd         []string
	User, WorkingDir, StopSignal string
	Labels                       map[string]string
	Volumes, ExposedPorts        []string
}

// ImageInfo is the image of a container: what it is called, and the snapshot that its layers are.
type ImageInfo struct {
	Name, ID, Digest, Chain string
	Settings                Settings
}

// Config is how a container was made: config.json.
type Config struct {
	Version     int
	ID, Name    string
	Created     time.Time
	Image       ImageInfo
	RootFS      string   // a plain directory instead of an image
	RunDir      string   // its volatile state, for those who have another run root
	Command     []string // entrypoint and arguments
	Entrypoint  int      // so many of them are the entrypoint
	Env         []string // what the user set
	WorkDir     string
	User        string
	Hostname    string
	Network     string
	TTY         bool
	Interactive bool
	AutoRemove  bool

	Init        bool              `json:",omitempty"` // the first process is a small one of ours, see package initproc
	Labels      map[string]string `json:",omitempty"` // the image's and the user's
	StopSignal  string            `json:",omitempty"` // what the user set; EndsBy knows what holds
	StopTimeout *int              `json:",omitempty"` // seconds
	Restart     RestartPolicy     `json:",omitzero"`
	LogDriver   string            `json:",omitempty"` // k8s-file or none
	LogOpts     LogOptions        `json:",omitzero"`
	PidMode     string            `json:",omitempty"` // "", "host" or "container:ID", as the next two
	IPCMode     string            `json:",omitempty"`
	UTSMode     string            `json:",omitempty"`
	StdinOnce   bool              `json:",omitempty"`
	Attached    bool              `json:",omitempty"` // it was made to be looked at, not in the background
}

// defaultLogDriver is the form of a log that a container keeps when nothing else is said: lines as Kubernetes writes them.
const defaultLogDriver = "k8s-file"

// configJSON is Config as config.json has it: what the user gave need not be UTF-8.
type configJSON struct {
	plainConfig
	RootFS, RunDir, WorkDir, User snapshot.Exact
	Command, Env                  snapshot.ExactList
}

type plainConfig Config

// MarshalJSON writes config.json.
func (c Config) MarshalJSON() ([]byte, error) {
	if maps.Equal(c.Labels, c.Image.Settings.Labels) {
		c.Labels = nil // they are said already
	}
	return json.Marshal(configJSON{plainConfig(c), snapshot.Exact(c.RootFS), snapshot.Exact(c.RunDir), snapshot.Exact(c.WorkDir),
		snapshot.Exact(c.User), c.Command, c.Env})
}

// UnmarshalJSON reads config.json.
func (c *Config) UnmarshalJSON(b []byte) error {
	var j configJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*c = j.config()
	return nil
}

// config is what config.json says.
func (j *configJSON) config() Config {
	c := Config(j.plainConfig)
	c.RootFS, c.RunDir, c.WorkDir, c.User = string(j.RootFS), string(j.RunDir), string(j.WorkDir), string(j.User)
	c.Command, c.Env = j.Command, j.Env
	if c.Labels == nil {
		c.Labels = c.Image.Settings.Labels
	}
	c.LogDriver = cmp.Or(c.LogDriver, defaultLogDriver)
	return c
}

// configVersion is the form of config.json; an unknown one is refused.
const configVersion = 1

// Status is where a container is in its life.
type Status string

// The states, in Docker's words.
const (
	StatusCreated    Status = "created"
	StatusRunning    Status = "running"
	StatusPaused     Status = "paused"     // it runs, and the user has stopped its processes
	StatusRestarting Status = "restarting" // it has ended, and its monitor waits to start it again
	StatusExited     Status = "exited"
	StatusDead       Status = "dead" // it could not be removed to the end
)

// State is how a container is now.
type State struct {
	Status       Status
	Pid          int    // of its first process, on the host, while it runs
	ExitCode     int    // of the last end
	Error        string // why it could not be started, or that its end was not seen
	OOMKilled    bool   // the kernel ended a process of it for want of memory
	RestartCount int    // how often its monitor has started it again
	StartedAt    time.Time
	FinishedAt   time.Time
}

// Running says whether the container has processes, be they paused, or waits to be started again.
func (s State) Running() bool {
	return s.Status == StatusRunning || s.Status == StatusPaused || s.Status == StatusRestarting
}

// Container is a container as List and Lookup find it.
type Container struct {
	Config
	State State

	starting bool   // created, and its monitor is at it
	monitor  int    // the pid of its monitor, while it has one
	pidStart uint64 // when its first process began (startTime)
}

// Store is the containers of one layerctl store.
type Store struct {
	dir   string // containers/
	run   string // the same below the run root, which other stores may share
	root  string
	rroot string
	snaps *snapshot.Store

	// Warn is told what the user should know and is no error; nil tells nobody.
	Warn func(line string)
}

func (s *Store) warn(line string) {
	if s.Warn != nil {
		s.Warn(line)
	}
}

// Open returns the containers of the store at root, with volatile state below runRoot.
func Open(root, runRoot string, snaps *snapshot.Store) (*Store, error) {
	var err error
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	if runRoot, err = filepath.Abs(runRoot); err != nil {
		return nil, err
	}
	s := &Store{dir: filepath.Join(root, "containers"), root: root, rroot: runRoot, snaps: snaps}
	of := sha256.Sum256([]byte(s.dir))
	snaps.ClaimedBy(s.claimed)
	s.run = filepath.Join(runRoot, "containers", hex.EncodeToString(of[:8]))
	for _, dir := range []string{filepath.Join(s.dir, "names"), s.run} {
		if _, err := os.Lstat(dir); err == nil {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func snapshotKey(id string) string { return "container/" + id }

// recorded is what create makes and whoever monitors the container holds.
type recorded struct {
	Config
	lock    *os.File
	signals <-chan os.Signal // for the container; what comes before its start ends the run
	network *network.Pending // begun for its first start; nil: that is for prepare to do

	// In a monitor of its own: how often it has been started again, and what is called before the container's first process is made, with
	// the outer end of its terminal, and when the command has begun.
	restarts int
	log      *logs.Writer // nil for none
	connect  func(console *os.File) error
	started  func(pid int)
}

func (s *Store) path(id string, name ...string) string {
	return strings.Join(append([]string{s.dir, id}, name...), "/") // as it is: filepath.Join would look for dots a thousand times
}

func (s *Store) runPath(id string, name ...string) string {
	return filepath.Join(append([]string{s.run, id}, name...)...)
}

// volatile is where a container's volatile state is: below the run root with which it was made.
func (s *Store) volatile(c *Config, name ...string) string {
	if c.RunDir == "" {
		return s.runPath(c.ID, name...)
	}
	return filepath.Join(append([]string{c.RunDir}, name...)...)
}

// add makes a container's records and its snapshot, and holds its lock. On an error nothing stays.
func (s *Store) add(ctx context.Context, c Config) (_ *recorded, err error) {
	c.RunDir = s.runPath(c.ID)
	lock, err := s.claim(ctx, c.ID, time.Minute) // nobody keeps it: who finds the directory unlocked looks whether a crash left it
	if err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.path(c.ID))
			lock.Close()
		}
	}()
	failpoint.Hit("container/held")
	if err := os.Mkdir(c.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(c.RunDir)
		}
	}()
	failpoint.Hit("container/made")
	if err := s.claimName(ctx, c.Name, c.ID, nil); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.Remove(filepath.Join(s.dir, "names", c.Name))
		}
	}()
	failpoint.Hit("container/named")
	var opts []snapshot.Opt
	b, err := seal(c.ID, "config.json", c)
	if err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	if c.AutoRemove {
		opts = append(opts, snapshot.WithVolatile())
	} else {
		opts = append(opts, snapshot.WithLabels(map[string]string{copyLabel: string(b)}))
	}
	if c.RootFS != "" {
		opts = append(opts, snapshot.WithLowers([]string{c.RootFS}))
	}
	if err := s.snaps.Create(ctx, snapshotKey(c.ID), c.Image.Chain, opts...); err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	failpoint.Hit("container/snapshot")
	err = snapshot.WriteFile(s.path(c.ID, "config.json"), b, !c.AutoRemove)
	if err == nil && !c.AutoRemove {
		err = errors.Join(snapshot.SyncDir(s.dir), snapshot.SyncDir(filepath.Join(s.dir, "names")))
	}
	if err != nil {
		s.snaps.Remove(ctx, snapshotKey(c.ID))
		return nil, fmt.Errorf("make container: %w", err)
	}
	failpoint.Hit("container/recorded")
	s.happened(&c, "create")
	return &recorded{Config: c, lock: lock}, nil
}

// validName says whether a container may have a name: Docker's rule, letters, digits, "_", "." and "-", not first.
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return len(name) >= 2 && len(name) <= 200
}

func checkName(name string) error {
	if !validName(name) {
		return invalid("container name %.202q: want 2 to 200 letters, digits, '_', '.' and '-', beginning with a letter or digit", name)
	}
	return nil
}

// ids lists the containers that have a directory.
func (s *Store) ids() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if len(e.Name()) == 64 {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// List returns the containers, newest first; without all only those that run or are about to again. What a crash left half made is taken
// away on the way. With an error that tells of containers whose records cannot be read it returns the others.
func (s *Store) List(ctx context.Context, all bool) ([]Container, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	found := make([]*Container, 0, len(ids))
	names := make(map[string]bool, len(ids))
	loaded := s.loadAll(ctx, ids)
	var unread []error
	for i := range ids {
		c, err := loaded[i].Container, loaded[i].err
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			unread = append(unread, err)
			continue
		}
		names[c.Name] = true
		if all || c.State.Running() || c.State.Status == StatusRestarting {
			found = append(found, c)
		}
	}
	s.sweepNames(names)
	slices.SortStableFunc(found, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	list := make([]Container, len(found))
	for i, c := range found {
		list[i] = *c
	}
	return list, errors.Join(unread...)
}

type loadResult struct {
	*Container
	err error
}

// loadAll is load for each, by as many as there are cores: a thousand containers are a matter of parsing. What was never whole is taken away.
func (s *Store) loadAll(ctx context.Context, ids []string) []loadResult {
	loaded := make([]loadResult, len(ids))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(goruntime.GOMAXPROCS(0), (len(ids)+15)/16) { // a few are not worth a thread
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(ids); i = int(next.Add(1)) - 1 {
				c, err := s.load(ctx, ids[i])
				if errors.Is(err, ErrNotFound) {
					s.sweep(ctx, ids[i])
				}
				loaded[i] = loadResult{c, err}
			}
		})
	}
	wg.Wait()
	return loaded
}

// Lookup finds a container by its name, its ID or a unique beginning of that.
func (s *Store) Lookup(ctx context.Context, name string) (*Container, error) {
	if validName(name) {
		if target, err := os.Readlink(filepath.Join(s.dir, "names", name)); err == nil {
			// By the record it may have another name: a rename is under way, or was broken off.
			if c, err := s.load(ctx, filepath.Base(target)); err != nil && !errors.Is(err, ErrNotFound) || err == nil && c.Name == name {
				return c, err
			}
		}
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, id := range ids {
		if name != "" && strings.HasPrefix(id, name) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("container %s: %w", name, ErrNotFound)
	case 1:
		return s.load(ctx, found[0])
	}
	return nil, invalid("container %s: %d IDs begin so", name, len(found))
}

// Using returns the names of the containers that stand on a chain.
func (s *Store) Using(ctx context.Context, chain string) []string {
	list, err := s.List(ctx, true)
	if err != nil {
		return []string{"(" + err.Error() + ")"}
	}
	var names []string
	for _, c := range list {
		if c.Image.Chain == chain {
			names = append(names, c.Name)
		}
	}
	return names
}

// Dirs are the container's upper, and the layers below it, highest first.
func (s *Store) Dirs(ctx context.Context, c *Container) (upper string, lowers []string, err error) {
	lowers, upper, err = s.snaps.Lowers(ctx, snapshotKey(c.ID))
	if err != nil {
		return "", nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return upper, lowers, nil
}

// Written returns what diff needs to tell what the container changed in its image: its upper and the layers that commits have made of
// earlier ones, and the layers of the image, highest first. As long as the lease lasts, no commit makes others of them.
func (s *Store) Written(ctx context.Context, l *snapshot.Lease, c *Container) (uppers, lowers []string, err error) {
	uppers, lowers, err = s.snaps.Changes(ctx, l, snapshotKey(c.ID), c.Image.Chain)
	if err != nil {
		return nil, nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return uppers, lowers, nil
}
