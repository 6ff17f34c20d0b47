package main

import (
	"bytes"
	"testing"
)

// What a registry says while it is waited for is shown, and not obeyed.
func TestStatusOfAForeigner(t *testing.T) {
	var out bytes.Buffer
	(&lines{out: &out}).Status("waiting 1s: \x1b[2Jbusy\r\nlayerctl: all is well")
	if want := `waiting 1s: \x1b[2Jbusy  layerctl: all is well` + "\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
