#!/usr/bin/env bash
# The house rules that no Go tool checks: sizes, names, doc.go, shell scripts.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
say() { echo "lint: $*" >&2; bad=1; }

while read -r lines file; do
	[ "$lines" -le 620 ] || say "$file has $lines lines; split it near 600"
done < <(git ls-files -z '*.go' | xargs -0 wc -l | grep -v ' total$')

while read -r dir; do
	case "${dir##*/}" in
	util | utils | common | helper | helpers | misc) say "$dir: name the package after what it does" ;;
	esac
	case "$dir" in
	snapshot* | image* | runtime*) [ -e "$dir/doc.go" ] || say "$dir has no doc.go" ;;
	esac
done < <(git ls-files '*.go' | xargs -n1 dirname | sort -u)

if grep -rnE 'TODO|FIXME|\bXXX\b|not implemented' --include='*.go' --include='*.sh' --exclude=lint.sh . >&2; then
	say "unfinished work is not committed"
fi

if command -v shellcheck >/dev/null; then
	git ls-files -z 'hack/*.sh' 'examples/*.sh' '.ci/run' | xargs -0 shellcheck -S warning || bad=1
else
	say "shellcheck is missing: apt-get install shellcheck"
fi
exit $bad
