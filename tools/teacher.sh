#!/usr/bin/env bash
# Makes the demo teacher, its evaluator and its latent features anew, into demo/ or another folder:
# ./run teacher [--models DIR]
#
# Hours on two cores. Finished stages are kept in DEMO_TEACHER_WORK (default ~/.cache/d2g/demo-teacher-work) and
# skipped by the next run. DEMO_TEACHER_SHARE=0.01 trains each stage for a hundredth of its steps, to try the whole.
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
"$tools/bootstrap.sh" venv dataset
PYTHONPATH=$tools exec "${D2G_CACHE:-$HOME/.cache/d2g}/venv/bin/python" -m demo_teacher.make "$@"
