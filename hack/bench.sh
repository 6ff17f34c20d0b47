#!/usr/bin/env bash
# Measures layerctl beside its peers and writes bench/README.md: bench.sh [SECTION...], all of them by default. A section's results are
# kept under .cache/bench, so that one can be measured again alone; all figures of a table come from one run. RUNS is how often each is
# measured (10), for a start ten times that; points of growth take half. With ADD set, the pulls, imports and removals of this run are
# added to those of the last one. The images are made once and kept under .cache, too.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: run it as root" >&2; exit 1; }
[ -x bin/layerctl ] || { echo "bench: there is no bin/layerctl: run it by make bench" >&2; exit 1; }
top=$PWD
all=(start life streams monitor containers logs large small tiny again rmi import push diff see commit export memory layers files store go)
sections=("$@")
[ $# -gt 0 ] || sections=("${all[@]}")
for s in "${sections[@]}"; do
	[[ " ${all[*]} " == *" $s "* ]] || { echo "bench: no section $s: want ${all[*]}" >&2; exit 2; }
done
runs=${RUNS:-10}
layerctl=$top/bin/layerctl
work=$(mktemp -d /var/tmp/lcb.XXXX)
kept=$top/.cache/bench
mkdir -p "$kept"
registry=
cleanup() {
	status=$?
	trap - EXIT
	[ -z "$registry" ] || { kill "$registry" 2>/dev/null && wait "$registry" 2>/dev/null; } || true
	[ ! -e "$work/containerd.pid" ] || "$work/stop" || true
	[ ! -e "$work/none" ] || "$work/none" || true
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
ctr=(ctr -a "$work/c.sock")
skopeo_policy=$work/policy.json
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$skopeo_policy"

say() { echo "== $*" >&2; }

# What a run before left is moved aside, not deleted: ext4 passes over inodes freed in the last minutes one by one, and the next run
# would pay. containerd begins anew over an empty root.
cat >"$work/stop" <<X
#!/bin/sh
pid=\$(cat $work/containerd.pid) && kill \$pid 2>/dev/null
while kill -0 \$pid 2>/dev/null; do sleep 0.02; done
rm -f $work/containerd.pid
X
cat >"$work/fresh" <<X
#!/bin/sh
cd $work
[ ! -e containerd.pid ] || ./stop
mkdir -p old/\$\$
for d in store run p pr c; do [ ! -e \$d ] || mv \$d old/\$\$/; done
if [ "\$1" = containerd ]; then
	setsid containerd --log-level error -c $work/containerd.toml >>$work/containerd.log 2>&1 &
	echo \$! >containerd.pid
	for i in \$(seq 200); do ctr -a $work/c.sock version >/dev/null 2>&1 && break; sleep 0.05; done
fi
sync
X
cat >"$work/containerd.toml" <<X
version = 2
root = "$work/c/root"
state = "$work/c/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$work/c.sock"
[ttrpc]
address = "$work/c.ttrpc"
X
cat >"$work/none" <<X
#!/bin/sh
# No container is left, neither ours nor podman's.
$layerctl ps -aq | xargs -r $layerctl rm -f >/dev/null
[ ! -e $work/p ] || ${podman[*]} rm -af -t 0 >/dev/null
X
chmod +x "$work/stop" "$work/fresh" "$work/none"

# The images of the pulls, in one OCI layout: six layers, each a real installation on top of the one before; the lowest of them alone; and
# 120 tiny ones.
images=$top/.cache/bench-images
if ! [ -e "$images/index.json" ]; then
	say "making the images (once)"
	rm -rf "$images" "$work/layout"
	umoci init --layout "$work/layout"
	umoci new --image "$work/layout:six"
	hack/tree.sh "$work/base"
	umoci unpack --image "$work/layout:six" "$work/bundle"
	cp -a "$work/base/." "$work/bundle/rootfs/"
	umoci repack --image "$work/layout:six" --refresh-bundle "$work/bundle"
	umoci tag --image "$work/layout:six" one
	for packages in python3 git "g++ cmake" clang "curl vim-tiny openssh-client rsync"; do
		# shellcheck disable=SC2086 # several packages
		chroot "$work/bundle/rootfs" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null && apt-get clean && rm -rf /var/lib/apt/lists/*' sh $packages
		umoci repack --image "$work/layout:six" --refresh-bundle "$work/bundle"
	done
	rm -rf "$work/bundle" "$work/base"
	umoci gc --layout "$work/layout"
	go run ./hack/benchimage "$work/layout" tiny 120 3 1500
	mv "$work/layout" "$images"
fi
# mb NAME: megabytes of an image's layers as they are transferred.
mb() {
	local m
	m=$(jq -r --arg n "$1" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $n) | .digest[7:]' "$images/index.json")
	jq '[.layers[].size] | add / 1e6 | round' "$images/blobs/sha256/$m"
}

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
# serve NAME [LAYOUT]: puts an image into the registry and sets ref.
serve() {
	ref=127.0.0.1:$port/$1
	skopeo copy -q --policy "$skopeo_policy" --dest-tls-verify=false "oci:${2:-$images}:$1" "docker://$ref"
}
# bare NAME: writes curl.cfg, by which curl fetches every blob of an image and does nothing with it.
bare() {
	curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://127.0.0.1:$port/v2/$1/manifests/latest" |
		jq -r --arg u "http://127.0.0.1:$port/v2/$1/blobs/" '.config, .layers[] | "url = \"\($u)\(.digest)\"\noutput = \"/dev/null\""' >curl.cfg
}
bare_fetch="curl -fsSZ --no-progress-meter --parallel-max 4 -K curl.cfg"

cd "$work"
# The tree is unpacked when something wants it.
tree() {
	[ -e tree ] || "$top/hack/tree.sh" tree
	tree_mb=$(du -sm tree | cut -f1)
}
# program is what runs in images that have nothing else to run.
mkdir program.d && printf 'package main\n\nfunc main() {}\n' >program.d/main.go
(cd program.d && CGO_ENABLED=0 go build -ldflags '-s -w' -o ../program main.go)

# table TITLE NAME...: a table of out.json, where results[i].times are those of NAME i, in seconds. BASE is the row whose median is taken
# off the others, in columns of their own.
table() {
	local title=$1 i
	shift
	results+=$'\n'"### $title"$'\n\n'
	results+="| | median of $(jq '.results[0].times | length' out.json) | fastest – slowest | times ours |${BASE:+ less the registry | times ours |}"$'\n'"| --- | --- | --- | --- |${BASE:+ --- | --- |}"$'\n'
	for ((i = 0; i < $#; i++)); do
		results+=$(jq -r --argjson i "$i" --arg name "${*:i+1:1}" --argjson base "${BASE:-null}" '
			def ms: . * 1000 | if . < 100 then (. * 10 | round / 10) else round end | tostring + " ms";
			def ratio($to): . / $to * 100 | round / 100 | tostring;
			def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
			(.results | map(.times | {median: median, min: min, max: max})) as $r | $r[$i] as $x |
			"| \($name) | \($x.median | ms) | \($x.min | ms) – \($x.max | ms) | \($x.median | ratio($r[0].median)) |" +
			if $base == null then "" elif $base == $i then " | |" else
				" \($x.median - $r[$base].median | ms) | \($x.median - $r[$base].median | ratio($r[0].median - $r[$base].median)) |" end' out.json)$'\n'
	done
}

# compare TITLE RUNS NAME COMMAND [NAME COMMAND...]: the first is ours. PREPARE is run before each, and its time is not counted.
compare() {
	local title=$1 n=$2 args=() names=()
	shift 2
	[ -z "${PREPARE:-}" ] || args=(--prepare "$PREPARE")
	while [ $# -gt 0 ]; do
		names+=("$1")
		args+=("$2")
		shift 2
	done
	say "$title"
	hyperfine --style none -w 2 -r "$n" --export-json out.json "${args[@]}" >/dev/null
	table "$title" "${names[@]}"
}

# turns TITLE RUNS NAME PREPARE COMMAND [NAME PREPARE COMMAND...] is compare for what takes long: they take turns, so that what else the
# machine does meets all of them. The first turn is not counted.
turns() {
	local title=$1 n=$2 names=() prepares=() commands=() i j from taken=$kept/$s.taken
	shift 2
	while [ $# -gt 0 ]; do
		names+=("$1")
		prepares+=("$2")
		commands+=("$3")
		shift 3
	done
	say "$title"
	[ -n "${ADD:-}" ] || rm -f "$taken"
	touch "$taken"
	for ((i = 0; i <= n; i++)); do
		for j in "${!commands[@]}"; do
			bash -c "${prepares[j]}" >log 2>&1 || { cat log >&2; return 1; }
			from=${EPOCHREALTIME/./}
			bash -c "exec ${commands[j]}" >log 2>&1 || { cat log >&2; return 1; }
			[ "$i" = 0 ] || echo "$j $((${EPOCHREALTIME/./} - from))" >>"$taken"
		done
	done
	jq -Rn '{results: [inputs | split(" ") | map(tonumber)] | group_by(.[0]) | map({times: map(.[1] / 1e6)})}' "$taken" >out.json
	table "$title" "${names[@]}"
}

# pulls NAME TITLE [NAME PREPARE COMMAND...]: an image into an empty store, beside the peers.
pulls() {
	serve "$1"
	turns "$2" "$runs" \
		"layerctl pull" "$work/fresh" "$layerctl pull -q $ref" \
		"podman pull" "$work/fresh" "${podman[*]} pull -q --tls-verify=false $ref" \
		"containerd, by ctr images pull" "$work/fresh containerd" "${ctr[*]} images pull --plain-http --snapshotter overlayfs $ref:latest" \
		"${@:3}"
}

peak() { /usr/bin/time -f %M -o rss "$@" >/dev/null 2>&1 && echo "$((($(cat rss) + 512) / 1024)) MB"; }

# middle COMMAND [PREPARE]: the median of half of RUNS.
middle() {
	local prepare=()
	[ $# -lt 2 ] || prepare=(--prepare "$2")
	hyperfine --style none -w 1 -r "$(((runs + 1) / 2))" "${prepare[@]}" --export-json out.json "$1" >/dev/null || { echo refused; return; }
	jq -r '.results[0].median * 1000 | if . < 100 then (. * 10 | round / 10) else round end | tostring + " ms"' out.json
}

# both makes the image debian in both stores, of the tree.
both() {
	tree
	"$layerctl" import tree debian >/dev/null
	"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
}

section_start() {
	both
	mkdir -p bundle
	cp -a tree bundle/rootfs
	(cd bundle && runc spec && jq '.process.terminal = false | .process.args = ["true"] | .root.readonly = false' config.json >c && mv c config.json)
	local gap how bwrap="bwrap --unshare-pid --unshare-net --unshare-uts --unshare-ipc --unshare-cgroup --bind tree / --proc /proc --dev /dev --tmpfs /dev/shm --ro-bind /sys /sys --cap-drop ALL true"
	local ours="layerctl run --rm" bwraps="bwrap with the same namespaces (no overlay, no cgroups, no capabilities kept)" runcs="runc run of a prepared bundle (no overlay)"
	for gap in 0 0.1; do
		how="back to back"
		[ $gap = 0 ] || how="100 ms after the one before"
		PREPARE=$([ $gap = 0 ] || echo "sleep $gap") compare "Start \`true\` in a container of a $tree_mb MB tree, and take it away: $how" $((runs * 10)) \
			"$ours" "$layerctl run --rm debian true" "$bwraps" "$bwrap" "$runcs" "runc --root $work/runc run -b bundle bench" \
			"podman run --rm --network none" "${podman[*]} run --rm --network none debian true"
	done
	# The same where the disk is as it is elsewhere, whatever this machine's is like: what a start makes and removes is a dozen inodes.
	truncate -s 4G image
	mkfs.ext4 -q image
	mkdir -p disk
	mount -o loop image disk
	LAYERCTL_ROOT=$work/disk/store "$layerctl" import tree debian >/dev/null
	compare "The same, with the store on an ext4 as mkfs.ext4 makes it" $((runs * 10)) \
		"$ours" "LAYERCTL_ROOT=$work/disk/store $layerctl run --rm debian true" "$bwraps" "$bwrap" "$runcs" "runc --root $work/runc run -b bundle bench"
	umount disk
	rm image
	compare "What a start costs before it does anything" $((runs * 10)) \
		"layerctl run of a root that is not there (the short path)" "$layerctl run --rm --rootfs /not-there true || true" \
		"layerctl version (every package initialised)" "$layerctl version || true" \
		"an empty Go program" "./program || true"
	results+="
bwrap is quicker than layerctl: it mounts no overlay, makes no cgroups and no files for \`/etc\`, keeps no record of a container, and is
a small C program. The last table is what of a start is Go's runtime and the packages that initialise before the short path.
"
}

# A container that outlives its command line, another command in one that runs, and many at once.
section_life() {
	both
	PREPARE="$work/none" compare "Start \`true\` in the background and wait for its end" $((runs * 3)) \
		"layerctl run -d, wait" "$layerctl run -d --name box debian true && $layerctl wait box" \
		"podman run -d, wait" "${podman[*]} run -d --name box --network none debian true && ${podman[*]} wait box"
	./none
	"$layerctl" run -d --name box debian sleep infinity
	"${podman[@]}" run -d --name box --network none debian sleep infinity
	compare "Run \`true\` in a container that runs" $((runs * 10)) \
		"layerctl exec" "$layerctl exec box true" \
		"podman exec" "${podman[*]} exec box true"
	./none
	compare "Start 50 containers at once and wait for the last" "$(((runs + 1) / 2))" \
		"layerctl run --rm" "for i in \$(seq 50); do $layerctl run --rm debian true & done; wait" \
		"podman run --rm --network none" "for i in \$(seq 50); do ${podman[*]} run --rm --network none debian true & done; wait"
}

# What goes through a container's streams.
section_streams() {
	both
	local gb="head -c 1000000000 /dev/zero"
	compare "1 GB through a container's \`cat\`" "$(((runs + 1) / 2))" \
		"layerctl run -i, through its monitor" "$gb | $layerctl run -i --log-driver none debian cat | cat >/dev/null" \
		"layerctl run -i --rm, whose container has the pipe itself" "$gb | $layerctl run -i --rm debian cat | cat >/dev/null" \
		"cat alone" "$gb | cat | cat >/dev/null" \
		"podman run -i" "$gb | ${podman[*]} run -i --network none --log-driver none debian cat | cat >/dev/null"
	./none
}

# private PID: kilobytes of a process that no other has; wakes PID: how often its threads have been woken; threads PID: how many it has.
private() { awk '/^Private_/ {n += $2} END {print n}' "/proc/$1/smaps_rollup"; }
wakes() { cat /proc/"$1"/task/*/status | awk '/^voluntary_ctxt_switches/ {n += $2} END {print n}'; }
threads() { awk '/^Threads/ {print $2}' "/proc/$1/status"; }

# What stays with a container is the parent of its first process.
section_monitor() {
	say "monitor"
	both
	local pids=() before=() pid
	"$layerctl" run -d --name box debian sleep infinity
	"${podman[@]}" run -d --name box --network none debian sleep infinity
	for pid in $("$layerctl" inspect -f '{{.State.Pid}}' box) $("${podman[@]}" inspect -f '{{.State.Pid}}' box); do
		pids+=("$(awk '/^PPid/ {print $2}' "/proc/$pid/status")")
	done
	sleep 5
	for pid in "${pids[@]}"; do before+=("$(wakes "$pid")"); done
	sleep 60
	results+=$'\n### The process that stays with an idle container\n\n| | layerctl\'s monitor | conmon |\n| --- | --- | --- |\n'
	results+="| memory of its own | $(private "${pids[0]}") kB | $(private "${pids[1]}") kB |"$'\n'
	results+="| threads | $(threads "${pids[0]}") | $(threads "${pids[1]}") |"$'\n'
	results+="| wake-ups in a minute | $(($(wakes "${pids[0]}") - before[0])) | $(($(wakes "${pids[1]}") - before[1])) |"$'\n'
	./none
}

section_containers() {
	say "growth: containers"
	both
	results+=$'\n### How it grows: containers\n\n'"Medians of $(((runs + 1) / 2))."$'\n\n| stopped | running | ps | ps -a | run --rm |\n| --- | --- | --- | --- | --- |\n'
	local n stopped=0 running=0
	for n in 10 100 1000; do
		for ((; stopped < n; stopped++)); do "$layerctl" run debian true; done
		for ((; running < n / 10; running++)); do "$layerctl" run -d debian sleep infinity >/dev/null; done
		results+="| $stopped | $running | $(middle "$layerctl ps") | $(middle "$layerctl ps -a") | $(middle "$layerctl run --rm debian true") |"$'\n'
	done
	./none
}

section_large() { pulls six "Pull an image of six layers, $(mb six) MB as they are transferred, from a registry on loopback into an empty store"; }

section_small() { pulls one "Pull an image of one layer of $(mb one) MB"; }

section_tiny() {
	serve tiny
	bare tiny
	BASE=3 pulls tiny "Pull an image of 120 layers of three small files" "the registry alone (curl of every blob, four at a time)" true "$bare_fetch"
}

section_again() {
	serve six
	"$layerctl" pull -q "$ref" >/dev/null
	"${podman[@]}" pull -q --tls-verify=false "$ref" >/dev/null
	compare "Pull the image of six layers again" $((runs * 3)) \
		"layerctl pull" "$layerctl pull -q $ref" \
		"podman pull" "${podman[*]} pull -q --tls-verify=false $ref" \
		"the registry's answer (curl, which takes long to start)" "curl -fsSI -H 'Accept: application/vnd.oci.image.manifest.v1+json' http://127.0.0.1:$port/v2/six/manifests/latest"
}

section_rmi() {
	serve six
	turns "Remove the image of six layers" "$runs" \
		"layerctl rmi" "$work/fresh; $layerctl pull -q $ref" "$layerctl rmi $ref" \
		"podman rmi" "$work/fresh; ${podman[*]} pull -q --tls-verify=false $ref" "${podman[*]} rmi $ref"
	results+="
layerctl takes the names away and renames what is to go; a process of its own deletes it afterwards.
"
}

section_import() {
	tree
	turns "Import a tree of $tree_mb MB" "$runs" \
		"layerctl import" "$work/fresh" "$layerctl import tree debian" \
		"tar into podman import" "$work/fresh" "bash -c 'tar -C tree -c . | ${podman[*]} import -q - debian'"
}

section_push() {
	tree
	# What is compressed is a gigabyte of the tree's own bytes, so that it is neither noise nor zeroes, and 10,000 small files.
	if [ ! -e pushed ]; then
		mkdir -p pushed/many
		(tar -C tree -c . && tar -C tree -c . && tar -C tree -c . && tar -C tree -c . && tar -C tree -c . && tar -C tree -c .) 2>/dev/null | head -c 1000000000 >pushed/large || true
		(cd pushed/many && seq -f 'the %g. of ten thousand' 10000 | split -l 1 -a 4 -)
	fi
	local to=127.0.0.1:$port/pushed empty="mkdir -p old; [ ! -e registry/docker ] || mv registry/docker old/\$\$"
	"$layerctl" import pushed "$to" >/dev/null
	"${podman[@]}" import -q - "$to" < <(tar -C pushed -c .) >/dev/null
	"$layerctl" save --format oci-dir -o pushed-oci "$to"
	for way in gzip zstd; do
		turns "Push a layer of 10,000 files and 1 GB that was made here, with $way" "$(((runs + 1) / 2))" \
			"layerctl push" "$empty; $layerctl prune -f" "$layerctl push -q --compression $way $to" \
			"podman push" "$empty" "${podman[*]} push -q --tls-verify=false --compression-format $way $to" \
			"skopeo copy of the plain tar in an OCI layout" "$empty" "skopeo copy -q --policy $skopeo_policy --dest-tls-verify=false --dest-compress-format $way oci:pushed-oci docker://$to"
	done
	results+="
gzip is the same library at the same level everywhere, and on all cores; zstd is that library's default level, ours in pieces on all cores.
Each sends meanwhile; ours also keeps what it made. Pushed again, nothing is compressed: that is the next table.
"
	compare "Push the same again" "$runs" \
		"layerctl push" "$layerctl push -q $to" \
		"podman push" "${podman[*]} push -q --tls-verify=false --compression-format zstd $to"
}

section_diff() {
	tree
	# shellcheck disable=SC2016 # for the container's shell
	local script='mkdir /many && cd /many && i=0 && while [ $i -lt 10000 ]; do : > $i; i=$((i+1)); done'
	"$layerctl" import tree debian >/dev/null
	"$layerctl" run --name many debian sh -c "$script"
	"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
	"${podman[@]}" run --name many --network none debian sh -c "$script"
	compare "diff of a container with 10,000 changed files" "$runs" \
		"layerctl diff" "$layerctl diff many" \
		"podman diff" "${podman[*]} diff many"
}

# made NAME LAYERS FILES SIZE: makes an image and puts it into the registry.
made() {
	[ -e "made-$1" ] || (cd "$top" && go run ./hack/benchimage "$work/made-$1" "$@" "$work/program")
	serve "$1" "$work/made-$1"
}

# What is in the layers of an image of 700 MB and 20,000 files. The viewer of the peers reads an archive, and shows no two images.
section_see() {
	GOBIN=$work go install github.com/wagoodman/dive@v0.13.1
	made see 10 2000 35000
	local one=$ref two
	made see2 10 2000 35001
	two=$ref
	"$layerctl" pull -q "$one" >/dev/null
	"$layerctl" pull -q "$two" >/dev/null
	"$layerctl" save -o see.tar "$one"
	compare "See the layers of an image of 10 layers, 20,000 files and 700 MB" "$runs" \
		"layerctl layers" "$layerctl layers $one" \
		"layerctl diff, of its top layer" "$layerctl diff $one" \
		"layerctl blame, of a file" "$layerctl blame $one /data/7/11/1150" \
		"layerctl waste" "$layerctl waste $one" \
		"layerctl report" "$layerctl report -o see.html $one" \
		"dive in CI mode, of its archive" "env CI=true ./dive --source docker-archive see.tar --ci"
	# Their layers have no whiteouts: tar alone unpacks them. Each time in another place, since what tar leaves to be written to the disk,
	# and the removing of what was there before, are not to be measured with the next.
	cat >unpack <<-'X'
		#!/bin/sh -e
		dir=$(mktemp -d unpacked.XXXX)
		for layout in made-see made-see2; do
			mkdir "$dir/$layout"
			manifest=$(jq -r '.manifests[0].digest[7:]' $layout/index.json)
			for l in $(jq -r '.layers[].digest[7:]' $layout/blobs/sha256/$manifest); do tar -C "$dir/$layout" -xzf $layout/blobs/sha256/$l; done
		done
		ln -sfn "$dir" unpacked
		exec ./differ
	X
	printf '#!/bin/sh\ndiff -rq unpacked/made-see unpacked/made-see2 >list\n[ $? = 1 ]\n' >differ
	chmod +x unpack differ
	./unpack
	sync
	compare "Compare two images of 20,000 files and 700 MB that have no layer in common" "$(((runs + 1) / 2))" \
		"layerctl diff" "$layerctl diff $one $two" \
		"layerctl diff --stat" "$layerctl diff --stat $one $two" \
		"diff -rq alone, of both unpacked" ./differ \
		"tar of both, and diff -rq" ./unpack
	rm -rf unpacked*
	tree
	# shellcheck disable=SC2016 # for the container's shell
	local script='mkdir /many && cd /many && i=0 && while [ $i -lt 50000 ]; do : > $i; i=$((i+1)); done'
	"$layerctl" import tree debian >/dev/null
	"$layerctl" run --name many debian sh -c "$script"
	"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
	"${podman[@]}" run --name many --network none debian sh -c "$script"
	compare "diff of a container with 50,000 changed files" "$(((runs + 1) / 2))" \
		"layerctl diff" "$layerctl diff many" \
		"layerctl diff --stat" "$layerctl diff --stat many" \
		"podman diff" "${podman[*]} diff many"
}

# What a stopped container has written becomes a layer: 10,000 files of a few bytes, and one of 1 GB.
section_commit() {
	tree
	mkdir -p changes/many
	(cd changes/many && seq 10000 | split -l 1 -a 4)
	head -c 1000000000 /dev/urandom >changes/large
	turns "Commit a stopped container that has written 10,000 files and 1 GB" "$(((runs + 1) / 2))" \
		"layerctl commit" "$work/fresh; $layerctl import tree debian; tar -C changes -c . | $layerctl run -i --name work debian tar -C /srv -x; sync" "$layerctl commit work made" \
		"podman commit" "$work/fresh; tar -C tree -c . | ${podman[*]} import -q - debian; tar -C changes -c . | ${podman[*]} run -i --name work --network none debian tar -C /srv -x; sync" "${podman[*]} commit -q work made"
	rm -rf changes
}

# The files of a stopped container as one tar, and a directory of it on the host.
section_export() {
	tree
	"$layerctl" import tree debian >/dev/null
	"$layerctl" run --name work debian touch /new
	mkdir mounted && "$layerctl" mount debian mounted >/dev/null
	"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
	"${podman[@]}" run --name work --network none debian touch /new
	mkdir again
	compare "Export $tree_mb MB, and list the tar" "$runs" \
		"layerctl export of a stopped container, tar -t" "sh -c '$layerctl export work | tar -t'" \
		"layerctl export of its image, tar -t" "sh -c '$layerctl export debian | tar -t'" \
		"mounting the container, tar -c, tar -t, unmounting it" "sh -c '$layerctl mount work again; tar -C again -c . | tar -t; $layerctl umount again'" \
		"tar -c of what is mounted and was read before, tar -t" "sh -c 'tar -C mounted -c . | tar -t'" \
		"podman export, tar -t" "sh -c '${podman[*]} export work | tar -t'"
	turns "Copy /usr out of it, $(find tree/usr | wc -l) files" "$runs" \
		"layerctl cp" "rm -rf out" "$layerctl cp work:/usr out" \
		"cp -r of the mounted image" "rm -rf out" "cp -r mounted/usr out" \
		"podman cp" "rm -rf out" "${podman[*]} cp work:/usr out"
	"$layerctl" umount mounted >/dev/null
	rm -rf out
}

section_logs() {
	local ADD= # two tables take turns here, each with times of its own
	tree
	"$layerctl" import tree debian >/dev/null
	"${podman[@]}" import -q - debian < <(tar -C tree -c .) >/dev/null
	# A line of 60 bytes is a record of 100.
	local print log
	print="yes $(printf %059d 0) | head -n 10000000"
	cat >logged <<X
#!/bin/sh
"\$@" rm -f logged >/dev/null 2>&1
"\$@" run -d --name logged --network none --log-driver k8s-file debian sh -c '$print' >/dev/null && "\$@" wait logged >/dev/null
X
	chmod +x logged
	turns "Print 600 MB in 10 million lines, in the background: a log of 1 GB" $(((runs + 4) / 5)) \
		"layerctl run -d, wait" true "./logged $layerctl" \
		"podman run -d, wait" true "./logged ${podman[*]}"
	log=$(echo "$LAYERCTL_ROOT"/containers/*/log)
	compare "The last 100 lines of it" "$runs" \
		"layerctl logs --tail 100" "$layerctl logs --tail 100 logged" \
		"podman logs --tail 100" "${podman[*]} logs --tail 100 logged" \
		"tail, of the file" "tail -n 100 $log"
	turns "All of it" $(((runs + 4) / 5)) \
		"layerctl logs" true "$layerctl logs logged >/dev/null" \
		"podman logs" true "${podman[*]} logs logged >/dev/null" \
		"cat, of the file" true "cat $log >/dev/null"
	"$layerctl" rm -f logged >/dev/null
	"${podman[@]}" rm -f logged >/dev/null
}

section_memory() {
	say "memory"
	tree
	"$layerctl" import tree debian >/dev/null
	results+=$'\n### Memory at its peak\n\n| | layerctl | podman |\n| --- | --- | --- |\n'
	local image ours theirs
	made many 1 50000 200
	serve six
	for image in "six:an image of six layers, $(mb six) MB" "many:an image of 50,000 files"; do
		ref=127.0.0.1:$port/${image%%:*}
		ours=$(peak "$layerctl" pull -q "$ref")
		theirs=$(peak "${podman[@]}" pull -q --tls-verify=false "$ref")
		results+="| pull ${image#*:} | $ours | $theirs |"$'\n'
	done
	results+="| import a tree of $tree_mb MB | $(peak "$layerctl" import tree again) | |"$'\n'
	results+="| run, with all that it starts | $(peak "$layerctl" run --rm debian true) | |"$'\n'
}

section_layers() {
	say "growth: layers"
	results+=$'\n### How it grows: layers of an image\n\nEach layer has three small files. '"Medians of $(((runs + 1) / 2))."$'\n\n| layers | pull | its memory | the registry alone | pull again | run --rm |\n| --- | --- | --- | --- | --- | --- |\n'
	local n
	for n in 1 10 100 500; do
		made "layers$n" "$n" 3 1500
		bare "layers$n"
		results+="| $n | $(middle "$layerctl pull -q $ref" "$work/fresh") |"
		./fresh
		results+=" $(peak "$layerctl" pull -q "$ref") | $(middle "$bare_fetch") | $(middle "$layerctl pull -q $ref") | $(middle "$layerctl run --rm $ref /program") |"$'\n'
	done
}

section_files() {
	say "growth: files"
	results+=$'\n### How it grows: files of an image\n\nOne layer of files of 200 bytes. '"Medians of $(((runs + 1) / 2))."$'\n\n| files | pull | its memory | pull again | run --rm |\n| --- | --- | --- | --- | --- |\n'
	local n
	for n in 1000 10000 100000 500000; do
		made "files$n" 1 "$n" 200
		results+="| $n | $(middle "$layerctl pull -q $ref" "$work/fresh") |"
		./fresh
		results+=" $(peak "$layerctl" pull -q "$ref") | $(middle "$layerctl pull -q $ref") | $(middle "$layerctl run --rm $ref /program") |"$'\n'
	done
}

section_store() {
	say "growth: images in the store"
	results+=$'\n### How it grows: images in the store\n\n'"Medians of $(((runs + 1) / 2))."$'\n\n| images | run --rm | images | pull again | pull of another | rmi of one |\n| --- | --- | --- | --- | --- | --- |\n'
	made tiny1 1 3 1500
	local n have=1 one other=$ref
	serve one
	one=$ref
	"$layerctl" pull -q "$one" >/dev/null
	mkdir -p little
	for n in 1 10 100 1000; do
		for ((; have < n; have++)); do
			echo $have >little/file
			"$layerctl" import little "little$have" >/dev/null
		done
		results+="| $n | $(middle "$layerctl run --rm $one true") | $(middle "$layerctl images") | $(middle "$layerctl pull -q $one") |"
		results+=" $(middle "$layerctl pull -q $other" "$layerctl rmi $other || true") | $(middle "$layerctl rmi $other" "$layerctl pull -q $other") |"$'\n'
	done
	results+="
\`images\` prints a line for each.
"
}

section_go() {
	say "Go benchmarks"
	results+=$'\n### Inside\n\n```text\n'
	results+=$(cd "$top" && go test -run '^$' -bench . -benchtime 1s ./image/... ./snapshot/... ./runtime/... | grep '^Benchmark' | sed -E 's/[[:space:]]+/ /g')
	results+=$'\n```\n'
}

for s in "${sections[@]}"; do
	results=
	"section_$s"
	./fresh
	printf '%s\nMeasured on %s, with a load average of %s at the end, of which the bench itself is about 2.\n' \
		"$results" "$(date -u +%Y-%m-%d)" "$(cut -d' ' -f1 /proc/loadavg)" >"$kept/$s.md"
done

{
	cat <<X
# Measured

Written by \`make bench\` on $(date -u +%Y-%m-%d), on a virtual machine with $(nproc) cores and $(awk '/^MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo) GiB of memory, Linux $(uname -r | sed 's/[^0-9.].*//'), $(findmnt -n -o FSTYPE -T /var/tmp), \
$(go version | cut -d' ' -f3). Peers: $(podman --version | sed 's/ version//'), containerd $(containerd --version | cut -d' ' -f3), $(runc --version | head -n1 | sed 's/ version//'), $(bwrap --version), as Debian ships them.
All figures of a table come from one run, so the ratios mean more than the times: the same machine on another day is faster or slower by
a factor of two. Below 1 under "times ours", the peer is the faster one.
X
	for s in "${all[@]}"; do
		[ ! -e "$kept/$s.md" ] || cat "$kept/$s.md"
	done
} >"$top/bench/README.md"
say "bench/README.md is written"
