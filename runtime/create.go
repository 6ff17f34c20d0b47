package runtime

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// CreateOptions say what a container is made of.
type CreateOptions struct {
	Name        string
	Image       ImageInfo // where RootFS is ""
	RootFS      string
	Args        []string
	Entrypoint  *[]string // nil: the image's
	Env         []string  // NAME=VALUE, or NAME for the caller's value
	WorkDir     string
	User        string
	Hostname    string
	Network     string // none or host
	TTY         bool
	Interactive bool
	AutoRemove  bool
	Init        bool // the command is not the first process, but a child of one that reaps and passes signals on

	EnvFiles                  []string // files of variables, in Docker's form; Env comes after them
	Labels                    []string // KEY=VALUE or KEY, over the image's
	LabelFiles                []string
	CIDFile                   string // is made, and gets the ID
	StopSignal                string // as ParseSignal reads it; "": the image's
	StopTimeout               *int   // in seconds, -1 for ever; nil: 10
	Restart                   string // as ParseRestart reads it
	LogDriver                 string // "" is k8s-file
	LogOpts                   []string
	PidMode, IPCMode, UTSMode string // "", host, or container:NAME
	StdinOnce                 bool   // the first who sends input takes stdin with him when he ends

	// How Run connects the caller with it.
	Detach     bool   // not at all: it goes on in the background
	DetachKeys []byte // what detaches from its terminal; nil is monitor.DefaultDetachKeys
}

// config checks the options and completes them.
func (o CreateOptions) config() (Config, error) {
	c := Config{
		Version: configVersion, ID: newID(), Name: o.Name, Created: time.Now().UTC(), Image: o.Image, RootFS: o.RootFS,
		WorkDir: o.WorkDir, User: o.User, Hostname: o.Hostname, Network: o.Network, TTY: o.TTY,
		Interactive: o.Interactive, AutoRemove: o.AutoRemove, Init: o.Init, StopSignal: o.StopSignal, StopTimeout: o.StopTimeout,
		LogDriver: cmp.Or(o.LogDriver, defaultLogDriver), PidMode: o.PidMode, IPCMode: o.IPCMode, UTSMode: o.UTSMode, StdinOnce: o.StdinOnce, Attached: !o.Detach,
	}
	if c.Name == "" {
		c.Name = randomName()
	} else if err := checkName(c.Name); err != nil {
		return c, err
	}
	if len(c.Hostname) > 64 {
		return c, invalid("host name %.80q is longer than 64 bytes", c.Hostname)
	}
	if strings.Trim(c.Hostname, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" {
		return c, invalid("host name %q: want letters, digits, '.', '-' and '_'", c.Hostname)
	}
	if c.Network != "none" && !CheckShared(c.Network) {
		return c, Refuse("network %q", c.Network)
	}
	if c.Hostname == "" {
		c.Hostname = c.ID[:12]
		if c.Network == "host" {
			if name, err := os.Hostname(); err == nil {
				c.Hostname = name
			}
		}
	}
	if err := c.checkLife(o); err != nil {
		return c, err
	}
	for _, path := range o.EnvFiles {
		env, err := readEnvFile(path)
		if err != nil {
			return c, err
		}
		c.Env = append(c.Env, env...)
	}
	env, err := callersValues(o.Env)
	if err != nil {
		return c, err
	}
	c.Env = append(c.Env, env...)
	if c.User == "" {
		c.User = o.Image.Settings.User
	}
	if c.WorkDir == "" {
		c.WorkDir = o.Image.Settings.WorkingDir
	} else if c.WorkDir[0] != '/' {
		return c, invalid("working directory %q is not absolute", c.WorkDir)
	}
	c.WorkDir = path.Clean("/" + c.WorkDir)
	entrypoint, args := o.Image.Settings.Entrypoint, o.Args
	if o.Entrypoint != nil {
		entrypoint = *o.Entrypoint
	} else if len(args) == 0 {
		args = o.Image.Settings.Cmd
	}
	c.Command, c.Entrypoint = append(append([]string(nil), entrypoint...), args...), len(entrypoint)
	if o.RootFS != "" {
		if err := c.checkRootFS(); err != nil {
			return c, err
		}
		if len(c.Command) == 0 {
			c.Command = []string{"/bin/sh"}
		}
	}
	if len(c.Command) == 0 {
		return c, &kindError{fmt.Sprintf("no command: the image %s names none, and none was given", o.Image.Name), ErrNoCommand}
	}
	return c, nil
}

// checkLife completes what the options say of the container's life: its labels, its end, its starts, its log, and what it shares.
func (c *Config) checkLife(o CreateOptions) (err error) {
	if c.Labels, err = labels(o.Image.Settings.Labels, o.LabelFiles, o.Labels); err != nil {
		return err
	}
	if c.StopSignal != "" {
		n, err := ParseSignal(c.StopSignal)
		if err != nil {
			return err
		}
		c.StopSignal = SignalName(n) // an image that is made of it says so in the form of image-spec
	}
	if t := c.StopTimeout; t != nil && *t < noTimeout {
		return invalid("stop timeout %d: want seconds, or -1 to wait for ever", *t)
	}
	if c.Restart, err = ParseRestart(o.Restart); err != nil {
		return err
	}
	if c.Restart.Name != "" && c.AutoRemove {
		return invalid("--restart %s and --rm: what is removed when it ends is not started again", c.Restart)
	}
	if c.LogDriver != defaultLogDriver && c.LogDriver != "none" {
		return Refuse("--log-driver %s", c.LogDriver)
	}
	if c.LogOpts, err = parseLogOptions(c.LogDriver, o.LogOpts); err != nil {
		return err
	}
	for _, ns := range [...][2]string{{"pid", c.PidMode}, {"ipc", c.IPCMode}, {"uts", c.UTSMode}} {
		if err := checkShared(ns[0], ns[1]); err != nil {
			return err
		}
	}
	return nil
}

// callersValues completes NAME=VALUE and NAME: that is the caller's value, now, so that a container which is started later keeps it. What
// the caller does not have is not set in the container, either, and stays a NAME.
func callersValues(list []string) (env []string, err error) {
	for _, kv := range list {
		name, _, given := cut(kv)
		if name == "" {
			return nil, invalid("environment %q: want NAME=VALUE or NAME", kv)
		}
		if v, ok := os.LookupEnv(name); !given && ok {
			kv += "=" + v
		}
		env = append(env, kv)
	}
	return env, nil
}

// cut is strings.Cut at "=".
func cut(kv string) (name, value string, found bool) {
	for i := range len(kv) {
		if kv[i] == '=' {
			return kv[:i], kv[i+1:], true
		}
	}
	return kv, "", false
}

// checkRootFS makes the directory's path absolute and free of links: it is what the overlay is mounted over.
func (c *Config) checkRootFS() error {
	dir, err := filepath.Abs(c.RootFS)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("root directory %s: %w", c.RootFS, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("root directory %s: %w", c.RootFS, err)
	}
	if !info.IsDir() {
		return invalid("root directory %s is not a directory", c.RootFS)
	}
	c.RootFS = dir
	return nil
}

// below says whether path lies in dir, both being absolute.
func below(path, dir string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil || dir == "" {
		return false
	}
	rel, err := filepath.Rel(dir, real)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// create records a new container. A generated name that is taken is generated again.
func (s *Store) create(ctx context.Context, o CreateOptions) (*recorded, error) {
	told, err := makeCIDFile(o.CIDFile)
	if err != nil {
		return nil, err
	}
	r, err := s.createNamed(ctx, o)
	if err == nil {
		if err = told.tell(r.ID); err != nil {
			err = errors.Join(err, s.remove(ctx, r.Config))
			r.lock.Close()
		}
	}
	if err != nil {
		told.drop()
		return nil, err
	}
	return r, nil
}

// cidFile is the file that --cidfile asks for; nil for none.
type cidFile struct{ *os.File }

// makeCIDFile makes the file before the container, so that two containers never have one file.
func makeCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, invalid("container ID file %s is there already: remove it when its container is not wanted any more", path)
	}
	if err != nil {
		return nil, fmt.Errorf("make container ID file: %w", err)
	}
	return &cidFile{f}, nil
}

func (f *cidFile) tell(id string) error {
	if f == nil {
		return nil
	}
	_, err := f.WriteString(id)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write container ID file: %w", err)
	}
	return nil
}

func (f *cidFile) drop() {
	if f != nil {
		f.Close()
		os.Remove(f.Name())
	}
}

func (s *Store) createNamed(ctx context.Context, o CreateOptions) (*recorded, error) {
	o, err := s.resolveShared(ctx, o)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		c, err := o.config()
		if err != nil {
			return nil, err
		}
		if below(s.root, c.RootFS) {
			return nil, invalid("root directory %s: the store (%s) lies in it, and no overlay has its upper below its lower", o.RootFS, s.root)
		}
		r, err := s.add(ctx, c)
		if err == nil || o.Name != "" || !errors.Is(err, ErrExists) || try == 20 {
			return r, err
		}
	}
}

// randomName is an adjective and a layer of rock, soil or air.
func randomName() string {
	adjectives := [...]string{"bold", "brisk", "calm", "clear", "crisp", "deep", "dense", "early", "fine", "firm", "fresh", "gentle", "grand", "keen",
		"light", "lucid", "mellow", "neat", "noble", "pale", "plain", "quick", "quiet", "rapid", "serene", "sharp", "silent", "sleek", "smooth",
		"solid", "stable", "steady", "still", "subtle", "swift", "thin", "tidy", "vast", "vivid", "warm"}
	nouns := [...]string{"basalt", "bedrock", "canopy", "chalk", "clay", "crust", "delta", "dune", "flint", "gneiss", "granite", "gravel", "humus",
		"limestone", "loam", "loess", "mantle", "marble", "marl", "moraine", "moss", "onyx", "peat", "pumice", "quartz", "sand", "schist",
		"seam", "shale", "silt", "slate", "stratum", "terrace", "tuff", "tundra", "varve"}
	var b [4]byte
	rand.Read(b[:])
	n := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	return adjectives[n%uint32(len(adjectives))] + "_" + nouns[n/64%uint32(len(nouns))] + string('0'+b[3]%10)
}
