#!/usr/bin/env bash
# Builds everything with warnings as errors and runs every test: ./run test [ctest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh lint venv
jobs=${D2G_JOBS:-$(nproc)}
start=$SECONDS
cmake --preset ci
cmake --build --preset ci -j "$jobs"
echo "built in $((SECONDS - start)) s"
ctest --preset ci "$@"
