"""A second pixel classifier, for the autoencoder's perceptual loss only: never the judge."""
from torch.nn import functional as F

from . import pictures
from .classifier import accuracy, train_classifier
from .sequential_net import FLATTEN, HALVE, RELU, SequentialNet, block, config_of, conv, linear, norm
from .workspace import Log, start, work_path

SEED = 2002
LAYERS = ([conv(1, 16, 5, 1, 2), norm(16), RELU, HALVE] + block(16, 32) + block(32, 32) + [HALVE] + block(32, 64)
          + [HALVE, FLATTEN, linear(1024, 10)])
TAPS = {"tap0": 2, "tap1": 9, "tap2": 13, "logits": len(LAYERS) - 1}


def train():
    if work_path("training-features/config.json").exists():
        return
    start(SEED)
    images, labels = pictures.load_train()
    net = SequentialNet(config_of(LAYERS, TAPS, 1, 32))
    train_classifier(net, lambda i: pictures.shift(pictures.to_float(images[i]), 2), len(images), labels, epochs=2,
                     name="training-features", lr=3e-3)
    tests, test_labels = pictures.load("t10k")
    Log("training-features")(f"test accuracy {accuracy(net, pictures.to_float(tests), test_labels):.4f}")
    net.save(work_path("training-features"))


def load():
    return SequentialNet.load(work_path("training-features"))


def distance(net, a, b, weights=(1.0, 1.0, 1.0)):
    """Mean squared difference of channel-normalised features, summed over the taps."""
    names = ["tap0", "tap1", "tap2"]
    total = 0.0
    for weight, x, y in zip(weights, net.taps(a, names), net.taps(b, names)):
        total = total + weight * (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean()
    return total


if __name__ == "__main__":
    train()
