#!/usr/bin/env bash
# Builds and runs the benchmarks (preset release, with D2G_CUDA=1 cuda):
#   ./run bench [REGEX of names] [arguments of what is run]
# model is bench/model_bench.py, d2g beside diffusers; the others are programs.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh venv
jobs=${D2G_JOBS:-$(nproc)}
wanted=${1:-.}
[ $# -eq 0 ] || shift
preset=release
[ "${D2G_CUDA:-0}" = 0 ] || preset=cuda
cmake --preset "$preset" -DD2G_BENCH=ON -DD2G_TESTS=OFF >/dev/null
cmake --build --preset "$preset" -j "$jobs"
found=0
for program in "build/$preset"/bin/*_bench; do
  name=$(basename "$program")
  [ -x "$program" ] && [[ $name =~ $wanted ]] || continue
  found=1
  echo "== $name"
  if [ "$name" = model_bench ]; then
    "${D2G_CACHE:-$HOME/.cache/d2g}/venv/bin/python" bench/model_bench.py \
      --bin "build/$preset/bin" "$@"
  else
    "$program" "$@"
  fi
done
[ $found = 1 ] || { echo "bench: no benchmark matches '$wanted'" >&2; exit 1; }
