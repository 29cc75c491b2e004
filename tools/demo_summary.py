#!/usr/bin/env python3
"""What ./run demo prints about a job, from `d2g describe --json` and the shards' metrics.

  demo_summary.py state|export|prompts|shards-are-up < job.json
  demo_summary.py identity JOB_FILE MODELS
  demo_summary.py resuming BEFORE INTERRUPTED
  demo_summary.py verdict < job.json
  demo_summary.py counts BEFORE INTERRUPTED AFTER CLUSTER
  demo_summary.py times AFTER BUILT READY STOPPING STOPPED

BEFORE is the job when this run began, INTERRUPTED as an interrupted run last saw it (need not exist),
AFTER at the end. Needs only Python's standard library.
"""

import datetime
import hashlib
import http.client
import json
import os
import pathlib
import re
import sys
import time
import urllib.request

# A shard that was killed is back within seconds.
SCRAPE_PATIENCE_SECONDS = 30
SCRAPE_PAUSE_SECONDS = 0.5


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def stage(job, name):
    for entry in job["stages"]:
        if entry["stage"] == f"STAGE_{name}":
            return entry
    return {"done": "0", "total": "0"}


def done(job, name):
    return int(stage(job, name)["done"])


def seconds(timestamp):
    text = re.sub(r"\.(\d{1,6})\d*Z$", lambda m: f".{m.group(1):0<6}+00:00", timestamp)
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def duration(value):
    return f"{int(value) // 60} min {value % 60:04.1f} s" if value >= 60 else f"{value:.1f} s"


def identity(job_path, models_path):
    """Twelve hex digits that change when the job file or a model does."""
    digest = hashlib.sha256(pathlib.Path(job_path).read_bytes())
    models = pathlib.Path(models_path)
    for path in sorted(p for p in models.rglob("*") if p.is_file() and p.suffix not in (".md", ".png")):
        digest.update(f"{path.relative_to(models)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def repeated_steps(before, interrupted):
    """Steps that had been done when the last run was interrupted, but not saved."""
    if interrupted is None or interrupted["name"] != before["name"]:
        return 0
    return max(0, done(interrupted, "TRAIN") - int(before["checkpoint_step"]))


def resuming(before_path, interrupted_path):
    before = load(before_path)
    interrupted = load(interrupted_path) if os.path.exists(interrupted_path) else None
    triples = done(before, "SIMULATE")
    if before["state"] == "STATE_SUCCEEDED":
        print(f"{before['name']} is done already; ./run demo --fresh starts anew")
    elif triples or int(before["checkpoint_step"]):
        print(f"going on with {before['name']}: {triples} triples are there, last checkpoint at step "
              f"{before['checkpoint_step']}, {repeated_steps(before, interrupted)} steps to repeat")
    else:
        print(f"{before['name']} is new")


def scrape(address, name):
    """Sum over labels of a metric that a process serves."""
    deadline = time.monotonic() + SCRAPE_PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            break
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"demo_summary: {address} does not answer: {error}") from error
            time.sleep(SCRAPE_PAUSE_SECONDS)
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", text, re.M)
    if not values:
        raise SystemExit(f"demo_summary: {address} serves no {name}")
    return int(sum(float(v) for v in values))


def apart(a, b):
    """Least and greatest distance between a point of one interval and one of the other."""
    least = max(0.0, float(a["low"]) - float(b["high"]), float(b["low"]) - float(a["high"]))
    return least, max(float(a["high"]) - float(b["low"]), float(b["high"]) - float(a["low"]))


# Measure -> whether the student's interval is on the better side of the single step's, not touching it.
BEATS = {
    "frechet_distance": lambda student, single, target: float(student["high"]) < float(single["low"]),
    "class_agreement": lambda student, single, target: float(student["low"]) > float(single["high"]),
    "paired_distance": lambda student, single, target: float(student["high"]) < float(single["low"]),
    # Neither more nor less is better: what counts is how near to the many-step teacher's.
    "diversity": lambda student, single, target: apart(student, target)[1] < apart(single, target)[0],
}


def verdict(evaluation):
    """One line: on which measures the student beats the teacher's single step beyond the intervals."""
    models = {row["model"]: {m["name"]: m for m in row["measures"]} for row in evaluation["rows"]}
    full = next((figures for model, figures in models.items() if re.fullmatch(r"teacher_(?!1$)\d+", model)), None)
    if full is None or "teacher_1" not in models or "student_1" not in models:
        return "the evaluation has no single step of the teacher to compare the student with"
    student, single = models["student_1"], models["teacher_1"]
    measured = [name for name in BEATS if all(name in figures for figures in (student, single, full))]
    beaten = [name for name in measured if BEATS[name](student[name], single[name], full[name])]
    text = "the student beats one step of the teacher beyond the 95 % intervals on: "
    text += ", ".join(beaten) or "nothing"
    if len(beaten) < len(measured):
        text += "; not on: " + ", ".join(name for name in measured if name not in beaten)
    return text.replace("_", " ")


def counts(before_path, interrupted_path, after_path, cluster_path):
    before, after = load(before_path), load(after_path)
    interrupted = load(interrupted_path) if os.path.exists(interrupted_path) else None
    total, reused = done(after, "SIMULATE"), done(before, "SIMULATE")
    shards = [p for p in load(cluster_path)["processes"] if p["name"].startswith("store-")]
    twice = f"{sum(scrape(s['admin'], 'd2g_store_repeated_appends_total') for s in shards)} stored twice"
    # Read again: a shard may have been started again meanwhile.
    cluster = load(cluster_path)
    if any(p["restarts"] for p in cluster["processes"] if p["name"].startswith("store-")):
        twice += " since the shards last started"
    steps, first = done(after, "TRAIN"), int(before["checkpoint_step"])
    restarts = sum(p["restarts"] for p in cluster["processes"])
    print(f"triples: {total} in all, {total - reused} sealed in this run, {reused} reused, {twice}")
    print(f"training: {steps} steps in all, {steps - first} in this run from step {first}, "
          f"{repeated_steps(before, interrupted)} repeated since the last checkpoint of an interrupted run")
    if restarts:
        print(f"processes started again in this run: {restarts}")
    if total - reused == 0 and steps - first == 0:
        print("(all of it was done by an earlier run)")


def times(after_path, built, ready, stopping, stopped):
    job = load(after_path)
    built, ready, stopping, stopped = float(built), float(ready), float(stopping), float(stopped)
    rows = [("cluster start", ready - built)]
    first = None
    for name in ("SIMULATE", "TRAIN", "EXPORT", "EVALUATE"):
        entry = stage(job, name)
        if not entry.get("start_time") or not entry.get("end_time"):
            continue
        begin, end = seconds(entry["start_time"]), seconds(entry["end_time"])
        first = begin if first is None else min(first, begin)
        made = int(entry["done"]) - int(entry.get("reused", 0))
        unit = f"{made / (end - begin):.1f} {entry['unit']}/s" if made > 0 and end > begin else ""
        rows.append((name.lower(), end - begin, unit))
    rows.append(("cluster stop", stopped - stopping))
    print("\nwhere the time went (stages may overlap)")
    for name, took, *note in rows:
        print(f"  {name:<14} {duration(took):>14}  {'  '.join(note)}")
    print(f"  {'this run':<14} {duration(stopped - built):>14}  after building")
    if first is not None and first < built:
        print("  (stages that an earlier run began include the time between the runs)")


def main():
    command, *arguments = sys.argv[1:] or [""]
    if command == "resuming":
        resuming(*arguments)
    elif command == "identity":
        print(identity(*arguments))
    elif command == "counts":
        counts(*arguments)
    elif command == "times":
        times(*arguments)
    elif command == "verdict":
        print(verdict(json.load(sys.stdin)["evaluation"]))
    elif command in ("state", "export", "prompts", "shards-are-up"):
        job = json.load(sys.stdin)
        if command == "state":
            print(job["state"])
        elif command == "export":
            print(job["export"]["path"])
        elif command == "prompts":
            print(job["spec"]["prompts"]["path"])
        else:
            return 1 if any("shards down" in note for note in job["health"]) else 0
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
