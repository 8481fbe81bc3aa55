#!/bin/sh
# Builds libpi0_edge_client, its examples and the programs of its tests with the oldest toolchain that is promised:
# protobuf 3.12.4 and gRPC 1.30.2, which Debian 11 has and Ubuntu 22.04 (JetPack 6), too. Needs root and debootstrap.
#
#   tools/old_cpp_toolchain.sh FOLDER        FOLDER becomes a Debian 11 (1 GB); the programs are in FOLDER/build after it
#
# DEBIAN_MIRROR names a mirror other than debootstrap's own.
set -eu
test $# -eq 1 || { echo "usage: $0 FOLDER" >&2; exit 2; }
folder=$1
repository=$(cd "$(dirname "$0")/.." && pwd)

if ! test -x "$folder/usr/bin/grpc_cpp_plugin"; then
    debootstrap --variant=minbase bullseye "$folder" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    chroot "$folder" sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
        --no-install-recommends cmake g++ make pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler \
        protobuf-compiler-grpc'
fi
rm -rf "$folder/source" "$folder/build"
mkdir -p "$folder/source"
(cd "$repository" && tar c clients/cpp protos pi0_edge/protos examples/cpp tests/clients/cpp/program) |
    tar x -C "$folder/source"
chroot "$folder" sh -eu -c '
    protoc --version
    pkg-config --modversion grpc++
    cd /source
    cmake -S clients/cpp -B /build/client -DPI0_EDGE_WARNINGS_AS_ERRORS=ON -DCMAKE_INSTALL_PREFIX=/build/installed
    cmake --build /build/client
    cmake --install /build/client
    for programs in examples/cpp tests/clients/cpp/program; do
        cmake -S $programs -B /build/$programs -DCMAKE_PREFIX_PATH=/build/installed
        cmake --build /build/$programs
    done'
