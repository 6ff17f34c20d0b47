package explore

import (
	"os"
	"path"
	"strings"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
)

// input is a line that is being typed.
type input struct {
	label string
	text  string
	live  bool // it is the filter, which works while it is typed
	done  func(m *model, text string) tea.Cmd
	was   string // what it was before
}

// insert adds text at the end: only what is printed, for a paste may hold anything.
func (i *input) insert(s string) {
	for _, r := range s {
		if r >= 0x20 && r != 0x7f && r != utf8.RuneError {
			i.text += string(r)
		}
	}
}

func (m *model) filterLine() tea.Cmd {
	m.onList = false
	m.input = &input{label: "/", text: m.text, was: m.text, live: true, done: func(*model, string) tea.Cmd { return nil }}
	return nil
}

// exportLine asks where to.
func (m *model) exportLine() tea.Cmd {
	if m.working {
		m.say("an export is under way", true)
		return nil
	}
	name := path.Base(m.at.path())
	if m.at == m.tree.root {
		name = "root"
	}
	m.input = &input{label: "export to (a directory, or a .tar): ", text: "./" + name, done: func(m *model, to string) tea.Cmd {
		if to = strings.TrimSpace(to); to == "" {
			return nil
		}
		if _, err := os.Lstat(to); err == nil {
			m.say(safe(to)+" is there already: name what is not", true)
			return nil
		}
		m.working = true
		m.say("exporting…", false)
		return m.do.export(m.images, m.scope(), m.at.path(), m.at.kind == 'D', to)
	}}
	return nil
}

// inputKey takes a key while a line is being typed.
func (m *model) inputKey(name, text string) tea.Cmd {
	in := m.input
	switch name {
	case "enter":
		m.input = nil
		return in.done(m, in.text)
	case "esc":
		m.input = nil
		if in.live {
			m.typed(in.was)
		}
		return nil
	case "backspace":
		if in.text == "" && in.live {
			m.input = nil
			return nil
		}
		_, n := utf8.DecodeLastRuneInString(in.text)
		in.text = in.text[:len(in.text)-n]
	case "ctrl+u":
		in.text = ""
	case "ctrl+w":
		in.text = strings.TrimRight(in.text, " ")
		in.text = in.text[:strings.LastIndexAny(in.text, " /")+1]
	case "up", "down", "pgup", "pgdown":
		if !in.live {
			return nil
		}
		m.input = nil
		return m.key(name, "")
	default:
		in.insert(text)
	}
	if in.live {
		m.typed(in.text)
	}
	return nil
}
