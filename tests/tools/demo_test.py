"""./run demo end to end with a job small enough for a test: real teacher, real cluster.

The first run is killed (SIGKILL to ./run) while triples are being simulated, the second once training
has a checkpoint; the third goes on from there to the end. Checked: nothing is left running after a
kill, sealed triples are not simulated again, training goes on from the checkpoint and the steps it
repeats are counted, every triple is there once, the evaluation table is complete, the export and the
grid exist, at least eight metric families of every kind of process move, and a fourth run shows the
results without doing anything, although a shard is killed while it asks for them.

Run by ctest: demo_test.py SOURCE_DIR BIN_DIR
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

SOURCE, BIN = (pathlib.Path(a).resolve() for a in sys.argv[1:3])
MIN_FAMILIES = 8
STEPS, CHECKPOINT_EVERY = 24, 4
JOB = """
display_name: system-test
teacher: {{path: {models}/teacher}}
prompts: {{path: {dir}/prompts.txt}}
simulate:
  triples: 256
  block_size: 32
  holdout_every: 4
  min_triples: 256
  batch_size: 16
  task_size: 16
  seed: 3
  solver: {{kind: ddim, steps: 8, guidance: 3}}
train:
  steps: {steps}
  global_batch: 8
  min_ranks: 2
  max_ranks: 2
  checkpoint_every: {checkpoint_every}
  regression: {{pseudo_huber_weight: 1, features_weight: 0.2, features_path: {models}/latent-features}}
  gan: {{weight: 0.05, discriminator_start_step: 4, start_step: 8, mismatch_weight: 0.25}}
evaluate: {{pictures: 64, evaluator_path: {models}/evaluator}}
"""


class Scraper(threading.Thread):
    """Scrapes every process of the cluster until stopped; knows which families changed."""

    def __init__(self, cluster_file):
        super().__init__(daemon=True)
        self.cluster_file, self.stopped = cluster_file, threading.Event()
        # Processes scraped before; each series' first and last value; families that changed, by kind.
        self.seen, self.first, self.last, self.moved = set(), {}, {}, {}

    def run(self):
        while not self.stopped.wait(0.5):
            try:
                processes = json.loads(self.cluster_file.read_text())["processes"]
            except (OSError, ValueError):
                continue
            for process in processes:
                self.scrape(process["name"].split("-")[0], process["name"], process["admin"])

    def scrape(self, kind, name, address):
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return
        for series, value in re.findall(r"^(d2g_[^ ]+) (\S+)$", text, re.M):
            family = re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", series)
            # A series that a known process adds later began at 0.
            before = self.first.setdefault((name, series), "0" if name in self.seen else value)
            self.last[name, series] = value
            if value != before:
                self.moved.setdefault(kind, set()).add(family)
        self.seen.add(name)

    def stop(self):
        self.stopped.set()
        self.join()


def fail(message, output=""):
    sys.exit(f"FAIL: {message}\n{output}")


def wait_for(condition, what, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            fail(f"{what} did not happen in {seconds} s")
        time.sleep(0.05)


def start(env, log):
    return subprocess.Popen([SOURCE / "run", "demo"], env=env, stdout=log, stderr=subprocess.STDOUT)


def kill_once(condition, what, env, log_path, seen, cluster_file):
    """Starts ./run demo and kills it when condition(job as last seen) holds; what was then seen."""
    with open(log_path, "w") as log:
        run = start(env, log)

        def holds():
            if run.poll() is not None:
                fail(f"the run ended before {what}", log_path.read_text())
            return seen.exists() and condition(json.loads(seen.read_text()))

        wait_for(holds, what, 300)
        pids = [p["pid"] for p in json.loads(cluster_file.read_text())["processes"]]
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_for(lambda: not any(alive(p) for p in pids), "the end of a killed demo's processes", 90)
    return json.loads(seen.read_text())


def done(job, stage):
    return int(next(s["done"] for s in job["stages"] if s["stage"] == f"STAGE_{stage}"))


def shard(cluster_file):
    """Process id of the first shard."""
    return next(p["pid"] for p in json.loads(cluster_file.read_text())["processes"] if p["name"] == "store-0")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="d2g-demo-test-"))
    models = SOURCE / "demo"
    prompts = (models / "prompts.txt").read_text().split("\n")[:20]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (folder / "job.yaml").write_text(JOB.format(models=models, dir=folder, steps=STEPS,
                                                 checkpoint_every=CHECKPOINT_EVERY))
    env = dict(os.environ, D2G_DEMO_BIN=str(BIN), D2G_DEMO_DIR=str(folder / "demo"),
               D2G_DEMO_JOB=str(folder / "job.yaml"))
    cluster_file, seen = folder / "demo/data/cluster.json", folder / "demo/last-seen.json"

    simulating = kill_once(lambda job: done(job, "SIMULATE") >= 64, "64 triples", env, folder / "1.log", seen,
                           cluster_file)
    sealed = done(simulating, "SIMULATE") - 32  # leased ones may not be sealed

    interrupted = Scraper(cluster_file)
    interrupted.start()
    training = kill_once(lambda job: int(job["checkpoint_step"]) > 0, "a checkpoint", env, folder / "2.log", seen,
                         cluster_file)
    interrupted.stop()
    output2 = (folder / "2.log").read_text()
    found = re.search(r"^going on with jobs/\S+: (\d+) triples are there, last checkpoint at step 0, 0 steps to "
                      r"repeat$", output2, re.M)
    if not found or int(found[1]) < sealed:
        fail(f"the second run should go on with at least {sealed} triples", output2)
    twice = {key: value for key, value in interrupted.last.items() if "repeated_appends" in key[1]}
    if not twice or any(float(value) for value in twice.values()):
        fail(f"the second run stored triples twice: {twice}", output2)

    scraper = Scraper(cluster_file)
    scraper.start()
    with open(folder / "3.log", "w") as log:
        code = start(env, log).wait(timeout=900)
    scraper.stop()
    output = (folder / "3.log").read_text()
    if code != 0:
        fail(f"the third run ended with {code}", output)
    for wanted in ("every triple of the job is there exactly once", "gap closed",
                   "teacher, 8 steps", "teacher, 1 step", "student, 1 step", "frechet distance", "class agreement",
                   "paired distance", "diversity", "ms per picture", "where the time went"):
        if wanted not in output:
            fail(f"the third run does not say '{wanted}'", output)
    if not re.search(r"^triples: 256 in all, 0 sealed in this run, 256 reused, 0 stored twice$", output, re.M):
        fail("every triple should be reused and none stored twice", output)
    steps = re.search(r"^training: (\d+) steps in all, (\d+) in this run from step (\d+), (\d+) repeated since the "
                      r"last checkpoint of an interrupted run$", output, re.M)
    if not steps:
        fail("the third run does not count steps", output)
    total, made, first, repeated = map(int, steps.groups())
    if (total != STEPS or first < int(training["checkpoint_step"]) or first + made != total or made == 0
            or repeated != max(0, done(training, "TRAIN") - first)):
        fail(f"training was interrupted at step {done(training, 'TRAIN')}, with a checkpoint at "
             f"{training['checkpoint_step']}, of {STEPS}", output)
    grid = re.search(r"side by side: (\S+)", output)
    if not grid or pathlib.Path(grid[1]).read_bytes()[:4] != b"\x89PNG":
        fail("no picture", output)
    export = re.search(r"diffusers folder: (\S+)", output)
    if not export or not (pathlib.Path(export[1]) / "model_index.json").exists():
        fail("no export", output)
    if not re.search(r"^the student beats one step of the teacher beyond the 95 % intervals on: ", output, re.M):
        fail("no verdict", output)
    for kind in ("coordinator", "store", "worker", "trainer"):
        moved = scraper.moved.get(kind, set()) | interrupted.moved.get(kind, set())
        print(f"{kind}: {len(moved)} metric families moved: {', '.join(sorted(moved))}")
        if len(moved) < MIN_FAMILIES:
            fail(f"{kind}: only {sorted(moved)} moved")

    with open(folder / "4.log", "w+") as log:
        fourth = start(env, log)

        def says(text):
            if fourth.poll() is not None and text not in (folder / "4.log").read_text():
                fail(f"the fourth run ended before it said '{text}'", (folder / "4.log").read_text())
            return text in (folder / "4.log").read_text()

        wait_for(lambda: says("cluster is up"), "the fourth start", 60)
        os.kill(shard(cluster_file), signal.SIGKILL)
        if fourth.wait(timeout=300) != 0:
            fail("the fourth run failed", (folder / "4.log").read_text())
    output4 = (folder / "4.log").read_text()
    for wanted in (r"triples: 256 in all, 0 sealed in this run, 256 reused, 0 stored twice since the shards last "
                   r"started$", r"^processes started again in this run: ",
                   "every triple of the job is there exactly once"):
        if not re.search(wanted, output4, re.M):
            fail(f"the fourth run does not say '{wanted}'", output4)
    print(re.search(r"where the time went.*", output, re.S)[0])
    shutil.rmtree(folder)


main()
