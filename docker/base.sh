#!/usr/bin/env bash
# Build a Debian 12 base image with debootstrap, for a machine that reaches no container registry. Needs root, takes a
# minute.
#   docker/base.sh [NAME [MIRROR]]      NAME (montessori-base), MIRROR (this machine's mirror, or debootstrap's default)
# Then: make images BASE_IMAGE=NAME
set -euo pipefail

name=${1:-montessori-base}
docker=${DOCKER:-docker}
mirror=${2:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | head -1)}
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
quietly() { "$@" >"$root.log" 2>&1 || { cat "$root.log" >&2; exit 1; }; }

quietly debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"}
chmod 755 "$root"

sources=$root/etc/apt/sources.list
sed -i 's|//[^/@]*@|//|' "$sources" # keeps a password out of the image
mirror=$(awk '/^deb /{print $2; exit}' "$sources")
if wget -q --spider "$mirror-security/dists/bookworm-security/Release"; then
  echo "deb $mirror-security bookworm-security main" >>"$sources"
  quietly chroot "$root" sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get upgrade -qy'
fi
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* \
  "$root"/usr/share/{doc,man,locale,info}/*
tar -C "$root" -c . | "$docker" import --change 'CMD ["bash"]' - "$name"
