package start

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Flag is one flag of a command, apart from any library: pflag cannot be linked into the short path (it brings in package net), and
// the two paths must not know different flags. Package main registers these with cobra; Parse reads them on the short path.
type Flag struct {
	Name, Short, Usage string
	Default            string // as help shows it; "" for none
	Type               string // "bool", "string", "int" or "list" (given any number of times)
	set                func(string) error
	given              *bool
}

// Set gives the flag a value.
func (f Flag) Set(value string) error {
	if f.given != nil {
		*f.given = true
	}
	return f.set(value)
}

func stringFlag(p *string, name, short, usage string) Flag {
	return Flag{Name: name, Short: short, Usage: usage, Default: *p, Type: "string", set: func(v string) error { *p = v; return nil }}
}

func listFlag(p *[]string, name, short, usage string) Flag {
	return Flag{Name: name, Short: short, Usage: usage, Type: "list", set: func(v string) error { *p = append(*p, v); return nil }}
}

func boolFlag(p *bool, name, short, usage string) Flag {
	return Flag{Name: name, Short: short, Usage: usage, Type: "bool", set: func(v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("want true or false, not %q", v)
		}
		*p = b
		return nil
	}}
}

// intFlag is for a number that may be left out.
func intFlag(p **int, name, short, usage string) Flag {
	return Flag{Name: name, Short: short, Usage: usage, Type: "int", set: func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("want a number, not %q", v)
		}
		*p = &n
		return nil
	}}
}

// Parse reads flags up to the first argument that is none, in the forms that pflag knows: --name value, --name=value, -n value,
// -nvalue, -n=value, and short switches together (-it). It returns the arguments that follow; ok is false for anything that does not
// parse, which is then for the ordinary path to explain.
func Parse(flags []Flag, args []string) (rest []string, ok bool) {
	for len(args) > 0 {
		arg := args[0]
		switch {
		case arg == "--":
			return args[1:], true
		case len(arg) < 2 || arg[0] != '-':
			return args, true
		case strings.HasPrefix(arg, "--"):
			args, ok = parseLong(flags, arg[2:], args[1:])
		default:
			args, ok = parseShort(flags, arg[1:], args[1:])
		}
		if !ok {
			return nil, false
		}
	}
	return nil, true
}

func parseLong(flags []Flag, arg string, rest []string) ([]string, bool) {
	name, value, given := strings.Cut(arg, "=")
	for _, f := range flags {
		if f.Name != name {
			continue
		}
		switch {
		case given:
		case f.Type == "bool":
			value = "true"
		case len(rest) == 0:
			return nil, false
		default:
			value, rest = rest[0], rest[1:]
		}
		return rest, f.Set(value) == nil
	}
	return nil, false
}

func parseShort(flags []Flag, letters string, rest []string) ([]string, bool) {
	for letters != "" {
		f := shortNamed(flags, letters[:1])
		if f == nil {
			return nil, false
		}
		letters = letters[1:]
		if f.Type == "bool" && !strings.HasPrefix(letters, "=") {
			if f.Set("true") != nil {
				return nil, false
			}
			continue
		}
		value := strings.TrimPrefix(letters, "=")
		if letters == "" {
			if len(rest) == 0 {
				return nil, false
			}
			value, rest = rest[0], rest[1:]
		}
		return rest, f.Set(value) == nil
	}
	return rest, true
}

func shortNamed(flags []Flag, short string) *Flag {
	for i := range flags {
		if flags[i].Short == short {
			return &flags[i]
		}
	}
	return nil
}

// Without leaves flags out.
func Without(flags []Flag, names ...string) []Flag {
	return slices.DeleteFunc(flags, func(f Flag) bool { return slices.Contains(names, f.Name) })
}
