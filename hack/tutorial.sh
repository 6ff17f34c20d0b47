#!/usr/bin/env bash
# Runs the sh blocks of docs/tutorial.md in one shell, in an empty directory, and compares what they print with its output blocks.
# In an output block "…" stands for any text, and alone on a line for any lines.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "tutorial: run it as root" >&2; exit 1; }
hack/deps.sh test
[ -x bin/layerctl ] || { echo "tutorial: there is no bin/layerctl: run it by make tutorial" >&2; exit 1; }
PATH=$PWD/bin:$PATH
blocks=$(mktemp -d "${TMPDIR:-/var/tmp}/layerctl-tutorial.XXXXXX")
doing=
finish() {
	status=$?
	[ -z "$doing" ] || { cat "$blocks/got" >&2; echo "tutorial: $doing" >&2; }
	cd / && rm -rf "$blocks"
	exit $status
}
trap finish EXIT
mkdir "$blocks/here"

# NNN.sh and NNN.output: the blocks, in order; an output block has the number of the sh block before it.
awk -v dir="$blocks" '
/^```sh$/     { n++; file = sprintf("%s/%03d.sh", dir, n); print NR > sprintf("%s/%03d.line", dir, n); next }
/^```output$/ { file = sprintf("%s/%03d.output", dir, n); next }
/^```/        { file = ""; next }
file          { print > file }
' docs/tutorial.md

# All in this one shell, so that variables and the directory carry over, as in a reader's terminal.
cd "$blocks/here"
ran=0 compared=0
for block in "$blocks"/*.sh; do
	line=$(cat "${block%.sh}.line")
	echo "== docs/tutorial.md:$line"
	cat "$block"
	# Not in a condition: set -e would not hold in the block.
	doing="the block at line $line failed"
	# shellcheck disable=SC1090
	. "$block" >"$blocks/got" 2>&1
	doing=
	ran=$((ran + 1))
	[ -e "${block%.sh}.output" ] || continue
	compared=$((compared + 1))
	want=$(sed -e 's/[][\\*?]/\\&/g' -e 's/…/*/g' "${block%.sh}.output")
	# shellcheck disable=SC2053 # the right side is a pattern
	if [[ $(cat "$blocks/got") != $want ]]; then
		diff -u --label 'the tutorial says' "${block%.sh}.output" --label 'what came' "$blocks/got" >&2 || true
		echo "tutorial: the block at line $line printed something else" >&2
		exit 1
	fi
done
[ -z "$(ls -A "$blocks/here")" ] || { echo "tutorial: left behind: $(ls -A "$blocks/here")" >&2; exit 1; }
echo "tutorial: $ran blocks ran, $compared outputs compared"
