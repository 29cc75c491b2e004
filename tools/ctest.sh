#!/usr/bin/env bash
# Runs the tests of a preset that is built, then lists the cases that were skipped:
#   tools/ctest.sh PRESET [ctest arguments]
# Tests of full and read-only disks mount small volumes, which root may, and anyone in a user namespace
# where the system allows them.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: tools/ctest.sh PRESET [ctest arguments]}
shift
namespace=()
if [ "$(id -u)" != 0 ] && unshare --map-root-user --mount true 2>/dev/null; then
  namespace=(unshare --map-root-user --mount)
fi
log=build/$preset/Testing/Temporary/LastTest.log
rm -f "$log"
code=0
"${namespace[@]}" ctest --preset "$preset" "$@" || code=$?
[ ! -e "$log" ] || tools/skipped_tests.py "$log"
exit $code
