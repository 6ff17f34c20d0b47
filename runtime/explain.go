package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/runtime/cgroup"
	"github.com/layerctl/layerctl/runtime/plan"
	"github.com/layerctl/layerctl/snapshot/failpoint"
)

// explanation is a text that says what is asked of the kernel: steps with what they are for, in words of the shell.
type explanation struct {
	bytes.Buffer
	steps int
}

// step adds a step: what it is for, and its lines.
func (x *explanation) step(what string, lines ...string) {
	if x.steps++; x.steps > 1 {
		x.WriteByte('\n')
	}
	fmt.Fprintf(x, "# %d. %s\n", x.steps, what)
	for _, l := range lines {
		fmt.Fprintln(x, l)
	}
}

// shellPath is a file in the words of a shell.
func shellPath(path string) string { return plan.Quote(path) }

// Explain prints what the kernel would be asked for to run a container, from the plan that would be walked. Nothing of the container
// stays.
func (s *Store) Explain(ctx context.Context, o CreateOptions, w io.Writer) error {
	_, err := ParseRestart(o.Restart)
	var r *recorded
	if err == nil {
		o.AutoRemove, o.Restart, o.CIDFile = true, "", "" // nothing of it stays
		r, err = s.create(ctx, o)
	}
	if err != nil {
		return &ExitError{exitCode(err), fmt.Errorf("explain: %w", err)}
	}
	defer r.lock.Close()
	var text bytes.Buffer
	err = s.explainPlan(ctx, r, &text)
	err = errors.Join(err, s.remove(ctx, r.Config))
	if err == nil {
		_, err = text.WriteTo(w) // last of all: a pipe that is closed ends us
	}
	if err != nil {
		return &ExitError{exitCode(err), fmt.Errorf("explain: %w", err)}
	}
	return nil
}

// explainPlan prepares a container's start, whose lock is held, prints the plan, and takes away what that took.
func (s *Store) explainPlan(ctx context.Context, r *recorded, w io.Writer) error {
	p, err := s.prepare(ctx, r, [3]int{0, 1, 2})
	if err != nil {
		return err
	}
	failpoint.Hit("explain/prepared")
	err = p.Explain(w)
	if p.Console != nil {
		p.Console.Close()
	}
	p.close()
	return errors.Join(err, endProcesses(r.ID))
}

// ExplainStart prints what Start would ask the kernel for, from the plan that would be walked. The container stays as it is.
func (s *Store) ExplainStart(ctx context.Context, c *Container, w io.Writer) error {
	fail := func(err error) error {
		return &ExitError{exitCode(err), fmt.Errorf("explain the start of container %s: %w", c.Name, err)}
	}
	switch c.State.Status {
	case StatusPaused:
		return fail(&kindError{"it is paused", ErrPaused})
	case StatusRunning:
		fmt.Fprintln(w, "# It runs already: nothing is done.")
		return nil
	case StatusRestarting:
		fmt.Fprintln(w, "# Its monitor waits before it starts it again, by its restart policy: it is asked, through its socket, not to wait any longer.")
		return nil
	}
	r, err := s.holdIdle(ctx, c)
	if err != nil {
		return fail(err)
	}
	defer r.lock.Close()
	text := &explanation{}
	fmt.Fprintf(text, "# A process of its own, the monitor, does this: it is the container's parent, keeps its lock (flock %s), its streams and its log,\n# and records its end.\n\n",
		shellPath(s.path(c.ID)))
	err = errors.Join(s.explainPlan(ctx, r, text), os.RemoveAll(s.volatile(&r.Config)))
	if err == nil {
		_, err = text.WriteTo(w)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// ExplainExec prints what Exec would ask the kernel for, from the plan that would be walked.
func (s *Store) ExplainExec(ctx context.Context, name string, o ExecOptions, w io.Writer) error {
	fail := func(err error) error { return &ExitError{exitCode(err), fmt.Errorf("explain exec: %w", err)} }
	c, err := s.Lookup(ctx, name)
	if err != nil {
		return fail(err)
	}
	e, err := s.enter(c)
	if err != nil {
		return fail(err)
	}
	defer e.close()
	if o, err = o.complete(); err != nil {
		return fail(err)
	}
	if err := e.compile(o, [3]int{0, 1, 2}); err != nil {
		return fail(err)
	}
	if e.Console != nil {
		e.Console.Close()
	}
	x := &explanation{}
	x.step("A handle of the container's first process, which is nobody else's when that has ended.", s.shellPidfd(c))
	begins := ""
	if e.v2 != nil {
		begins = "\n# It begins in " + e.v2.Name() + " (clone3 CLONE_INTO_CGROUP)."
	}
	x.step("A new process. Until it is the command, nobody in the container can look into it, or write to the program that it is." + begins)
	x.WriteString("\n# 3. In it, ")
	if err := e.Explain(x); err != nil {
		return fail(err)
	}
	if _, err := x.WriteTo(w); err != nil {
		return fail(err)
	}
	return nil
}

// shellPidfd says how the container's first process is opened.
func (s *Store) shellPidfd(c *Container) string {
	return fmt.Sprintf("# pidfd_open(%d); it is the container's if it began at %d (field 22 of /proc/%d/stat) and the container's lock is held", c.State.Pid, c.pidStart, c.State.Pid)
}

// ExplainPause prints what Pause would ask the kernel for.
func (s *Store) ExplainPause(ctx context.Context, c *Container, w io.Writer) error {
	c, err := s.begun(ctx, c)
	var freeze []string
	if err == nil {
		err = mayPause(c)
	}
	if err == nil {
		freeze, err = cgroup.Of(c.ID).ExplainFreeze()
	}
	if err != nil {
		return fmt.Errorf("pause container %s: %w", c.Name, err)
	}
	x := &explanation{}
	x.step("Whoever finds the processes stopped is to know that it is meant.", ": > "+shellPath(s.volatile(&c.Config, "pause")))
	x.step("The freezer stops all processes in the container's cgroup at once. They get no signal and see nothing of it.", freeze...)
	_, err = x.WriteTo(w)
	return err
}

// ExplainUnpause prints what Unpause would ask the kernel for.
func (s *Store) ExplainUnpause(_ context.Context, c *Container, w io.Writer) error {
	if err := mayUnpause(c); err != nil {
		return fmt.Errorf("unpause container %s: %w", c.Name, err)
	}
	x := &explanation{}
	s.explainThaw(x, c, "The processes go on.")
	_, err := x.WriteTo(w)
	return err
}

func (s *Store) explainThaw(x *explanation, c *Container, what string) {
	x.step(what, append([]string{"rm -f " + shellPath(s.volatile(&c.Config, "pause"))}, cgroup.Of(c.ID).ExplainThaw()...)...)
}

// ExplainStop prints what Stop would ask the kernel for.
func (s *Store) ExplainStop(ctx context.Context, c *Container, timeout *time.Duration, w io.Writer) error {
	c, err := s.begun(ctx, c)
	if err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	x := &explanation{}
	s.explainStop(x, c, timeout)
	_, err = x.WriteTo(w)
	return err
}

func (s *Store) explainStop(x *explanation, c *Container, timeout *time.Duration) {
	if !c.State.Running() {
		fmt.Fprintln(x, "# It does not run: nothing is done.")
		return
	}
	x.step("Said first: whatever its restart policy, its monitor leaves it ended.", ": > "+shellPath(s.volatile(&c.Config, "stopping")))
	recorded := func() {
		x.step("Its monitor records the end, removes the cgroups and lets the lock go.", "flock -s "+shellPath(s.path(c.ID))+" true")
	}
	if c.State.Pid == 0 {
		x.step("Between two runs there is no process; the monitor that waits is told by its socket.", "# SIGTERM, by "+shellPath(s.volatile(&c.Config, "attach")))
		recorded()
		return
	}
	sig, after := c.EndsBy()
	patience := time.Duration(after) * time.Second
	if timeout != nil {
		patience = *timeout
	}
	kill := func(sig unix.Signal) string {
		name := strings.TrimPrefix(unix.SignalName(sig), "SIG")
		if name == "" {
			name = fmt.Sprint(int(sig))
		}
		return fmt.Sprintf("kill -s %s %d  # pidfd_send_signal", name, c.State.Pid)
	}
	x.step("A handle of the container's first process: the number may be another one's by the time of the signal.", s.shellPidfd(c))
	end := "The kernel ends it, and with it all others in its pid namespace."
	if patience != 0 {
		x.step("It is asked to end.", kill(sig))
		if c.State.Status == StatusPaused {
			s.explainThaw(x, c, "Stopped by the freezer, it would not heed that.")
		}
		wait := fmt.Sprintf("timeout %g tail --pid=%d -f /dev/null  # poll(2) on the handle", patience.Seconds(), c.State.Pid)
		if patience < 0 {
			wait = fmt.Sprintf("tail --pid=%d -f /dev/null  # poll(2) on the handle", c.State.Pid)
		}
		x.step("That may take it so long.", wait)
		end = "If it has not ended by then, the kernel ends it, and with it all others in its pid namespace."
		if patience < 0 {
			recorded()
			return
		}
	}
	x.step(end, kill(unix.SIGKILL))
	s.explainThaw(x, c, "What the freezer holds is let go, so that it can end.")
	recorded()
}

// ExplainRemove prints what Remove would ask the kernel for.
func (s *Store) ExplainRemove(ctx context.Context, c *Container, force bool, w io.Writer) error {
	fail := func(err error) error { return fmt.Errorf("remove container %s: %w", c.Name, err) }
	x := &explanation{}
	if c.State.Running() {
		if !force {
			return fail(ErrInUse)
		}
		none := time.Duration(0)
		s.explainStop(x, c, &none)
		if c.AutoRemove {
			fmt.Fprintln(x, "# It was to be removed when it ends: its monitor does the rest.")
		}
	}
	_, upper, err := s.snaps.Lowers(ctx, snapshotKey(c.ID))
	if err != nil {
		return fail(err)
	}
	dir := filepath.Dir(upper)
	trash := filepath.Join(filepath.Dir(filepath.Dir(dir)), "trash", filepath.Base(dir))
	group := cgroup.Of(c.ID)
	x.step("Nobody starts it meanwhile: this is the lock that whoever runs it holds.", "flock -n -x "+shellPath(s.path(c.ID))+" true")
	x.step("No process of it is left, whatever a crash left, and no cgroup.", append(group.ExplainKill(), group.ExplainRemove()...)...)
	if force || c.AutoRemove {
		mounts, err := s.Mounts(ctx)
		if err != nil {
			return fail(err)
		}
		for _, m := range mounts {
			if m.Container == c.ID {
				x.step("Where it is mounted on the host, it is no more.", "umount "+shellPath(m.Path))
			}
		}
	}
	record := []string{"mv " + shellPath(s.path(c.ID, "config.json")) + " " + shellPath(s.path(c.ID, "removed.json"))}
	if !c.AutoRemove {
		record = append(record, "sync "+shellPath(s.path(c.ID)))
	}
	x.step("From here on it is none: a crash leaves only what nothing refers to, and the next command sweeps.", record...)
	x.step("What it has written goes at once, by rename; the files are deleted after that, many of them by a process of its own.",
		"mv "+shellPath(dir)+" "+shellPath(trash+"-")+"…", "rm -r "+shellPath(trash+"-")+"…")
	x.step("Its name is free.", "rm "+shellPath(filepath.Join(s.dir, "names", c.Name)))
	x.step("Its volatile state and its directory, which is the lock, go last.", "rm -rf "+shellPath(s.volatile(&c.Config))+" "+shellPath(s.path(c.ID)))
	if _, err := x.WriteTo(w); err != nil {
		return fail(err)
	}
	return nil
}
