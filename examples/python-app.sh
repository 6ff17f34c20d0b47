#!/bin/sh
# Makes an image of a Python application and pushes it, without a builder: python-app.sh APP REF, where APP is a directory with a main.py.
# The same sources and packages give the same image, whoever runs it (docs/reproducible.md).
set -eu
app=$1 ref=$2 suite=${SUITE:-stable} box=build-$$
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$app" log -1 --format=%ct)}"
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=extract --include=python3-minimal,busybox-static "$suite" "$work/root"
layerctl import -m "Debian's python3-minimal" "$work/root" python:base
layerctl run --name "$box" python:base /bin/busybox sh -c 'busybox --install -s /bin && mkdir -p /srv'
layerctl cp "$app/." "$box:/srv/app"
layerctl commit -c 'USER 1000:1000' -c 'WORKDIR /srv/app' -c 'ENTRYPOINT ["python3", "main.py"]' "$box" "$ref"
layerctl rm "$box"
layerctl push "$ref"
