#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (a minute each by default), one after the other. Without a bound, making one input smaller would
# take that minute.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' "$file"); do
		echo "== $(dirname "$file") $target"
		if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-60s}" -fuzzminimizetime 200x "$(dirname "$file")" >"$log" 2>&1; then
			# At the end of its time the tool now and then fails with this alone: it found nothing.
			if ! grep -q '^    context deadline exceeded$' "$log" || grep -qE 'Failing input|panic|_test\.go:' "$log"; then
				cat "$log"
				exit 1
			fi
		fi
		tail -n 3 "$log" | grep -E '^(fuzz|ok)' || true
	done
done
