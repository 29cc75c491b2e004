#!/usr/bin/env bash
# The whole service on this machine: ./run demo [--fresh]
#
# Builds, starts a local cluster (coordinator, two store shards, two workers, a trainer with two
# ranks; all separate processes on loopback), distils the demo teacher into a one-step student and
# prints what came of it. Interrupt it at any moment and run it again: it goes on where it was. Once
# it is done, running it again shows the results; --fresh forgets everything and starts anew.
#
# D2G_DEMO_DIR (default build/demo) keeps everything; D2G_DEMO_JOB (default deploy/jobs/demo.yaml) is
# the job file; D2G_JOBS limits parallel compilations; D2G_CUDA=1 builds with CUDA and D2G_DEMO_DEVICE
# (default cpu; cuda:0 or auto) is the device then used. A rank needs a GPU of its own: with one GPU
# there is one rank.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=0
for argument in "$@"; do
  case $argument in
    --fresh) fresh=1 ;;
    *) echo "demo: unknown argument '$argument' (only --fresh is known)" >&2; exit 2 ;;
  esac
done
dir=$(realpath -m "${D2G_DEMO_DIR:-build/demo}")
job_file=${D2G_DEMO_JOB:-deploy/jobs/demo.yaml}
preset=release
[ "${D2G_CUDA:-0}" = 0 ] || preset=cuda
bin=${D2G_DEMO_BIN:-$PWD/build/$preset/bin}
data=$dir/data
device=${D2G_DEMO_DEVICE:-cpu}
ranks=2
if [ "$device" != cpu ]; then
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
  [ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
  [ "$gpus" != 1 ] || ranks=1
fi
now() { date +%s.%N; }
# Runs a command again while it ends with 4, cannot reach: a process that was killed is back within
# seconds.
patiently() {
  local code deadline=$((SECONDS + 60))
  while code=0; "$@" || code=$?; [ $code = 4 ] && [ $SECONDS -lt $deadline ]; do
    sleep 1
  done
  return $code
}

if [ -z "${D2G_DEMO_BIN:-}" ]; then
  tools/bootstrap.sh
  echo "== build"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -j "${D2G_JOBS:-$(nproc)}" \
    --target d2g d2g-coordinator d2g-store d2g-worker d2g-trainer d2g-rank d2g-model
fi
built=$(now)

mkdir -p "$dir"
exec 9>"$dir/lock"
flock -n 9 || { echo "demo: another ./run demo is at work in $dir" >&2; exit 1; }
# A cluster that an interrupted run left behind is on its way out; wait for it.
"$bin/d2g" down --data-dir "$data" >/dev/null
if [ $fresh = 1 ]; then
  rm -rf "$data" "$dir/output" "$dir/attempt" "$dir/last-seen.json"
fi

echo "== cluster"
: >"$dir/up.log"
"$bin/d2g" up --exit-with-parent --data-dir "$data" --shards 2 --workers 2 --slots $ranks --threads 1 \
  --device "$device" >>"$dir/up.log" 2>&1 9>&- &
up=$!
watcher=
stop_cluster() {
  [ -z "$watcher" ] || kill -TERM "$watcher" 2>/dev/null || true
  kill -TERM "$up" 2>/dev/null || return 0
  wait "$up" 2>/dev/null || true
}
finished=0
leave() {
  local code=$?
  trap - EXIT INT TERM
  stop_cluster
  if [ $finished = 0 ]; then
    echo
    echo "demo: not finished; ./run demo goes on from here (logs: $data/logs)"
  fi
  exit $code
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
while ! grep -q '^stop it with' "$dir/up.log"; do
  kill -0 "$up" 2>/dev/null || { cat "$dir/up.log" >&2; exit 1; }
  sleep 0.1
done
cat "$dir/up.log"
ready=$(now)

# The same job file and models give the same job, so that a second run goes on with the first one's. A
# job that failed or was cancelled is left alone: the next attempt is a new job on the same triples.
spec=$(tools/demo_summary.py identity "$job_file" demo)
overrides=()
if [ $ranks = 1 ]; then
  spec=$spec-1-rank
  overrides=(--set train.min_ranks=1 --set train.max_ranks=1)
fi
attempt=$(cat "$dir/attempt" 2>/dev/null || echo 1)
export D2G_DATA_DIR=$data
unset D2G_COORDINATOR
submit() {
  "$bin/d2g" submit "$job_file" "${overrides[@]}" --set "output_dir=$dir/output/$spec-$attempt" \
    --request-id "demo-$spec-$attempt"
}
job=$(submit)
state=$("$bin/d2g" describe "$job" --json | tools/demo_summary.py state)
if [ "$state" = STATE_FAILED ] || [ "$state" = STATE_CANCELLED ]; then
  echo "$job ended as $state; submitting a new one"
  attempt=$((attempt + 1))
  job=$(submit)
  rm -f "$dir/last-seen.json"
fi
echo "$attempt" >"$dir/attempt"

# What was there before this run: read once the shards have reported what they hold.
for _ in $(seq 100); do
  "$bin/d2g" describe "$job" --json >"$dir/before.json"
  tools/demo_summary.py shards-are-up <"$dir/before.json" && break
  sleep 0.2
done
[ ! -e "$dir/last-seen.json" ] || cp "$dir/last-seen.json" "$dir/interrupted.json"
[ -e "$dir/last-seen.json" ] || rm -f "$dir/interrupted.json"
tools/demo_summary.py resuming "$dir/before.json" "$dir/interrupted.json"

echo "== job (Ctrl-C stops here; ./run demo goes on)"
code=0
# In the background, because bash runs traps only between foreground commands.
"$bin/d2g" watch "$job" --exit-with-parent --state-file "$dir/last-seen.json" 9>&- &
watcher=$!
wait "$watcher" || code=$?
watcher=
patiently "$bin/d2g" describe "$job" --json >"$dir/after.json"
if [ $code != 0 ]; then
  finished=1
  echo "demo: $job did not succeed; logs: $data/logs" >&2
  exit $code
fi

echo "== result"
patiently "$bin/d2g" describe "$job" --section evaluation
tools/demo_summary.py verdict <"$dir/after.json"
patiently "$bin/d2g" verify "$job"
tools/demo_summary.py counts "$dir/before.json" "$dir/interrupted.json" "$dir/after.json" "$data/cluster.json"
stopping=$(now)
finished=1
stop_cluster
tools/demo_summary.py times "$dir/after.json" "$built" "$ready" "$stopping" "$(now)"
echo "the student is a diffusers folder: $(tools/demo_summary.py export <"$dir/after.json")"
echo "try it: $bin/d2g generate --model $(tools/demo_summary.py export <"$dir/after.json") --prompt '$(head -1 "$(tools/demo_summary.py prompts <"$dir/after.json")")' --seed 7 --out picture.png"
trap - EXIT
