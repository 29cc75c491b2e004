"""The frozen judge: a pixel classifier trained apart from everything that it judges."""
import torch

from . import pictures
from .classifier import accuracy, train_classifier
from .sequential_net import FLATTEN, HALVE, RELU, SequentialNet, block, config_of, linear
from .workspace import Log, start, work_path

SEED = 1001
LAYERS = (block(1, 32) + [HALVE] + block(32, 64) + [HALVE] + block(64, 64) + [HALVE, FLATTEN, linear(1024, 64), RELU,
          linear(64, 10)])
TAPS = {"features": len(LAYERS) - 2, "logits": len(LAYERS) - 1}


def train():
    if work_path("evaluator/config.json").exists():
        return
    start(SEED)
    images, labels = pictures.load_train()
    net = SequentialNet(config_of(LAYERS, TAPS, 1, 32))
    train_classifier(net, lambda i: pictures.shift(pictures.to_float(images[i]), 1), len(images), labels, epochs=6,
                     name="evaluator", lr=3e-3)
    tests, test_labels = pictures.load("t10k")
    Log("evaluator")(f"test accuracy {accuracy(net, pictures.to_float(tests), test_labels):.4f}")
    net.save(work_path("evaluator"))


def load():
    return SequentialNet.load(work_path("evaluator"))


def features_and_labels(net, images, batch=250):
    """images float in [-1,1] -> (features [N,64], predicted label [N])."""
    found = [net.taps(images[i:i + batch], ["features", "logits"]) for i in range(0, len(images), batch)]
    return torch.cat([f for f, _ in found]), torch.cat([l.argmax(1) for _, l in found])


if __name__ == "__main__":
    train()
