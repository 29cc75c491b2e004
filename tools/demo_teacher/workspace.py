"""Where stages keep their results, and how they start: seeds, threads, logs."""
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch

WORK = Path(os.environ.get("DEMO_TEACHER_WORK", Path.home() / ".cache/d2g/demo-teacher-work"))


def work_path(name):
    WORK.mkdir(parents=True, exist_ok=True)
    return WORK / name


def start(seed):
    """Fixes every seed and tells Torch to use the threads that the environment grants."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def share_of(steps):
    """`steps`, or the share of them that DEMO_TEACHER_SHARE asks for: a quick run through every stage."""
    return max(2, round(steps * float(os.environ.get("DEMO_TEACHER_SHARE", "1"))))


def save_atomically(value, path):
    temporary = Path(f"{path}.part")
    torch.save(value, temporary)
    os.replace(temporary, path)


def cosine(step, steps, warm_up, floor):
    """The learning rate's factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Log:
    """Prints a line now and then, with the time that has passed."""

    def __init__(self, name):
        self.name, self.start = name, time.time()

    def __call__(self, message):
        print(f"[{self.name} {time.time() - self.start:7.1f}s] {message}", flush=True)
