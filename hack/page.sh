#!/usr/bin/env bash
# Runs the sh blocks of a page of docs/ in one shell, in an empty directory with an empty store, and compares what they print with the
# page's output blocks: page.sh docs/PAGE.md. BIN is the directory of the layerctl that runs (bin/).
#
# In an output block "…" stands for any text, and alone on a line for any lines; everything else must come as it is there, so a page's
# commands give IDs by SOURCE_DATE_EPOCH, or the page says "…". What the reader need not see, such as making what the page looks at, is a
# block, too: in a comment that begins with a line "<!-- sh" and ends with "-->". So is what he does at a terminal: the block types it into
# tmux, and its output is the screen. A page cleans up after itself, as a reader would.
set -euo pipefail
cd "$(dirname "$0")/.."
page=$1
[ "$(id -u)" = 0 ] || { echo "$page: run it as root" >&2; exit 1; }
BIN=${BIN:-$PWD/bin}
[ -x "$BIN/layerctl" ] || { echo "$page: there is no $BIN/layerctl: make it first" >&2; exit 1; }
PATH=$BIN:$PATH
blocks=$(mktemp -d "${TMPDIR:-/var/tmp}/layerctl-page.XXXXXX")
# The terminals of a page are tmux's; its server is the page's own.
unset TMUX
export TMUX_TMPDIR=$blocks
export LAYERCTL_ROOT=${LAYERCTL_ROOT:-$blocks/store} LAYERCTL_RUN_ROOT=${LAYERCTL_RUN_ROOT:-$blocks/run} LC_ALL=C.UTF-8 TZ=UTC
doing=
finish() {
	status=$?
	[ -z "$doing" ] || { cat "$blocks/got" >&2; echo "$page: $doing" >&2; }
	cd /
	# What a block that failed had started.
	tmux kill-server 2>/dev/null || true
	if [ $status != 0 ]; then
		layerctl ps -aq 2>/dev/null | xargs -r layerctl rm -f >/dev/null || true
	fi
	# What a block that failed had mounted.
	awk -v dir="$blocks/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | tac | xargs -r -n1 umount -l
	rm -rf "$blocks"
	exit $status
}
trap finish EXIT
mkdir "$blocks/here"

# NNN.sh and NNN.output: the blocks, in order; an output block has the number of the sh block before it.
awk -v dir="$blocks" '
/^(```|<!-- )sh$/ { n++; file = sprintf("%s/%03d.sh", dir, n); print NR > sprintf("%s/%03d.line", dir, n); next }
/^```output$/     { file = sprintf("%s/%03d.output", dir, n); next }
/^(```|-->)/      { file = ""; next }
file              { print > file }
' "$page"

# All in this one shell, so that variables and the directory carry over, as in a reader's terminal.
cd "$blocks/here"
ran=0 compared=0
for block in "$blocks"/*.sh; do
	line=$(cat "${block%.sh}.line")
	echo "== $page:$line"
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
		diff -u --label 'the page says' "${block%.sh}.output" --label 'what came' "$blocks/got" >&2 || true
		echo "$page: the block at line $line printed something else" >&2
		exit 1
	fi
done
[ -z "$(ls -A "$blocks/here")" ] || { echo "$page: left behind: $(ls -A "$blocks/here")" >&2; exit 1; }
echo "$page: $ran blocks ran, $compared outputs compared"
