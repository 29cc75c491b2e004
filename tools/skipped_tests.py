#!/usr/bin/env python3
"""The GoogleTest cases that a run of ctest skipped, with their reasons: tools/skipped_tests.py LAST_TEST_LOG

ctest counts a program as passed whose other cases ran; this says which did not.
"""

import re
import sys

SKIP = re.compile(r": Skipped\n(?P<reason>[^\n]*)|^\[  SKIPPED \] (?P<case>\S+) \(\d+ ms\)$", re.M)


def skipped(log):
    """Pairs of case and reason, in the log's order."""
    cases, reason = [], ""
    for found in SKIP.finditer(log):
        if found["case"] is None:
            reason = found["reason"]
        else:
            cases.append((found["case"], reason or "no reason given"))
            reason = ""
    return cases


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        cases = skipped(log.read())
    print(f"skipped cases: {len(cases)}")
    for case, reason in cases:
        print(f"  {case}: {reason}")


if __name__ == "__main__":
    main()
