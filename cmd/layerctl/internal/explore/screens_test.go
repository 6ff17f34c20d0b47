package explore

import (
	"testing"

	tea "charm.land/bubbletea/v2"
)

func TestScreens(t *testing.T) {
	s := open80x24(t, small())
	s.is("whole")
	s.keys("down down right right right").is("opened")
	s.keys("left left").is("closed")
	s.keys("s").is("by-size")
	s.keys("b b").is("biggest")
	s.keys("home s s s +").is("all-open")
	s.keys("- ] ]").is("layer2")
	s.keys("+ C down down").is("layer2-changed")
	s.keys("esc u").is("layer2-upto")
	s.keys("u ] + end").is("layer3-hostile")
	s.keys("tab").is("layer3-list")
	s.keys("tab ?").is("help")
	s.keys("q [ [ [ /").text("lib").is("filter-typing")
	s.keys("enter").is("filter")
	s.keys("esc /").text(">1M").is("filter-size")
	s.keys("esc x").is("export-line")
}

func TestCompareScreens(t *testing.T) {
	s := open80x24(t, small(), other())
	s.is("compare")
	s.keys("+ down down").is("compare-open")
	s.send(tea.WindowSizeMsg{Width: 132, Height: 40})
	s.is("compare-wide")
	s.send(tea.WindowSizeMsg{Width: 56, Height: 14})
	s.is("compare-least")
	s.send(tea.WindowSizeMsg{Width: 40, Height: 10})
	s.is("too-small")
}
