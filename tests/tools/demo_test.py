"""./run demo end to end with a job small enough for a test: real teacher, real cluster.

The first run is killed (SIGKILL to ./run) while triples are being simulated; the second goes on
from there to the end. Checked: nothing is left running after the kill, sealed triples are not
simulated again, every triple is there once, the evaluation table is complete, the export and the
grid exist, at least eight metric families of every kind of process move, and a third run shows the
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
JOB = """
display_name: system-test
teacher: {{path: {models}/demo-teacher}}
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
  steps: 12
  global_batch: 8
  min_ranks: 2
  max_ranks: 2
  checkpoint_every: 4
  regression: {{pseudo_huber_weight: 1, features_weight: 0.2, features_path: {models}/demo-latent-features}}
  gan: {{weight: 0.05, discriminator_start_step: 4, start_step: 8, mismatch_weight: 0.25}}
evaluate: {{pictures: 64, evaluator_path: {models}/demo-evaluator}}
"""


class Scraper(threading.Thread):
    """Scrapes every process of the cluster until stopped; knows which families changed."""

    def __init__(self, cluster_file):
        super().__init__(daemon=True)
        self.cluster_file, self.stopped = cluster_file, threading.Event()
        # Processes scraped before; each series' first value; families that changed, by kind.
        self.seen, self.first, self.moved = set(), {}, {}

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
            if value != before:
                self.moved.setdefault(kind, set()).add(family)
        self.seen.add(name)


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
    models = SOURCE / "models"
    prompts = (models / "demo-prompts.txt").read_text().split("\n")[:20]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (folder / "job.yaml").write_text(JOB.format(models=models, dir=folder))
    env = dict(os.environ, D2G_DEMO_BIN=str(BIN), D2G_DEMO_DIR=str(folder / "demo"),
               D2G_DEMO_JOB=str(folder / "job.yaml"))
    cluster_file, seen = folder / "demo/data/cluster.json", folder / "demo/last-seen.json"

    with open(folder / "1.log", "w+") as log:
        first = start(env, log)

        def some_are_simulated():
            if first.poll() is not None:
                fail("the first run ended early", (folder / "1.log").read_text())
            return seen.exists() and int(json.loads(seen.read_text())["stages"][0]["done"]) >= 64

        wait_for(some_are_simulated, "64 triples", 240)
        pids = [p["pid"] for p in json.loads(cluster_file.read_text())["processes"]]
        sealed = int(json.loads(seen.read_text())["stages"][0]["done"]) - 32  # leased ones may not be sealed
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_for(lambda: not any(alive(p) for p in pids), "the end of a killed demo's processes", 90)

    scraper = Scraper(cluster_file)
    scraper.start()
    with open(folder / "2.log", "w+") as log:
        code = start(env, log).wait(timeout=900)
    scraper.stopped.set()
    scraper.join()
    output = (folder / "2.log").read_text()
    if code != 0:
        fail(f"the second run ended with {code}", output)
    for wanted in ("every triple of the job is there exactly once", "gap closed",
                   "teacher, 1 step", "student, 1 step", "frechet distance", "class agreement",
                   "paired distance", "diversity", "ms per picture", "where the time went"):
        if wanted not in output:
            fail(f"the second run does not say '{wanted}'", output)
    counts = re.search(r"triples: 256 in all, (\d+) simulated in this run, (\d+) reused, 0 stored twice$", output,
                       re.M)
    if not counts or int(counts[2]) < sealed or int(counts[1]) + int(counts[2]) != 256:
        fail(f"at least {sealed} triples should be reused and none stored twice", output)
    grid = re.search(r"side by side: (\S+)", output)
    if not grid or pathlib.Path(grid[1]).read_bytes()[:4] != b"\x89PNG":
        fail("no picture", output)
    export = re.search(r"diffusers folder: (\S+)", output)
    if not export or not (pathlib.Path(export[1]) / "model_index.json").exists():
        fail("no export", output)
    for kind in ("coordinator", "store", "worker", "trainer"):
        moved = scraper.moved.get(kind, set())
        print(f"{kind}: {len(moved)} metric families moved: {', '.join(sorted(moved))}")
        if len(moved) < MIN_FAMILIES:
            fail(f"{kind}: only {sorted(moved)} moved")

    with open(folder / "3.log", "w+") as log:
        third = start(env, log)

        def says(text):
            if third.poll() is not None and text not in (folder / "3.log").read_text():
                fail(f"the third run ended before it said '{text}'", (folder / "3.log").read_text())
            return text in (folder / "3.log").read_text()

        wait_for(lambda: says("cluster is up"), "the third start", 60)
        os.kill(shard(cluster_file), signal.SIGKILL)
        if third.wait(timeout=300) != 0:
            fail("the third run failed", (folder / "3.log").read_text())
    output3 = (folder / "3.log").read_text()
    for wanted in (r"triples: 256 in all, 0 simulated in this run, 256 reused, 0 stored twice since the shards last started$",
                   r"^processes started again in this run: ", "every triple of the job is there exactly once"):
        if not re.search(wanted, output3, re.M):
            fail(f"the third run does not say '{wanted}'", output3)
    print(re.search(r"where the time went.*", output, re.S)[0])
    shutil.rmtree(folder)


main()
