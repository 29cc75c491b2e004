"""Compares d2g with diffusers and transformers on random models in random configurations.

    ~/.cache/d2g/venv/bin/python tools/parity/parity.py KIND [--cases N] [--seed S] [--keep DIR]
        [--d2g build/ci/bin/d2g]

The reference is what the environment has installed: venv diffusers 0.35 and transformers 4,
venv-newest the newest of both, whose folders are then the ones that are read.

KIND is the name of a module beside this one without `_cases` (unet, text, tokenizer, vae, teacher).
Such a module has

    def cases(random):            # endless: configurations drawn from a random.Random
        yield name, config
    def compare(config, folder, d2g):
        # Makes the model in `folder` (an empty pathlib.Path), runs both sides.
        yield what, ours, theirs, limit      # numpy arrays or tensors; limit 0 means equal

and may have NAMED, a list of (name, config) that run before the drawn ones. A case passes when
max|ours - theirs| / max|theirs| is at most its limit. The last line says how many cases ran and the
largest difference; a failed case is printed with its configuration. Exit code 1 if any failed.
"""
import argparse
import importlib
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import traceback

import numpy


class Refused(Exception):
    """d2g ended with an error; the message is its last line."""


class D2g:
    """Runs the command line under test."""

    Refused = Refused  # for modules, which cannot import this one: it runs as __main__

    def __init__(self, program):
        self.program = str(program)

    def run(self, *arguments):
        """Returns standard output; raises Refused with what stderr says."""
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise Refused(f"exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def inspect(self, model):
        """What it says of a folder that it can run; raises Refused for one that it cannot."""
        by_itself = pathlib.Path(self.program).name == "d2g-model"
        words = ["inspect"] if by_itself else ["model", "inspect", "--no-digest"]
        return json.loads(self.run(*words, model, "--json"))

    def component(self, model, component, inputs, folder, *flags):
        """One network of a model folder on tensors; returns its outputs by name."""
        from safetensors.torch import load_file, save_file
        given, made = folder / f"{component}.in.safetensors", folder / f"{component}.out.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, given)
        self.run("component", "--model", model, "--component", component, "--inputs", given,
                 "--outputs", made, *flags)
        return load_file(made)


def difference(ours, theirs):
    """max|ours - theirs| / max|theirs|; infinite for another shape or anything not finite."""
    a, b = (numpy.asarray(x, dtype=numpy.float64) for x in (ours, theirs))
    if a.shape != b.shape or not numpy.isfinite(a).all() or not numpy.isfinite(b).all():
        return float("inf")
    scale = numpy.abs(b).max(initial=0)
    worst = numpy.abs(a - b).max(initial=0)
    return float(worst / scale) if scale > 0 else float(worst)


def run_case(module, name, config, d2g, folder):
    """Returns (largest difference, what went wrong or None)."""
    worst = 0.0
    try:
        for what, ours, theirs, limit in module.compare(config, folder, d2g):
            found = difference(ours, theirs)
            worst = max(worst, found)
            if not found <= limit:
                return worst, (f"{what}: {found:.3g} is over {limit:g} "
                               f"(ours {numpy.shape(ours)}, theirs {numpy.shape(theirs)})")
    except Refused as refused:
        return worst, str(refused)
    except Exception:  # A configuration that the reference itself cannot run is a bug of the module.
        return worst, traceback.format_exc()
    return worst, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind")
    parser.add_argument("--cases", type=int, default=20, help="drawn cases, after the named ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--named", type=int, help="named cases, chosen by the seed; all by default")
    parser.add_argument("--only", help="run the cases whose name contains this")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the folders of failed cases here")
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--d2g", type=pathlib.Path, default=root / "build/ci/bin/d2g")
    arguments = parser.parse_args()

    module = importlib.import_module(f"{arguments.kind}_cases")
    drawn = module.cases(random.Random(arguments.seed))
    named = list(getattr(module, "NAMED", []))
    if arguments.named is not None:
        named = random.Random(arguments.seed).sample(named, min(arguments.named, len(named)))
    cases = named + [next(drawn) for _ in range(arguments.cases)]
    ran, failed, worst = 0, 0, 0.0
    for name, config in cases:
        if arguments.only and arguments.only not in name:
            continue
        ran += 1
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            found, wrong = run_case(module, name, config, D2g(arguments.d2g), folder)
            worst = max(worst, found)
            if wrong:
                failed += 1
                print(f"FAILED {name}: {wrong}\n  config: {json.dumps(config, default=str)}")
                if arguments.keep:
                    shutil.copytree(folder, arguments.keep / name, dirs_exist_ok=True)
            else:
                print(f"ok {name} {found:.2g}", flush=True)
    print(f"{arguments.kind}: {ran} cases, {failed} failed, largest difference {worst:.2g}")
    sys.exit(1 if failed or not ran else 0)


if __name__ == "__main__":
    sys.modules["parity"] = sys.modules["__main__"]  # So that the modules catch the same Refused.
    main()
