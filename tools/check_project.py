#!/usr/bin/env python3
"""The project's own checks, which no general tool knows. Prints one line a finding; exit code 1 if any.

  tools/check_project.py [CHECK ...]     all checks, or the named ones

Needs nothing but Python's standard library and git.
"""

import os
import re
import subprocess
import sys


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Folders whose code may include LibTorch (tests mirror them).
TORCH_FOLDERS = tuple(
    f"{prefix}{name}/"
    for prefix in ("", "tests/")
    for name in ("model", "worker/common", "worker/distil", "worker/collective", "worker/simulate", "worker/evaluate",
                 "worker/export", "worker/rank", "worker/main")
) + ("bench/", "tests/testing/torch/")
# Within them, what services use too.
TORCH_FREE = tuple(f"{prefix}model/{name}/" for prefix in ("", "tests/")
                   for name in ("files", "config", "pipeline", "check", "tokenizer", "folder"))
TORCH_HEADER = re.compile(r'#include\s*[<"](torch/|ATen/|c10/|caffe2/|model/torch_pch)')

# The house, from the ground up: a folder, and the folders whose headers it may include beside its own. A folder
# stands below those that name it, so no arrow runs up and there is no circle. Folders below a named one belong to
# it unless they are named themselves. docs/architecture.md has the same order.
BASE = ("d2g", "services/files", "services/common")
DATA = BASE + ("services/dataset",)
CLIENTS = DATA + ("services/store/client", "coordinator/client")
FACTS = ("model/files", "model/config", "model/tokenizer", "model/solver", "model/pipeline")
MODEL = FACTS + ("model/weights", "model/kernels", "model/network")
NETWORKS = ("services/dataset", "model", "model/check", "worker/common") + MODEL
TASK = CLIENTS + NETWORKS + ("model/folder", "worker/lease", "worker/distil")
LAYERS = {
    "d2g": (),
    "services/files": (),
    "services/common": ("d2g", "services/files"),
    "services/dataset": BASE,
    "services/spec": DATA + ("model/solver",),
    "services/store/client": DATA,
    "services/store": DATA + ("services/store/client",),
    "model/files": (),
    "model/config": ("model/files",),
    "model/pipeline": ("model/files", "model/config", "model/tokenizer", "model/solver"),
    "model/check": FACTS,
    "model/weights": ("services/files", "model/files"),
    "model/tokenizer": ("model/files",),
    "model/solver": ("model/files",),
    "model/kernels": ("model/files", "model/weights"),
    "model/network": ("model/files", "model/config", "model/weights", "model/kernels"),
    "model/folder": BASE + FACTS + ("model/check",),
    "model": ("services/files", "services/dataset") + MODEL,
    "model/tool": ("services/files", "services/dataset", "model", "model/check", "model/folder") + MODEL,
    "coordinator/client": BASE,
    "coordinator/rows": BASE + ("services/spec",),
    "coordinator/spec": DATA + ("services/spec", "model/folder"),
    "coordinator/state": DATA + ("services/spec", "coordinator/rows", "coordinator/spec"),
    "coordinator/decider": BASE + ("coordinator/rows", "coordinator/state"),
    "coordinator/rpc": DATA + ("services/spec", "coordinator/client", "coordinator/rows", "coordinator/spec", "coordinator/state",
                               "coordinator/decider"),
    "coordinator": BASE + ("coordinator/rows", "coordinator/state", "coordinator/decider", "coordinator/rpc"),
    "worker/common": ("d2g", "model", "model/files"),
    "worker/lease": BASE + ("coordinator/client", "worker/common"),
    "worker/gang": BASE + ("coordinator/client", "worker/common"),
    "worker/collective": ("model/files",),
    "worker/distil": BASE + NETWORKS,
    "worker/simulate": TASK,
    "worker/evaluate": TASK,
    "worker/export": TASK,
    "worker/rank": CLIENTS + NETWORKS + ("services/spec", "model/folder", "worker/gang", "worker/distil", "worker/collective"),
    "worker/main": TASK + ("worker/gang", "worker/simulate", "worker/evaluate", "worker/export", "worker/rank"),
    "cli": CLIENTS + ("services/spec", "model/folder"),
}
# What coordinator/state must not see: time, locks, threads and I/O are handed to it or left to others.
IMPURE_HEADER = re.compile(r'#include\s*[<"](absl/synchronization/|services/common/(clock|file_io|thread_pool|retry)|'
                           r"rocksdb/|grpcpp/|fstream|filesystem|mutex|thread|chrono|random)")
OUR_HEADERS = ("d2g/", "services/", "model/", "coordinator/", "worker/", "cli/", "tests/", "bench/")

MAX_LINES = 500
# Files that may be longer, each with its reason.
LONG_FILES = {
}

# Split so that this file does not contain what it looks for.
FORBIDDEN_WORDS = re.compile(
    "|".join(
        [
            r"\bTO" + r"DO\b",
            r"\bFIX" + r"ME\b",
            r"\bX" + r"XX\b",
            r"py" + r"pi\.org",
            r"python" + r"hosted\.org",
            r"npm" + r"js\.org",
            r"crates\." + r"io",
            r"deb\." + r"debian\.org",
            r"\bChat" + r"GPT\b",
            r"\bClau" + r"de\b",
            r"\blanguage" + r" model\b",
            r"\bcopi" + r"lot\b",
        ]
    ),
    re.IGNORECASE,
)
TEXT = (".cc", ".h", ".py", ".sh", ".md", ".proto", ".cmake", ".txt", ".yaml", ".yml", ".json", ".cu")


def tracked():
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")
    return sorted(p for p in out if p and os.path.isfile(os.path.join(ROOT, p)))


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def code(files, *endings):
    return [p for p in files if p.endswith(endings or (".cc", ".h"))]


def check_torch(files):
    """LibTorch headers stay behind a wall."""
    for path in code(files):
        if path.startswith(TORCH_FOLDERS) and not path.startswith(TORCH_FREE):
            continue
        for number, line in enumerate(read(path).split("\n"), 1):
            if TORCH_HEADER.match(line):
                yield f"{path}:{number}: includes LibTorch; only model and what computes with it may"


def layer_of(path):
    """The innermost folder of LAYERS that the file lies in, or None."""
    folder = os.path.dirname(path)
    while folder and folder not in LAYERS:
        folder = os.path.dirname(folder)
    return folder or None


def check_layers(files):
    """LAYERS has no circle, and no folder of its own that is not there."""
    done = set()
    for folder, below in LAYERS.items():
        for other in below:
            if other not in LAYERS:
                yield f"tools/check_project.py: {folder} may include {other}, which LAYERS does not have"
        if folder != "d2g" and not any(path.startswith(folder + "/") for path in files):
            yield f"tools/check_project.py: LAYERS has {folder}, which is not there"
    while len(done) < len(LAYERS):
        ready = [f for f, below in LAYERS.items() if f not in done and done.issuperset(below)]
        if not ready:
            yield f"tools/check_project.py: LAYERS runs in a circle: {sorted(set(LAYERS) - done)}"
            return
        done.update(ready)


def check_includes(files):
    """Dependencies point one way."""
    for path in code(files, ".cc", ".h", ".cu"):
        folder = layer_of(path)
        if folder is None:
            if path.startswith(OUR_HEADERS) and not path.startswith(("tests/", "bench/")):
                yield f"{path}: lies in no folder of LAYERS"
            continue
        for number, line in enumerate(read(path).split("\n"), 1):
            match = re.match(r'#include\s*"([^"]+)"', line)
            header = match.group(1) if match else ""
            if not header.startswith(OUR_HEADERS):
                continue
            other = layer_of(header)
            if other != folder and other not in LAYERS[folder]:
                yield f"{path}:{number}: {folder} must not include {header}"


def check_purity(files):
    """The coordinator's state knows no clock, lock, thread or I/O."""
    for path in code(files):
        if not path.startswith("coordinator/state/"):
            continue
        for number, line in enumerate(read(path).split("\n"), 1):
            if IMPURE_HEADER.match(line):
                yield f"{path}:{number}: the state is pure: no {line.split(maxsplit=1)[1]}"


def check_length(files):
    """Small files."""
    for path in code(files, ".cc", ".h", ".py", ".sh", ".proto", ".cmake"):
        lines = read(path).count("\n")
        if lines > MAX_LINES and path not in LONG_FILES:
            yield f"{path}: {lines} lines; split it by responsibility (at most {MAX_LINES})"
    for path in LONG_FILES:
        if path not in files or read(path).count("\n") <= MAX_LINES:
            yield f"tools/check_project.py: {path} needs no exception any more"


def check_words(files):
    """Words that do not belong into the tree."""
    for path in files:
        if not path.endswith(TEXT) or path.startswith("demo/") or "/vocab.json" in path:
            continue
        for number, line in enumerate(read(path).split("\n"), 1):
            match = FORBIDDEN_WORDS.search(line)
            if match:
                yield f"{path}:{number}: '{match.group(0)}' does not belong here"


def check_headers(files):
    """Every header is guarded by #pragma once and opens with a comment that says what it is for."""
    for path in code(files, ".h"):
        text = read(path)
        if "#pragma once" not in text:
            yield f"{path}: no #pragma once"
        if not text.startswith("//"):
            yield f"{path}: opens without a comment on its purpose"


def check_comments(files):
    """Comments are sentences or noun phrases, not what is left of "the limit of ..."."""
    for path in code(files, ".cc", ".h", ".cu", ".proto"):
        for number, line in enumerate(read(path).split("\n"), 1):
            if re.match(r"\s*// Of [a-z]", line) and not re.match(r"\s*//", read(path).split("\n")[number - 2]):
                yield f"{path}:{number}: a comment begins with 'Of': say what it is first"


PROTO_ITEM = re.compile(
    r"^\s*(?:(?:repeated|optional)\s+)?(?:map<[^>]+>|[\w.]+)\s+\w+\s*=\s*\d+\s*(?:\[[^\]]*\])?;|^\s*rpc\s|^\s*message\s|^\s*enum\s|^\s*service\s|^\s*oneof\s|^\s*[A-Z][A-Z0-9_]*\s*=\s*\d+;"
)


def check_protos(files):
    """A comment above each service, rpc, message, field and enum value."""
    for path in code(files, ".proto"):
        lines = read(path).split("\n")
        for i, line in enumerate(lines):
            if PROTO_ITEM.match(line) and not lines[i - 1].strip().startswith("//"):
                yield f"{path}:{i + 1}: no comment above: {line.strip()}"


def check_links(files):
    """Relative links in Markdown lead somewhere."""
    for path in code(files, ".md"):
        text = re.sub(r"```.*?```", "", read(path), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:|#", target):
                continue
            there = os.path.normpath(os.path.join(os.path.dirname(path), target.split("#")[0]))
            if not os.path.exists(os.path.join(ROOT, there)):
                yield f"{path}: link to {target} leads nowhere"


def check_scripts(files):
    """Shell scripts parse and are executable."""
    for path in code(files, ".sh") + [p for p in ("run", ".ci/run") if p in files]:
        full = os.path.join(ROOT, path)
        if not os.access(full, os.X_OK):
            yield f"{path}: not executable"
        result = subprocess.run(["bash", "-n", full], capture_output=True, text=True)
        if result.returncode:
            yield f"{path}: {result.stderr.strip()}"


METRIC = re.compile(r'"(d2g_[a-z0-9_]*[a-z0-9])"')
# The table of what ranks report, exported by their agents as d2g_rank_NAME.
RANK_FIGURES = "worker/common/rank_figures.h"


def metrics_in_code(files):
    """Name to the file that has it; and the figures of the table that no rank sets."""
    names, literals = {}, set()
    for path in code(files):
        if path.startswith(("tests/", "bench/", "cli/")):
            continue
        text = read(path)
        for name in METRIC.findall(text):
            names.setdefault(name, path)
        if path.startswith("worker/") and path != RANK_FIGURES:
            literals.update(re.findall(r'"([a-z0-9_]+)"', text))
    figures = re.findall(r'^    \{"([a-z0-9_]+)", "', read(RANK_FIGURES), re.M) if RANK_FIGURES in files else []
    names.update({f"d2g_rank_{figure}": RANK_FIGURES for figure in figures})
    return names, [figure for figure in figures if figure not in literals]


def check_metrics(files):
    """docs/metrics.md and the dashboards name the metrics that the code has, and no others."""
    names, idle = metrics_in_code(files)
    for figure in idle:
        yield f"{RANK_FIGURES}: no rank reports {figure}"
    if "docs/metrics.md" not in files:
        yield "docs/metrics.md is missing"
        return
    documented = set(re.findall(r"`(d2g_[a-z0-9_]+)`", read("docs/metrics.md")))
    for name in sorted(set(names) - documented):
        yield f"{names[name]}: {name} is missing in docs/metrics.md"
    for name in sorted(documented - set(names)):
        yield f"docs/metrics.md: no code makes {name}"
    for path in files:
        if not path.startswith("deploy/dashboards/"):
            continue
        for name in sorted(set(re.findall(r"\bd2g_[a-z0-9_]+", read(path)))):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            if base not in names and name not in names:
                yield f"{path}: no code makes {name}"


# Files that read the wall clock, because they write times for people or records.
WALL_CLOCK_FILES = (
    "services/common/clock.h",
    "services/common/deadline.cc",
    "services/common/log.cc",
    "services/common/metrics.cc",
    "services/common/rpc_server.cc",
    "services/store/shard_reporter.cc",
    "services/store/triple_service.cc",
    "cli/describe.cc",
    "cli/jobs.cc",
)
WALL_CLOCK = re.compile(r"absl::Now\(|system_clock::now|\w*WithDeadline\(")


def check_clock(files):
    """What measures or waits does not read the wall clock."""
    readers = set()
    for path in code(files):
        if not path.startswith(("services/", "coordinator/", "worker/", "cli/")):
            continue
        for number, line in enumerate(read(path).split("\n"), 1):
            match = WALL_CLOCK.search(line.split("//")[0])
            if match and path not in WALL_CLOCK_FILES:
                yield f"{path}:{number}: {match.group(0)} reads the wall clock; use services/common/deadline.h or clock.h"
            if match:
                readers.add(path)
    for path in sorted(set(WALL_CLOCK_FILES) - readers):
        yield f"tools/check_project.py: {path} needs no exception any more"


CHECKS = {
    name[len("check_"):]: function
    for name, function in list(globals().items())
    if name.startswith("check_") and callable(function)
}


def main():
    wanted = sys.argv[1:] or list(CHECKS)
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        print(f"check_project: unknown check {unknown[0]}; known: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    files = tracked()
    findings = 0
    for name in wanted:
        for line in CHECKS[name](files):
            findings += 1
            print(f"[{name}] {line}")
    print(f"check_project: {len(wanted)} checks over {len(files)} files, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
