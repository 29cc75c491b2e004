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


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        processes = json.load(f)["processes"]
    seen = set()
    for process in processes:
        kind = process["name"].split("-")[0]
        if kind in seen:
            continue
        seen.add(kind)
        print(f"## {KINDS[kind]}\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |")
        for name, type_, labels, help_ in sorted(families(process["admin"])):
            print(f"| `{name}` | {type_} | {labels} | {help_} |")
        print()


if __name__ == "__main__":
    main()
