package main

// Linking this package is what takes the short path: its initialiser runs before the heavy packages' (see its text).
import _ "github.com/layerctl/layerctl/cmd/layerctl/internal/early"
