#!/usr/bin/env bash
# Measures layerctl beside its peers, in one run, and writes bench/README.md. RUNS is how often each is measured (10), for a start ten
# times that. The image of the pulls is made once, from Debian's packages, and kept under .cache.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: run it as root" >&2; exit 1; }
[ -x bin/layerctl ] || { echo "bench: there is no bin/layerctl: run it by make bench" >&2; exit 1; }
top=$PWD
runs=${RUNS:-10}
layerctl=$top/bin/layerctl
work=$(mktemp -d /var/tmp/lcb.XXXX)
registry=
cleanup() {
	status=$?
	trap - EXIT
	[ -z "$registry" ] || { kill "$registry" 2>/dev/null && wait "$registry" 2>/dev/null; } || true
	cd /
	findmnt -rn -o TARGET | grep "^$work/" | sort -r | while read -r m; do umount -l "$m"; done || true
	rm -rf "$work"
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM
export LAYERCTL_ROOT=$work/store LAYERCTL_RUN_ROOT=$work/run

cat >"$work/containers.conf" <<'X'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
X
export CONTAINERS_CONF=$work/containers.conf
podman=(podman --root "$work/p/root" --runroot "$work/pr" --tmpdir "$work/p/tmp" --storage-driver overlay)
skopeo_policy=$work/policy.json
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$skopeo_policy"

say() { echo "== $*" >&2; }

# An image of six layers, each a real installation on top of the one before.
image=$top/.cache/bench-image
if ! [ -e "$image/index.json" ]; then
	say "making the image (once)"
	rm -rf "$image" "$work/layout"
	umoci init --layout "$work/layout"
	umoci new --image "$work/layout:six"
	hack/tree.sh "$work/base"
	umoci unpack --image "$work/layout:six" "$work/bundle"
	cp -a "$work/base/." "$work/bundle/rootfs/"
	umoci repack --image "$work/layout:six" --refresh-bundle "$work/bundle"
	for packages in python3 git "g++ cmake" clang "curl vim-tiny openssh-client rsync"; do
		# shellcheck disable=SC2086 # several packages
		chroot "$work/bundle/rootfs" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null && apt-get clean && rm -rf /var/lib/apt/lists/*' sh $packages
		umoci repack --image "$work/layout:six" --refresh-bundle "$work/bundle"
	done
	rm -rf "$work/bundle" "$work/base"
	umoci gc --layout "$work/layout"
	mv "$work/layout" "$image"
fi

say "registry"
port=
for try in $(seq 1 50); do
	port=$((20000 + (RANDOM + try) % 20000))
	(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null || break
done
cat >"$work/registry.yml" <<X
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: 127.0.0.1:$port}
X
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
for _ in $(seq 1 100); do
	(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null && break
	sleep 0.1
done
ref=127.0.0.1:$port/six
skopeo copy -q --policy "$skopeo_policy" --dest-tls-verify=false "oci:$image:six" "docker://$ref"

cd "$work"
"$top/hack/tree.sh" tree
tree_mb=$(du -sm tree | cut -f1)
blobs_mb=$(du -sm "$image/blobs" | cut -f1)

# compare TITLE RUNS NAME COMMAND [NAME COMMAND…]: the first is ours. PREPARE is run before each measurement.
results=
compare() {
	local title=$1 n=$2 args=() names=()
	shift 2
	while [ $# -gt 0 ]; do
		names+=("$1")
		args+=("$2")
		shift 2
	done
	say "$title"
	hyperfine --style none -w "${WARM:-2}" -r "$n" ${PREPARE:+--prepare "$PREPARE"} --export-json out.json "${args[@]}" >/dev/null
	results+=$'\n'"### $title"$'\n\n'"| | median | fastest – slowest | times ours |"$'\n'"| --- | --- | --- | --- |"$'\n'
	local i
	for i in "${!names[@]}"; do
		results+=$(jq -r --argjson i "$i" --arg name "${names[i]}" '
			def ms: . * 1000 | if . < 100 then (. * 10 | round / 10) else round end | tostring + " ms";
			.results as $r | $r[$i] as $x |
			"| \($name) | \($x.median | ms) | \($x.min | ms) – \($x.max | ms) | \(if $i == 0 then "1" else ($x.median / $r[0].median * 100 | round / 100 | tostring) end) |"' out.json)$'\n'
	done
}

"$layerctl" import -q tree debian >/dev/null 2>&1 || "$layerctl" import tree debian >/dev/null
mkdir -p bundle
cp -a tree bundle/rootfs
(cd bundle && runc spec && jq '.process.terminal = false | .process.args = ["true"] | .root.readonly = false' config.json >c && mv c config.json)
"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
compare "Start \`true\` in a container of a $tree_mb MB tree, and take it away" $((runs * 10)) \
	"layerctl run --rm" "$layerctl run --rm debian true" \
	"bwrap (no overlay, no cgroups, no capabilities kept)" "bwrap --unshare-pid --unshare-net --unshare-uts --unshare-ipc --unshare-cgroup --bind tree / --proc /proc --dev /dev --tmpfs /dev/shm --ro-bind /sys /sys --cap-drop ALL true" \
	"runc run of a prepared bundle (no overlay)" "runc --root $work/runc run -b bundle bench" \
	"podman run --rm --network none" "${podman[*]} run --rm --network none debian true"

mkdir empty && printf 'package main\n\nfunc main() {}\n' >empty/main.go
(cd empty && CGO_ENABLED=0 go build -ldflags '-s -w' -o ../empty.bin main.go)
compare "What a start costs before it does anything" $((runs * 10)) \
	"layerctl run of a root that is not there (the short path)" "$layerctl run --rm --rootfs /not-there true || true" \
	"layerctl version (every package initialised)" "$layerctl version || true" \
	"an empty Go program" "./empty.bin || true"

# What a run before left is moved aside, not deleted: ext4 passes over inodes freed in the last minutes one by one, and the next run would pay.
aside="mkdir -p old/\$\$; for d in store run p pr oci unpacked; do [ ! -e \$d ] || mv \$d old/\$\$/; done; sync"

PREPARE=$aside WARM=1 \
	compare "Pull an image of six layers, $blobs_mb MB as they are transferred, from a registry on loopback into an empty store" "$runs" \
	"layerctl pull" "$layerctl pull -q $ref" \
	"podman pull" "${podman[*]} pull -q --tls-verify=false $ref" \
	"skopeo copy + umoci unpack (one directory, not layers)" "skopeo copy -q --policy $skopeo_policy --src-tls-verify=false docker://$ref oci:$work/oci:six && umoci unpack --image $work/oci:six $work/unpacked"

PREPARE=$aside WARM=1 \
	compare "Import a tree of $tree_mb MB" "$runs" \
	"layerctl import" "$layerctl import tree debian" \
	"tar into podman import" "tar -C tree -c . | ${podman[*]} import -q - debian"

say "memory"
memory() { /usr/bin/time -f %M -o rss "$@" >/dev/null 2>&1 && echo "$(($(cat rss) / 1024)) MB"; }
eval "$aside"
pull_rss=$(memory "$layerctl" pull -q "$ref")
import_rss=$(memory "$layerctl" import tree debian)
run_rss=$(memory "$layerctl" run --rm debian true)
podman_rss=$(memory "${podman[@]}" pull -q --tls-verify=false "$ref")

# shellcheck disable=SC2016 # for the container's shell
script='mkdir /many && cd /many && i=0 && while [ $i -lt 10000 ]; do : > $i; i=$((i+1)); done'
"$layerctl" run --name many debian sh -c "$script"
"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
"${podman[@]}" run --name many --network none debian sh -c "$script"
compare "diff of a container with 10,000 changed files" "$runs" \
	"layerctl diff" "$layerctl diff many" \
	"podman diff" "${podman[*]} diff many"

say "Go benchmarks"
go_bench=$(cd "$top" && go test -run '^$' -bench . -benchtime 1s ./image/... ./snapshot/... ./runtime/... | grep '^Benchmark' | sed -E 's/[[:space:]]+/ /g')

cat >"$top/bench/README.md" <<X
# Measured

Written by \`make bench\` on $(date -u +%Y-%m-%d), on a virtual machine with $(nproc) cores and $(awk '/^MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo) GiB of memory, Linux $(uname -r | sed 's/[^0-9.].*//'), $(findmnt -n -o FSTYPE -T /var/tmp), \
$(go version | cut -d' ' -f3). Peers: $(podman --version | sed 's/ version//'), $(runc --version | head -n1 | sed 's/ version//'), $(bwrap --version), $(skopeo --version | sed 's/ version//'), $(umoci --version | head -n1 | sed 's/ version//'), as Debian ships them.
All figures of a table come from one run, so the ratios mean more than the times: the same machine on another day is faster or slower by
a factor of two. Each is a median of at least $runs; below 1 in the last column, the peer is the faster one.
$results
bwrap is quicker than layerctl: it mounts no overlay, makes no cgroups and no files for \`/etc\`, keeps no record of a container, and is
a small C program. The second table is what of a start is Go's runtime and the packages that initialise before the short path.

### Memory at its peak

| | resident |
| --- | --- |
| layerctl pull, the image above | $pull_rss |
| podman pull, the same | $podman_rss |
| layerctl import, the tree above | $import_rss |
| layerctl run | $run_rss |

### Inside

\`\`\`text
$go_bench
\`\`\`
X
say "bench/README.md is written"
cat "$top/bench/README.md"
