#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (a minute each by default), one after the other. New inputs are not made smaller: that takes the
# whole minute with the larger ones.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' "$file"); do
		echo "== $(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzzminimizetime 1x -fuzztime "${FUZZTIME:-60s}" "$(dirname "$file")"
	done
done
