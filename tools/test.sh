#!/usr/bin/env bash
# Builds everything with warnings as errors and runs every test: ./run test [ctest arguments]
# (preset ci, with D2G_CUDA=1 cuda)
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh lint venv
jobs=${D2G_JOBS:-$(nproc)}
start=$SECONDS
preset=ci
[ "${D2G_CUDA:-0}" = 0 ] || preset=cuda
cmake --preset "$preset" -DD2G_WERROR=ON
cmake --build --preset "$preset" -j "$jobs"
echo "built in $((SECONDS - start)) s"
ctest --preset "$preset" "$@"
