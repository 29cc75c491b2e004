"""Captions made from what can be measured on a picture, so that prompt agreement can be measured exactly too.

A caption is template(article [brightness] [size] noun). Brightness thresholds are tertiles and size thresholds medians
*within the class*: so prompts drawn uniformly follow the distribution of the pictures.
"""
from dataclasses import dataclass

import torch

from . import pictures
from .workspace import save_atomically, work_path

FOREGROUND = 20  # a pixel above this (0..255) belongs to the garment
TEMPLATES = ("a photo of {}", "a picture of {}", "{}", "{} on black")
BRIGHTNESS = ("dark", "grey", "light")
SLIM, LOW, SMALL = ("slim", "wide"), ("low", "tall"), ("small", "big")


@dataclass(frozen=True)
class Label:
    name: str
    noun: str     # as in the caption
    words: tuple  # any of these in a prompt asks for this label; the longest match wins
    sizes: tuple  # (below the median, above it)
    measure: str  # what the median is taken of


LABELS = (
    Label("T-shirt/top", "t-shirt", ("t-shirt",), SLIM, "mean_width"),
    Label("Trouser", "pair of trousers", ("trousers",), SLIM, "mean_width"),
    Label("Pullover", "pullover", ("pullover",), SLIM, "mean_width"),
    Label("Dress", "dress", ("dress",), SLIM, "mean_width"),
    Label("Coat", "coat", ("coat",), SLIM, "mean_width"),
    Label("Sandal", "sandal", ("sandal",), LOW, "mean_height"),
    Label("Shirt", "shirt", ("shirt",), SLIM, "mean_width"),
    Label("Sneaker", "sneaker", ("sneaker",), LOW, "mean_height"),
    Label("Bag", "bag", ("bag",), SMALL, "area"),
    Label("Ankle boot", "ankle boot", ("ankle boot",), LOW, "mean_height"),
)


def measure(images):
    """uint8 [N,32,32] -> dict of float [N]: brightness, area, mean_width, mean_height."""
    garment = images > FOREGROUND
    area = garment.sum((1, 2)).float()
    height = garment.any(2).sum(1).clamp(min=1).float()
    width = garment.any(1).sum(1).clamp(min=1).float()
    brightness = (images.float() * garment).sum((1, 2)) / area.clamp(min=1)
    return {"brightness": brightness, "area": area, "mean_width": area / height, "mean_height": area / width}


def thresholds():
    """Per label: {"brightness": [t1, t2], "size": t}, from the training pictures; cached."""
    path = work_path("thresholds.pt")
    if not path.exists():
        images, labels = pictures.load_train()
        values, found = measure(images), []
        for index, label in enumerate(LABELS):
            mine = {name: value[labels == index] for name, value in values.items()}
            tertiles = torch.quantile(mine["brightness"], torch.tensor([1 / 3, 2 / 3])).tolist()
            found.append({"brightness": [round(t, 2) for t in tertiles],
                          "size": round(mine[label.measure].median().item(), 3)})
        save_atomically(found, path)
    return torch.load(path)


def attributes(images, labels):
    """The brightness class (0, 1, 2) and size class (0, 1) of each picture, given its label."""
    limits, values = thresholds(), measure(images)
    t = torch.tensor([limit["brightness"] for limit in limits])[labels]
    brightness = (values["brightness"] > t[:, 0]).long() + (values["brightness"] > t[:, 1]).long()
    sizes = torch.stack([values[label.measure] for label in LABELS])
    size = sizes[labels, torch.arange(len(labels))] > torch.tensor([limit["size"] for limit in limits])[labels]
    return brightness, size.long()


def caption(template, brightness, size, label):
    """brightness 0..2 or 3 for unsaid; size 0..1 or 2 for unsaid."""
    words = [BRIGHTNESS[brightness]] if brightness < 3 else []
    words += [LABELS[label].sizes[size]] if size < 2 else []
    phrase = " ".join(words + [LABELS[label].noun])
    return TEMPLATES[template].format(("an " if phrase[0] in "aeiou" else "a ") + phrase)


def index_of(template, brightness, size, label):
    return ((label * 4 + brightness) * 3 + size) * 4 + template


def prompts():
    """All 480, at the places that index_of gives."""
    return [caption(t, b, s, l) for l in range(10) for b in range(4) for s in range(3) for t in range(4)]


def random_caption_indices(brightness, size, labels):
    """A caption for each picture; a quarter leaves brightness unsaid and a third size, as among the prompts."""
    count = len(labels)
    said = torch.where(torch.rand(count) < 0.75, brightness, 3)
    sized = torch.where(torch.rand(count) < 2 / 3, size, 2)
    return index_of(torch.randint(4, (count,)), said, sized, labels)


def parse(prompt):
    """(label, brightness or None, size or None) that a prompt asks for, by words alone."""
    matches = [(len(word), index) for index, label in enumerate(LABELS) for word in label.words if word in prompt]
    label = max(matches)[1]
    words = prompt.split()
    brightness = next((i for i, w in enumerate(BRIGHTNESS) if w in words), None)
    size = next((i for i, w in enumerate(LABELS[label].sizes) if w in words), None)
    return label, brightness, size
