"""A small classifier of latents; its normalised feature differences are the perceptual latent loss."""
import hashlib
from pathlib import Path

import torch

from . import autoencoder, latents, pictures
from .classifier import accuracy, train_classifier
from .sequential_net import AVERAGE, FLATTEN, HALVE, SequentialNet, block, config_of, linear
from .workspace import Log, start, work_path

SEED = 6006
LAYERS = (block(4, 48) + block(48, 64) + block(64, 64) + [HALVE] + block(64, 96) + block(96, 96)
          + [AVERAGE, FLATTEN, linear(96, 10)])
TAPS = {"tap0": 2, "tap1": 5, "tap2": 8, "tap3": 12, "tap4": 15, "logits": len(LAYERS) - 1}


def augment(x):
    """Shifts and noise: the features should not be brittle off the exact latents."""
    x = pictures.shift(x, 1)
    return x + 0.1 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def train():
    if work_path("latent-features/config.json").exists():
        return
    start(SEED)
    data = latents.load()
    net = SequentialNet(config_of(LAYERS, TAPS, 4, 8))
    train_classifier(net, lambda i: augment(data["latents"][i]), len(data["labels"]), data["labels"], epochs=6,
                     name="latent-features", lr=3e-3)
    tests, test_labels = pictures.load("t10k")
    found = latents.encode(autoencoder.load(), tests)
    Log("latent-features")(f"test accuracy {accuracy(net, found, test_labels):.4f}")
    net.save(work_path("latent-features"))


def latent_space(vae_file):
    """What ties the network to the latent space: the sha256 of the VAE's weights."""
    return "sha256:" + hashlib.sha256(Path(vae_file).read_bytes()).hexdigest()


if __name__ == "__main__":
    train()
