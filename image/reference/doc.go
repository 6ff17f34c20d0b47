// Package reference reads image names: [REGISTRY/]REPOSITORY[:TAG][@DIGEST].
//
// The grammar is that of the distribution project (distribution-spec, "Pulling manifests"), the defaults are Docker's: docker.io,
// library/, latest. It is written by hand, without regular expressions, because `run` looks names up and must start fast.
package reference
