package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// UnitOptions say how a container's systemd unit names it, and how it runs this program.
type UnitOptions struct {
	Program []string // this program's absolute path, and its global flags
	Dirs    []string // must be mounted before it starts
	Names   bool     // containers by name instead of by ID
	Restart string   // of unitRestarts; "": on-failure, or no where the monitor starts the container again
}

// unitRestarts are what systemd may do when a service has ended (systemd.service(5), Restart=).
var unitRestarts = [...]string{"no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"}

// Unit makes a systemd service that starts a container at boot and is alive as long as it: the name of its file, and the text. For systemd
// the container is its monitor, which `start` leaves behind and which ends with the container's status; no file or socket tells one of
// the other. (Whoever waits in a `start -a` might be ended without the container, and waits for one run only.) A container that is removed
// when it ends, or that both its monitor and systemd would start again, is refused (ErrInvalid).
func (s *Store) Unit(ctx context.Context, c *Container, o UnitOptions) (name, text string, err error) {
	fail := func(err error) (string, string, error) {
		return "", "", fmt.Errorf("generate a unit for container %s: %w", c.Name, err)
	}
	if c.AutoRemove {
		return fail(invalid("it is removed when it ends (--rm), so nothing could start it again"))
	}
	restart := o.Restart
	switch own := c.Restart.String(); {
	case restart != "" && !slices.Contains(unitRestarts[:], restart):
		return fail(invalid("restart policy %q: want %s", restart, strings.Join(unitRestarts[:], ", ")))
	case restart != "" && restart != "no" && own != "no":
		return fail(invalid("its monitor starts it again (--restart %s), so systemd must not", own))
	case restart == "" && own == "no":
		restart = "on-failure"
	case restart == "":
		restart = "no"
	}
	call := o.Name(c)
	var unit strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&unit, format+"\n", a...) }
	name = unitName(call)
	line("# Starts container %s at boot: copy this to /etc/systemd/system/%s, then", c.Name, name)
	line("# systemctl daemon-reload && systemctl enable --now %s", name)
	line("\n[Unit]\nDescription=Container %s\nDocumentation=man:layerctl-generate-systemd(1)", c.Name)
	for _, dir := range o.Dirs {
		line("RequiresMountsFor=%s", unitWord(dir))
	}
	if c.Network == "host" {
		line("Wants=network-online.target\nAfter=network-online.target")
	}
	for _, mode := range []string{c.PidMode, c.IPCMode, c.UTSMode, c.Network} {
		id, other := strings.CutPrefix(mode, "container:")
		if !other {
			continue
		}
		of, err := s.Lookup(ctx, id)
		if err != nil {
			return fail(fmt.Errorf("a namespace is another container's: %w", err))
		}
		if need := unitName(o.Name(of)); !strings.Contains(unit.String(), "="+need+"\n") {
			line("Wants=%s\nAfter=%s", need, need)
		}
	}
	var words []string
	for _, w := range o.Program {
		words = append(words, strings.ReplaceAll(unitWord(w), "$", "$$"))
	}
	program := strings.Join(words, " ")
	line("\n[Service]\nType=forking\nExecStart=%s start %s\nExecStop=%s stop %s", program, call, program, call)
	// After what ended the monitor and not the container.
	line("ExecStopPost=%s stop %s", program, call)
	line("Restart=%s", restart)
	signal, seconds := c.EndsBy()
	// A container that ends by the signal that asks it to has not failed.
	line("SuccessExitStatus=%d", 128+int(signal))
	if seconds == noTimeout {
		line("TimeoutStopSec=infinity")
	} else {
		line("TimeoutStopSec=%d", seconds+30) // what is left of it is taken away then
	}
	line("\n[Install]\nWantedBy=multi-user.target")
	return name, unit.String(), nil
}

// Name is how the unit calls a container.
func (o UnitOptions) Name(c *Container) string {
	if o.Names {
		return c.Name
	}
	return c.ID
}

func unitName(container string) string { return "container-" + container + ".service" }

// unitWord quotes a word for a unit file (systemd.syntax(7), systemd.unit(5)).
func unitWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-=,:+@") == "" {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '%':
			b.WriteString("%%")
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return `"` + b.String() + `"`
}
