package initproc

import _ "embed" // for program

//go:embed init_arm64
var program string
