#!/usr/bin/env bash
# Tests under AddressSanitizer+UBSan and ThreadSanitizer, and clang's lock annotations as errors:
#   ./run sanitize [asan] [tsan] [thread-safety]     default: all three
set -euo pipefail
cd "$(dirname "$0")/.."
tools/bootstrap.sh lint venv
jobs=${D2G_JOBS:-$(nproc)}
[ $# -gt 0 ] || set -- thread-safety asan tsan
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-suppressions=$PWD/tools/tsan.supp history_size=4 ignore_noninstrumented_modules=1}
failed=()
for preset in "$@"; do
  echo "== $preset"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -j "$jobs"
  # The annotations are checked by compiling; the other two run the tests.
  [ "$preset" = thread-safety ] || tools/ctest.sh "$preset" -j "$jobs" || failed+=("$preset")
done
[ ${#failed[@]} = 0 ] || { echo "sanitize: failed: ${failed[*]}" >&2; exit 1; }
echo "sanitize: all good"
