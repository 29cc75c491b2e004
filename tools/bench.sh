#!/usr/bin/env bash
# Builds and runs the benchmarks (preset release): ./run bench [REGEX of names]
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${D2G_JOBS:-$(nproc)}
wanted=${1:-.}
cmake --preset release -DD2G_BENCH=ON >/dev/null
cmake --build --preset release -j "$jobs"
found=0
for program in build/release/bin/*_bench; do
  [ -x "$program" ] && [[ $(basename "$program") =~ $wanted ]] || continue
  found=1
  echo "== $(basename "$program")"
  "$program"
done
[ $found = 1 ] || { echo "bench: no benchmark matches '$wanted'" >&2; exit 1; }
