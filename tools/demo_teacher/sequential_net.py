"""Networks that are one list of layers, described by a config that the C++ side reads too."""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def conv(inputs, outputs, kernel=3, stride=1, padding=1):
    return {"type": "conv2d", "in_channels": inputs, "out_channels": outputs, "kernel_size": kernel,
            "stride": stride, "padding": padding}


def norm(channels, groups=8):
    return {"type": "group_norm", "num_groups": groups, "num_channels": channels, "eps": 1e-5}


def linear(inputs, outputs):
    return {"type": "linear", "in_features": inputs, "out_features": outputs}


RELU = {"type": "relu"}
HALVE = {"type": "max_pool2d", "kernel_size": 2}
AVERAGE = {"type": "avg_pool_global"}
FLATTEN = {"type": "flatten"}


def block(inputs, outputs):
    return [conv(inputs, outputs), norm(outputs), RELU]


def build_layer(layer):
    kind = layer["type"]
    if kind == "conv2d":
        return nn.Conv2d(layer["in_channels"], layer["out_channels"], layer["kernel_size"], layer["stride"],
                         layer["padding"])
    if kind == "group_norm":
        return nn.GroupNorm(layer["num_groups"], layer["num_channels"], layer["eps"])
    if kind == "linear":
        return nn.Linear(layer["in_features"], layer["out_features"])
    if kind == "max_pool2d":
        return nn.MaxPool2d(layer["kernel_size"])
    simple = {"relu": nn.ReLU, "avg_pool_global": lambda: nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten}
    return simple[kind]()


class SequentialNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(build_layer(layer) for layer in config["layers"])

    def forward(self, x):
        return self.taps(x, ["logits"])[0]

    def taps(self, x, names=None):
        """Outputs of the layers that the config's taps name, in the order asked for."""
        places = self.config["taps"]
        names = list(places) if names is None else names
        wanted, outputs = {places[name] for name in names}, {}
        for index, layer in enumerate(self.layers[: max(wanted) + 1]):
            x = layer(x)
            if index in wanted:
                outputs[index] = x
        return [outputs[places[name]] for name in names]

    def save(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")
        save_file({name: value.contiguous() for name, value in self.state_dict().items()},
                  folder / "model.safetensors")

    @classmethod
    def load(cls, folder):
        net = cls(json.loads((Path(folder) / "config.json").read_text()))
        net.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return net.eval().requires_grad_(False)


def config_of(layers, taps, channels, size):
    return {"_class_name": "SequentialNet", "version": 1, "image_channels": channels, "image_size": size,
            "layers": layers, "taps": taps}
