#!/usr/bin/env bash
# Checks format and the project's own rules, builds everything with warnings as errors and runs every
# test: ./run test [ctest arguments]     (preset ci, with D2G_CUDA=1 cuda)
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh format venv
jobs=${D2G_JOBS:-$(nproc)}
failed=0
tools/lint.sh --no-tidy || failed=1
start=$SECONDS
preset=ci
[ "${D2G_CUDA:-0}" = 0 ] || preset=cuda
cmake --preset "$preset" -DD2G_WERROR=ON
cmake --build --preset "$preset" -j "$jobs"
echo "built in $((SECONDS - start)) s"
tools/ctest.sh "$preset" "$@" || failed=1
[ $failed = 0 ] || { echo "test: failed" >&2; exit 1; }
