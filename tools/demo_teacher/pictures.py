"""Fashion-MNIST as Debian's dataset-fashion-mnist installs it, padded to 32x32."""
import gzip
import os
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
PROBE = 5000  # the first half of the test pictures is the reference, the second half the probe


def read_idx(path, header):
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header).copy()


def load(split):
    """Returns (pictures uint8 [N,32,32], labels int64 [N]); split is "train" or "t10k"."""
    pictures = read_idx(FOLDER / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read_idx(FOLDER / f"{split}-labels-idx1-ubyte.gz", 8)
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(padded), torch.from_numpy(labels).long()


def load_train():
    return load("train")


def load_reference():
    pictures, labels = load("t10k")
    return pictures[:PROBE], labels[:PROBE]


def load_probe():
    pictures, labels = load("t10k")
    return pictures[PROBE:], labels[PROBE:]


def to_float(pictures):
    """uint8 [N,32,32] -> float [N,1,32,32] in [-1,1]."""
    return pictures.unsqueeze(1).float() / 127.5 - 1


def to_bytes(pictures):
    """float [N,1,32,32] in [-1,1] -> uint8 [N,32,32]."""
    return ((pictures.squeeze(1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def shift(batch, reach):
    """Moves a whole batch by up to `reach` cells each way; the border is black, so nothing visible wraps round."""
    offsets = torch.randint(-reach, reach + 1, (2,)).tolist()
    return torch.roll(batch, offsets, dims=(-2, -1))
