#!/usr/bin/env bash
# Build an image with buildah, without a Docker daemon and without a registry of images, and run its smoke test once
# more as another user. As root, on Debian: apt-get install buildah debootstrap
#   docker/build_local.sh cpu
#   WHEELS=/folder/of/wheels docker/build_local.sh gpu
# BASE      image to build on (default: Debian 12 by debootstrap, made once as localhost/asgc-base)
# MIRROR    Debian's mirror for that
# PIP_CONF  pip's configuration for the build only (its index, ...); CERTS: folder of certificates, likewise
# WHEELS    folder with wheels for pip to find: torch's build without CUDA, or all of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
variant=${1:?cpu or gpu}
base=${BASE:-localhost/asgc-base}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ -z "${BASE:-}" ] && ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    debootstrap --variant=minbase --include=python3,python3-venv,python3-dev,ca-certificates bookworm \
        "$scratch/root" "${MIRROR:-http://deb.debian.org/debian}" > "$scratch/debootstrap.log" \
        || { tail "$scratch/debootstrap.log"; exit 1; }
    rm -rf "$scratch"/root/var/cache/apt/archives/*.deb "$scratch"/root/var/lib/apt/lists/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$scratch/root" /
    buildah commit --quiet --rm "$container" "$base"
fi

options=(--build-arg "BASE=$base" --build-arg "VARIANT=$variant")
[ -z "${PIP_CONF:-}" ] || options+=(--volume "$PIP_CONF:/etc/pip.conf:ro")
[ -z "${CERTS:-}" ] || options+=(--volume "$CERTS:/etc/ssl/certs:ro")
[ -z "${WHEELS:-}" ] || options+=(--volume "$WHEELS:/wheels:ro" --build-arg TORCH_WHEELS=/wheels)
buildah build --isolation chroot --layers --file docker/Dockerfile --tag "localhost/asgc:$variant" "${options[@]}" .

container=$(buildah from "localhost/asgc:$variant")
trap 'rm -rf "$scratch"; buildah rm "$container" > /dev/null' EXIT
buildah run --isolation chroot --user 12345:12345 "$container" -- sh /opt/asgc/smoke.sh
buildah images "localhost/asgc:$variant"
