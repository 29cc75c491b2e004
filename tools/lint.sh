#!/usr/bin/env bash
# Format, static analysis and the project's own checks: ./run lint [--all | --changed] [--no-tidy]
#   --changed  clang-tidy only on .cc files that differ from main (default)
#   --all      clang-tidy on every .cc file of the services, coordinator, agent and command line
#   --fix      let clang-format write
set -euo pipefail
cd "$(dirname "$0")/.."
scope=changed tidy=1 fix=0
for argument in "$@"; do
  case $argument in
    --all) scope=all ;;
    --changed) scope=changed ;;
    --no-tidy) tidy=0 ;;
    --fix) fix=1 ;;
    *) echo "lint: unknown argument '$argument' (--all, --changed, --no-tidy, --fix)" >&2; exit 2 ;;
  esac
done
if [ $tidy = 1 ]; then tools/bootstrap.sh lint; else tools/bootstrap.sh format; fi
jobs=${D2G_JOBS:-$(nproc)}
failed=0

echo "== format"
mapfile -t sources < <(git ls-files --cached --others --exclude-standard '*.cc' '*.h')
[ ${#sources[@]} -gt 0 ] || { echo "lint: git lists no sources here" >&2; exit 1; }
if [ $fix = 1 ]; then
  clang-format -i "${sources[@]}"
fi
if report=$(clang-format --dry-run -Werror "${sources[@]}" 2>&1); then
  echo "${#sources[@]} files are formatted"
else
  failed=1
  bad=$(sed -n 's/:[0-9]*:[0-9]*: error:.*//p' <<<"$report" | sort -u)
  if [ -n "$bad" ]; then
    printf '%s\n' "$bad" "lint: these are not formatted; run tools/lint.sh --fix --no-tidy" >&2
  else
    printf 'lint: clang-format failed: %s\n' "$report" >&2
  fi
fi

echo "== project"
tools/check_project.py || failed=1

if [ $tidy = 1 ]; then
  echo "== clang-tidy ($scope)"
  # Files that see LibTorch take minutes each and are left to the compilers' warnings.
  folders='^(services|coordinator|cli|worker/gang|worker/lease|model/files|model/folder)/.*\.cc$'
  if [ $scope = all ]; then
    mapfile -t files < <(git ls-files '*.cc' | grep -E "$folders" || true)
  else
    base=$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)
    mapfile -t files < <({ git diff --name-only --diff-filter=d "$base"; git ls-files --others --exclude-standard; } |
      sort -u | grep -E "$folders" || true)
  fi
  if [ ${#files[@]} -gt 0 ]; then
    # clang reads the compile commands of a clang build; generated protos must be there.
    cmake --preset thread-safety >/dev/null
    cmake --build --preset thread-safety --target d2g_proto -j "$jobs" >/dev/null
    printf '%s\n' "${files[@]}" |
      xargs -P "$jobs" -n 4 timeout 900 clang-tidy -p build/thread-safety --quiet 2>build/clang-tidy.log || failed=1
    echo "${#files[@]} files looked at"
  else
    echo "no file to look at"
  fi
fi
[ $failed = 0 ] && echo "lint: all good"
exit $failed
