//go:build !failpoints

package failpoint

import "os"

// Enabled says whether this binary has failpoints.
const Enabled = false

// Hit does nothing in this binary.
func Hit(string) {}

// Environ is the environment of a process that goes on with the work of this one.
func Environ() []string { return os.Environ() }
