package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/flock"
)

// execRecord is exec/ID.json below a container's volatile state: what runs there beside its first process. Whoever is its parent holds a
// lock of the file; one that nobody holds was left by a kill, and the kernel has ended the process with its parent.
type execRecord struct {
	ID      string
	Args    snapshot.ExactList
	Env     snapshot.ExactList
	WorkDir snapshot.Exact
	User    snapshot.Exact

	Interactive, TTY, Detach bool

	Parent      int // the pid of the process that holds the lock, and when that began (startTime)
	ParentStart uint64
}

func (r *execRecord) options() ExecOptions {
	return ExecOptions{Args: r.Args, Env: r.Env, WorkDir: string(r.WorkDir), User: string(r.User), Interactive: r.Interactive, TTY: r.TTY, Detach: r.Detach}
}

// execution is a record, and its file, locked.
type execution struct {
	execRecord
	f *os.File
}

func (s *Store) execPath(c *Container, name ...string) string {
	return s.volatile(&c.Config, append([]string{"exec"}, name...)...)
}

// recordExec makes the record of a command that is about to run in a container. The environment is complete already.
func (s *Store) recordExec(c *Container, o ExecOptions) (*execution, error) {
	x := &execution{execRecord: execRecord{ID: newID(), Args: o.Args, Env: o.Env, WorkDir: snapshot.Exact(o.WorkDir), User: snapshot.Exact(o.User),
		Interactive: o.Interactive, TTY: o.TTY, Detach: o.Detach}}
	b, err := x.marshal()
	if err != nil {
		return nil, err
	}
	err = os.Mkdir(s.execPath(c), 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errEnded
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Under a name that nobody looks at, until it is locked and whole.
	name := s.execPath(c, x.ID)
	x.f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errEnded
	}
	if err != nil {
		return nil, err
	}
	if err = flock.Try(x.f, unix.LOCK_EX); err == nil {
		_, err = x.f.Write(b)
	}
	if err == nil {
		err = os.Rename(name, name+".json")
	}
	if err != nil {
		os.Remove(name)
		x.f.Close()
		if errors.Is(err, fs.ErrNotExist) {
			err = errEnded
		}
		return nil, err
	}
	return x, nil
}

// marshal makes the record that says that this process is the parent.
func (r *execRecord) marshal() ([]byte, error) {
	var err error
	r.Parent = os.Getpid()
	if r.ParentStart, err = startTime(r.Parent); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// adopt says in the record that this process is the parent now.
func (x *execution) adopt() error {
	b, err := x.marshal()
	if err == nil {
		_, err = x.f.WriteAt(b, 0)
	}
	if err == nil {
		err = x.f.Truncate(int64(len(b)))
	}
	return err
}

// endExecs kills the parents of the commands in a container that has been killed and does not end: the kernel keeps the first process of a pid
// namespace until all others in it are reaped (pid_namespaces(7)), and a parent that is stopped reaps nobody.
func (s *Store) endExecs(c *Container) {
	for _, id := range s.ExecIDs(c) {
		f, err := os.Open(s.execPath(c, id+".json"))
		if err != nil {
			continue
		}
		x, err := readExec(f)
		f.Close()
		if err != nil {
			continue
		}
		if p, err := openProcess(x.Parent, x.ParentStart); err == nil {
			unix.PidfdSendSignal(int(p.Fd()), unix.SIGKILL, nil, 0)
			p.Close()
		}
	}
}

// readExec reads the record of which f is the file.
func readExec(f *os.File) (x *execution, err error) {
	x = &execution{f: f}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32<<20))
	if err == nil {
		err = json.Unmarshal(b, &x.execRecord)
	}
	if err != nil {
		return nil, fmt.Errorf("read what to run: %w", err)
	}
	return x, nil
}

// forgetExec takes a record away.
func (s *Store) forgetExec(c *Container, x *execution) {
	for _, end := range []string{".json", detachedEnd} {
		os.Remove(s.execPath(c, x.ID+end))
	}
	x.f.Close()
}

// detachedEnd is the end of the name of a file that says that the user of a command's terminal has left it on purpose.
const detachedEnd = ".detached"

// ExecIDs are the commands that run in a container beside its first process. What was left of others is taken away.
func (s *Store) ExecIDs(c *Container) (ids []string) {
	entries, _ := os.ReadDir(s.execPath(c))
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		f, err := os.Open(s.execPath(c, e.Name()))
		if err != nil {
			continue
		}
		if flock.Try(f, unix.LOCK_SH) == nil {
			os.Remove(s.execPath(c, e.Name()))
		} else {
			ids = append(ids, id)
		}
		f.Close()
	}
	return ids
}

// removeVolatile takes away a container's volatile state, to which a command that is about to run in it may add its record meanwhile.
func (s *Store) removeVolatile(c *Config) (err error) {
	for range 100 {
		if err = os.RemoveAll(s.volatile(c)); !errors.Is(err, unix.ENOTEMPTY) {
			break
		}
	}
	return err
}
