"""Objects in the image, found by a detector of transformers: whether there is one, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reward import Reward
from .classifier import find_label
from .files import frozen, moved, pretrained, pretrained_model, transformers
from .preprocess import RESAMPLING, resize

DETECTOR = "facebook/detr-resnet-50"


class DetectorPixels:
    """The differentiable preprocessing of detectors: resize, and normalise if the model does.

    Args:
        processor: of transformers. Its size is {height, width}, or {shortest_edge, longest_edge}, as DETR's: the
            shorter side is resized to the one, but the longer side to no more than the other.
    """

    def __init__(self, processor: Any) -> None:
        size = dict(processor.size)
        self.size, self.shorter, self.longer = size, size.get("shortest_edge"), size.get("longest_edge")
        mode = RESAMPLING.get(int(processor.resample))
        if mode is None or not (self.shorter or {"height", "width"} <= set(size)):
            raise ValueError(f"the detector's image processor resizes to {size}; write the reward as a function")
        self.mode = mode
        normalises = bool(processor.do_normalize)
        self.mean = list(processor.image_mean) if normalises else [0.0] * 3
        self.std = list(processor.image_std) if normalises else [1.0] * 3

    def __call__(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) from images (batch, 3, H, W) in [0, 1]."""
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        height, width = images.shape[2:]
        if self.shorter:
            scale = self.shorter / min(height, width)
            scale = min(scale, self.longer / max(height, width)) if self.longer else scale
            high, wide = round(height * scale), round(width * scale)
        else:
            high, wide = self.size["height"], self.size["width"]
        pixels = resize(images, high, wide, self.mode)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


class Objects:
    """A reward of the objects with one label.

    Args:
        model: of transformers, for object detection.
        label: the label's number.
        preprocess: images (batch, 3, H, W) in [0, 1] → pixels.
        count: the wanted number of objects, or None for "at least one".
        softmax: whether the classes exclude one another and the last one is "no object", as in DETR; else each class
            has a probability of its own.
    """

    def __init__(
        self, model: nn.Module, label: int, preprocess: DetectorPixels, count: int | None, softmax: bool
    ) -> None:
        self.model, self.label, self.preprocess, self.count, self.softmax = model, label, preprocess, count, softmax

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1]; in the images' dtype. The prompt is ignored."""
        logits = self.class_logits(images)
        if self.count is None:
            return self.log_odds(logits).amax(1).to(images.dtype)
        return -(logits_to_probability(self.log_odds(logits)).sum(1) - self.count).abs().to(images.dtype)

    def class_logits(self, images: Tensor) -> Tensor:
        """(batch, query, class)."""
        dtype = moved(self.model, images)
        return self.model(pixel_values=self.preprocess(images).to(dtype)).logits.float()

    def log_odds(self, logits: Tensor) -> Tensor:
        """log p/(1 − p) of the label for each query, (batch, query)."""
        if not self.softmax:
            return logits[..., self.label]
        others = torch.cat([logits[..., : self.label], logits[..., self.label + 1 :]], dim=-1)
        return logits[..., self.label] - others.logsumexp(-1)


def logits_to_probability(log_odds: Tensor) -> Tensor:
    """p from log p/(1 − p)."""
    return F.sigmoid(log_odds)


def objects(
    label: str, count: int | None = None, model: str | Path = DETECTOR, dtype: torch.dtype = torch.float32
) -> Reward:
    """Objects of a label: the largest log-odds of a detection, or minus the distance of the expected number from
    `count`.

    Both are differentiable: they use the class probabilities of all queries, not boxes above a threshold. The expected
    number is the sum of the probabilities, as in counting rewards of compositional generation (GenEval's counts, Ghosh
    et al. 2023, arXiv 2310.11513, in a form with a gradient).

    Args:
        label: a name of the model's labels or its number; see `find_label`.
        count: wanted number of objects ≥ 0; None rewards the most certain one.
        model: hub id or folder of an object detector of transformers (DETR, YOLOS, RT-DETR, ...).
        dtype: in which the detector computes.
    Raises:
        ValueError: if the label or the count is invalid, or the model cannot be loaded.
    """
    if count is not None and count < 0:
        raise ValueError(f"count = {count} objects must be 0 or more")
    library = transformers()
    network: Any = pretrained_model(library.AutoModelForObjectDetection, model, "the detector")
    processor = pretrained(library.AutoImageProcessor, model, "the detector's image processor")
    labels = {int(number): name for number, name in network.config.id2label.items()}
    # The heads of DETR and YOLOS have one class more than there are labels: "no object".
    with torch.no_grad():
        classes = network(pixel_values=torch.zeros(1, 3, 64, 64)).logits.shape[-1]
    found = Objects(
        frozen(network, dtype), find_label(labels, label), DetectorPixels(processor), count, classes > len(labels)
    )
    return Reward(f"objects:{label}" if count is None else f"count:{label}:{count}", found)
