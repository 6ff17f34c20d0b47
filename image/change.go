package image

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// changes applies Dockerfile instructions to an image's settings. As in a Dockerfile, an ENTRYPOINT takes the CMD away that was meant for
// another one, unless a CMD is given with it.
func changes(c *v1.Config, list []string) error {
	cmd := false
	for _, instruction := range list {
		word, _, _ := strings.Cut(strings.TrimSpace(instruction), " ")
		cmd = cmd || strings.EqualFold(word, "CMD")
		if strings.EqualFold(word, "ENTRYPOINT") && !cmd {
			c.Cmd = nil
		}
		if err := change(c, instruction); err != nil {
			return fmt.Errorf("--change %q: %w", instruction, err)
		}
	}
	return nil
}

// change applies one Dockerfile instruction to an image's settings, as docker import --change does.
func change(c *v1.Config, instruction string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(instruction), " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return invalid("the instruction says nothing")
	}
	switch strings.ToUpper(word) {
	case "CMD":
		args, err := command(rest)
		c.Cmd = args
		return err
	case "ENTRYPOINT":
		args, err := command(rest)
		c.Entrypoint = args
		return err
	case "ENV":
		pairs, err := assignments(rest)
		for _, kv := range pairs {
			c.Env = setEnv(c.Env, kv[0], kv[1])
		}
		return err
	case "LABEL":
		pairs, err := assignments(rest)
		for _, kv := range pairs {
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[kv[0]] = kv[1]
		}
		return err
	case "USER":
		c.User = rest
	case "WORKDIR":
		if !strings.HasPrefix(rest, "/") {
			rest = strings.TrimSuffix(c.WorkingDir, "/") + "/" + rest
		}
		c.WorkingDir = rest
	case "STOPSIGNAL":
		if !isSignal(rest) {
			return invalid("%q is no signal", rest)
		}
		c.StopSignal = rest
	case "EXPOSE":
		for _, port := range strings.Fields(rest) {
			number, proto, found := strings.Cut(port, "/")
			if !found {
				proto = "tcp"
			}
			if number == "" || strings.Trim(number, "0123456789-") != "" {
				return invalid("%q is no port", port)
			}
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			c.ExposedPorts[number+"/"+strings.ToLower(proto)] = struct{}{}
		}
	case "VOLUME":
		paths := strings.Fields(rest)
		if strings.HasPrefix(rest, "[") {
			if err := json.Unmarshal([]byte(rest), &paths); err != nil {
				return invalid("%q is no JSON list of strings", rest)
			}
		}
		for _, p := range paths {
			if c.Volumes == nil {
				c.Volumes = map[string]struct{}{}
			}
			c.Volumes[p] = struct{}{}
		}
	default:
		return invalid("%s is none of CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, EXPOSE, VOLUME, STOPSIGNAL", word)
	}
	return nil
}

// isSignal says whether s is a signal's number or its name, with or without SIG; RTMIN and RTMAX may be counted from.
func isSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n >= 1 && n <= 64
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, end := range []string{"RTMIN", "RTMAX"} {
		if off, ok := strings.CutPrefix(name, end); ok {
			n, err := strconv.Atoi(off)
			return off == "" || err == nil && (end == "RTMIN") == (off[0] == '+') && n >= -30 && n <= 30
		}
	}
	return unix.SignalNum("SIG"+name) != 0
}

// command reads the exec form, a JSON list, or the shell form, which /bin/sh runs.
func command(s string) ([]string, error) {
	if !strings.HasPrefix(s, "[") {
		return []string{"/bin/sh", "-c", s}, nil
	}
	var args []string
	if err := json.Unmarshal([]byte(s), &args); err != nil {
		return nil, invalid("%q is no JSON list of strings", s)
	}
	return args, nil
}

// assignments reads NAME=VALUE pairs, whose values may be quoted, or the old form NAME VALUE.
func assignments(s string) ([][2]string, error) {
	name, _, found := strings.Cut(s, "=")
	if !found || strings.ContainsAny(name, " \t") {
		name, value, given := strings.Cut(s, " ")
		if !given {
			return nil, invalid("%q is not NAME=VALUE", s)
		}
		return [][2]string{{name, strings.TrimSpace(value)}}, nil
	}
	var pairs [][2]string
	words, err := splitWords(s)
	if err != nil {
		return nil, err
	}
	for _, w := range words {
		name, value, found := strings.Cut(w, "=")
		if !found || name == "" {
			return nil, invalid("%q is not NAME=VALUE", w)
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

// splitWords splits at spaces outside quotes; a backslash takes the next character as it is.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote byte
	inWord := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
			inWord = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == ' ' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, invalid("a quote is not closed in %q", s)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

func setEnv(env []string, name, value string) []string {
	for i, kv := range env {
		if strings.HasPrefix(kv, name+"=") {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}
