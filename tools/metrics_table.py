#!/usr/bin/env python3
"""Collects every metric that a running cluster serves and writes the tables of docs/metrics.md.

  tools/metrics_table.py CLUSTER.json > tables.md

One table a kind of process, from the HELP and TYPE lines of /metrics.
"""

import json
import re
import sys
import urllib.request

KINDS = {"coordinator": "d2g-coordinator", "store": "d2g-store", "worker": "d2g-worker", "trainer": "d2g-trainer"}


# A rank's figures pass through its agent, which only knows their names. tools/check_project.py
# compares these with the code's.
RANK_FIGURES = {
    "allreduce_seconds_total": "Time in all-reduce",
    "checkpoint_seconds": "Time that the last checkpoint took",
    "d_accuracy": "Share of the batch that D tells right",
    "data_wait_seconds_total": "Time that steps waited for triples",
    "epoch": "Epoch of the batch order",
    "grad_norm_d": "Norm of D's gradient before clipping",
    "grad_norm_g": "Norm of G's gradient before clipping",
    "learning_rate": "Learning rate of G",
    "loss": "Loss of G in all",
    "loss_d": "Loss of D",
    "loss_features": "Distance in the latent network's features, unweighted",
    "loss_g_adv": "Adversarial term of G, unweighted",
    "loss_regression": "Pseudo-Huber term of G, unweighted",
    "not_finite_total": "Steps skipped because of NaN or infinity",
    "samples_total": "Samples trained on",
    "skipped_total": "Samples left out because their triple was bad",
    "step": "Optimiser steps done",
    "step_seconds": "Time of the last step",
    "step_seconds_total": "Time in steps, waiting included",
    "uncommitted_steps": "Steps done since the last committed checkpoint; rank 0 alone",
}


def families(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.M))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        labels = set()
        for line in re.findall(rf"^{name}(?:_bucket|_sum|_count)?\{{([^}}]*)\}}", text, re.M):
            labels |= set(re.findall(r"(\w+)=", line)) - {"le"}
        help_ = RANK_FIGURES.get(name.removeprefix("d2g_rank_"), helps.get(name, ""))
        yield name, kind, ", ".join(sorted(labels)), help_


def print_table(title, rows):
    print(f"## {title}\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |")
    for name, kind, labels, help_ in sorted(rows):
        print(f"| `{name}` | {kind} | {labels} | {help_.rstrip('.')} |")
    print()


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        processes = json.load(f)["processes"]
    tables = {}
    for process in processes:
        tables.setdefault(process["name"].split("-")[0], set()).update(families(process["admin"]))
    shared = set.intersection(*tables.values())
    print_table("Every process", shared)
    for kind, rows in tables.items():
        print_table(KINDS[kind], rows - shared)


if __name__ == "__main__":
    main()
