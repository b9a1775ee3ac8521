"""`classifier:imagenet:LABEL`: the logit of an ImageNet label by an untouched EfficientNet-Lite0.

The network has seen photographs, not emoji, and was not trained against adversarial perturbations: a reward that nobody
tuned for these images. `recipes/emoji128/export_scorers.py` made the file.
"""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checksums import read_json
from .efficientnet_lite import FEATURES, EfficientNetLite
from .images import in_float32, prepared
from .pretrained import frozen, one_per_device, read_state

WEIGHTS = Path(str(resources.files(__package__))) / "imagenet"


@functools.cache
def labels() -> tuple[str, ...]:
    """The names of ImageNet's 1 000 classes, each with its synonyms separated by commas."""
    return tuple(read_json(WEIGHTS / "labels.json"))


def label_row(label: str) -> int:
    """The row of a class, by its number or by one of its names, which need not have the same case.

    "cardigan" is the garment and "Cardigan" the dog.

    Raises:
        ValueError: if there is no such class, with the nearest names, or several, with their numbers and names.
    """
    wanted = _folded(label)
    if wanted.isdecimal() and int(wanted) < len(labels()):
        return int(wanted)
    names = [[_folded(name) for name in line.split(",")] for line in labels()]
    for case in (str, str.lower):
        rows = [row for row, known in enumerate(names) if case(wanted) in map(case, known)]
        if len(rows) > 1:
            classes = "; ".join(f"{row} is {labels()[row]}" for row in rows)
            raise ValueError(f"ImageNet has {len(rows)} classes with the label {label!r}: {classes}; give the number")
        if rows:
            return rows[0]
    lower = list(dict.fromkeys(name.lower() for known in names for name in known))
    near = difflib.get_close_matches(wanted.lower(), lower, n=4, cutoff=0.6)
    hint = f"; nearest labels: {', '.join(near)}" if near else "; use a label of ImageNet, such as 'teapot'"
    raise ValueError(f"ImageNet has no label {label!r}{hint}")


def _folded(name: str) -> str:
    """A name with spaces for hyphens and underscores."""
    return name.strip().replace("_", " ").replace("-", " ")


@one_per_device
def load_imagenet_network(device: str | torch.device = "cpu") -> nn.Module:
    """The classifier without parameter gradients: images (n, 3, 128, 128) in [-1, 1] to logits (n, 1000).

    Raises:
        ValueError: if its file differs from the published one.
    """
    network = ImageNetClassifier()
    network.backbone.fold()
    return frozen(network, read_state(WEIGHTS, "network"), device)


class ImageNetClassifier(nn.Module):
    """EfficientNet-Lite0 with the classifier of ImageNet's 1 000 labels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.classifier = EfficientNetLite("lite0"), nn.Linear(FEATURES, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone.pooled(x))


@in_float32
def label_scores(images: Tensor, row: int) -> Tensor:
    """(batch,) logits of a class of ImageNet; see `concepts.concept_scores` for the images."""
    return load_imagenet_network(images.device)(prepared(images))[:, row].to(images)
