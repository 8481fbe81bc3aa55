#!/bin/sh
# Installs the Debian packages that building, simulating and testing need, where any of them is missing.
# PYTHON: the interpreter that will be used; one that brings its own venv needs no python3-venv.
set -eu

packages="qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi gcc g++ libc6-dev make cppcheck libcmocka-dev
          libegl1 libgl1 libgl1-mesa-dri openssh-client rsync systemd-container mmdebstrap e2fsprogs qemu-system-common
          gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross"
"${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3 python3-venv"

if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian or Ubuntu: nothing is installed here. Needed are the equivalents of:" $packages
    exit 0
fi

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

install="apt-get install --yes --no-install-recommends$missing"
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "Missing:$missing. Neither root nor sudo: have an administrator run: $install" >&2
        exit 1
    fi
    sudo="sudo"
fi

echo "installing system packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# On a fresh machine the package lists are empty, and the first try fails at once.
${sudo:-} $install >/dev/null 2>&1 || { ${sudo:-} apt-get update && ${sudo:-} $install; } || {
    echo "Could not install:$missing. See the message above, then run: ${sudo:+sudo }$install" >&2
    exit 1
}
