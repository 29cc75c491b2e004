#!/usr/bin/env bash
# Builds: tools/build.sh [PRESET]     default: release, with D2G_CUDA=1 cuda
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh
preset=release
[ "${D2G_CUDA:-0}" = 0 ] || preset=cuda
preset=${1:-$preset}
cmake --preset "$preset"
cmake --build --preset "$preset" -j "${D2G_JOBS:-$(nproc)}"
