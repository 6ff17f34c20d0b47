package initproc

import _ "embed" // for program

//go:embed init_amd64
var program string
