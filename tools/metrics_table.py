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


def families(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.M))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        labels = set()
        for line in re.findall(rf"^{name}(?:_bucket|_sum|_count)?\{{([^}}]*)\}}", text, re.M):
            labels |= set(re.findall(r"(\w+)=", line)) - {"le"}
        yield name, kind, ", ".join(sorted(labels)), helps.get(name, "")


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
