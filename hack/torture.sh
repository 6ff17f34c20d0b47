#!/usr/bin/env bash
# Works in a store until the power is cut, and looks at what is left; tests/torture_test.go judges.
#   torture.sh work|look LAYERCTL DATA FILES REGISTRY
# DATA holds the store, FILES a tree to import, REGISTRY the images img0 to img2.
# `work` prints what it is about to change ("? NAME", "?c CONTAINER") before, and what is so ("+ NAME ID", "- NAME", "+c CONTAINER",
# "-c CONTAINER") once the command has said so.
set -uo pipefail
mode=$1 layerctl=$2 data=$3 files=$4 registry=$5
LAYERCTL_RUN_ROOT=$(mktemp -d)
export LAYERCTL_ROOT=$data/store LAYERCTL_RUN_ROOT

fail() { echo "! $*"; exit 1; }

# must CMD…: what nobody disturbs succeeds.
must() { "$@" 2>"$LAYERCTL_RUN_ROOT/stderr" || fail "$* : $? : $(tr '\n' ' ' <"$LAYERCTL_RUN_ROOT/stderr")"; }

# maybe CMD…: an image or container may not be there.
maybe() {
	"$@" >/dev/null 2>"$LAYERCTL_RUN_ROOT/stderr" || grep -q 'no such\|has that name' "$LAYERCTL_RUN_ROOT/stderr" ||
		fail "$* : $? : $(tr '\n' ' ' <"$LAYERCTL_RUN_ROOT/stderr")"
}

if [ "$mode" = look ]; then
	must "$layerctl" images --no-trunc --format 'i {{.Repository}}:{{.Tag}} {{.ID}}'
	must "$layerctl" ps -a --format 'c {{.Names}}'
	must "$layerctl" check --full >&2
	must "$layerctl" images -q --no-trunc | sort -u | while read -r id; do must "$layerctl" run --rm "$id" true; done || exit 1
	must "$layerctl" pull -q "$registry/img0" >/dev/null
	must "$layerctl" run --rm "$registry/img0" true
	echo looked
	exit 0
fi

while :; do
	n=$((RANDOM % 3))
	case $((RANDOM % 9)) in
	0 | 1)
		name=$registry/img$n:latest
		echo "? $name"
		must "$layerctl" pull -q "$name" >/dev/null
		echo "+ $name $(must "$layerctl" images -q --no-trunc "$name")"
		;;
	2 | 3)
		echo "? localhost/t$n:latest"
		id=$(must "$layerctl" import "$files/tree" "t$n") || exit 1
		echo "+ localhost/t$n:latest $id"
		;;
	4) maybe "$layerctl" run --rm --pull never "t$n" sh -c 'echo > /x' ;;
	5)
		echo "?c c$n"
		maybe "$layerctl" run --name "c$n" --pull never "t$n" sh -c 'echo > /x'
		[ -z "$(must "$layerctl" ps -a --format '{{.Names}}' | grep -x "c$n")" ] || echo "+c c$n"
		;;
	6)
		name=$registry/img$n:latest
		[ $((RANDOM % 2)) = 0 ] || name=localhost/t$n:latest
		echo "? $name"
		maybe "$layerctl" rmi -f "$name"
		echo "- $name"
		;;
	7)
		echo "?c c$n"
		maybe "$layerctl" rm "c$n"
		echo "-c c$n"
		;;
	8) must "$layerctl" prune -f --filter until=24h >/dev/null ;;
	esac
done
