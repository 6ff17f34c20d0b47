package runtime

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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
}

// config checks the options and completes them.
func (o CreateOptions) config() (Config, error) {
	c := Config{
		Version: configVersion, ID: newID(), Name: o.Name, Created: time.Now().UTC(), Image: o.Image, RootFS: o.RootFS,
		WorkDir: o.WorkDir, User: o.User, Hostname: o.Hostname, Network: o.Network, TTY: o.TTY,
		Interactive: o.Interactive, AutoRemove: o.AutoRemove,
	}
	if c.Name == "" {
		c.Name = randomName()
	} else if !ValidName(c.Name) {
		return c, invalid("container name %q: want 2 to 200 letters, digits, '_', '.' and '-', beginning with a letter or digit", c.Name)
	}
	if len(c.Hostname) > 64 {
		return c, invalid("host name %.80q is longer than 64 bytes", c.Hostname)
	}
	if strings.Trim(c.Hostname, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" {
		return c, invalid("host name %q: want letters, digits, '.', '-' and '_'", c.Hostname)
	}
	if c.Network != "none" && c.Network != "host" {
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
	for _, kv := range o.Env {
		name, value, given := cut(kv)
		if name == "" {
			return c, invalid("environment %q: want NAME=VALUE or NAME", kv)
		}
		if !given { // the caller's value, now: a container that is started later keeps it
			v, ok := os.LookupEnv(name)
			if !ok { // it is not set in the container, either
				c.Env = append(c.Env, name)
				continue
			}
			value = v
		}
		c.Env = append(c.Env, name+"="+value)
	}
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
		return c, invalid("no command: the image %s names none, and none was given", o.Image.Name)
	}
	return c, nil
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
