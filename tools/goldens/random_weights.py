"""The seeded parameters of model/weights/random_weights.h, bit for bit."""
import numpy as np
import torch

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def _fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def _mix(x):
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def parameter(seed, name, shape):
    """The values of one parameter, float32."""
    count = int(np.prod(shape)) if len(shape) else 1
    scale, offset = np.float32(0.1), np.float32(0)
    if len(shape) > 1:
        scale = np.float32(np.sqrt(3.0 / (count // shape[0])))
    elif name.endswith("weight"):
        offset = np.float32(1)
    key = np.uint64((_fnv1a(name) + seed * GOLDEN) & MASK)
    with np.errstate(over="ignore"):
        bits = _mix(key + np.arange(count, dtype=np.uint64)) >> np.uint64(40)
    u = bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return torch.from_numpy((offset + u * scale).reshape(shape))


def fill(module, seed):
    """Overwrites every parameter of a torch module by its state-dict name."""
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.copy_(parameter(seed, name, tuple(tensor.shape)))
    return module.eval()
