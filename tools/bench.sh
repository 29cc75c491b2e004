#!/usr/bin/env bash
# Builds and runs the benchmarks (preset release, with D2G_CUDA=1 cuda): ./run bench [REGEX of names]
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh venv
jobs=${D2G_JOBS:-$(nproc)}
wanted=${1:-.}
preset=release
[ "${D2G_CUDA:-0}" = 0 ] || preset=cuda
cmake --preset "$preset" -DD2G_BENCH=ON >/dev/null
cmake --build --preset "$preset" -j "$jobs"
found=0
for program in "build/$preset"/bin/*_bench; do
  [ -x "$program" ] && [[ $(basename "$program") =~ $wanted ]] || continue
  found=1
  echo "== $(basename "$program")"
  "$program"
done
[ $found = 1 ] || { echo "bench: no benchmark matches '$wanted'" >&2; exit 1; }
