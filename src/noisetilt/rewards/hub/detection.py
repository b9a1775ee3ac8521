"""Objects in the image, found by a detector of transformers: whether there is one, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..images import check_images
from ..reward import Reward
from .classifier import find_label
from .files import frozen, loaded_once, moved, pretrained, pretrained_model, transformers
from .preprocess import difference, normalisation_of, pixels_by, resampling_of, resize

DETECTOR = "hustvl/yolos-small"  # DETR's published weights would need timm


class DetectorPixels:
    """The differentiable preprocessing of detectors: resize, and normalise if the model does.

    The size after resizing, which may depend on the image's, is the processor's own.

    Args:
        processor: of transformers.
    Raises:
        ValueError: if its output differs by more than its rounding, because it has an unsupported step.
    """

    def __init__(self, processor: Any) -> None:
        mode, normalisation = resampling_of(processor), normalisation_of(processor)
        refusal = "the detector's image processor does more than resize and normalise"
        if mode is None or normalisation is None:
            raise ValueError(f"{refusal}; write the reward as a function of images yourself")
        self.processor, self.mode = processor, mode
        self.mean, self.std = normalisation
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        worst = max(difference(self, processor, shape) for shape in ((150, 210), (90, 63)))
        if worst > 2:
            raise ValueError(f"{refusal}: its output differs by {worst:.1f} of 255 levels; write the reward yourself")

    def __call__(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) from images (batch, 3, H, W) in [0, 1]."""
        check_images(images)
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        pixels = resize(images, *self._size((images.shape[2], images.shape[3])), self.mode)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def _size(self, shape: tuple[int, int]) -> tuple[int, int]:
        if shape not in self._sizes:
            made = pixels_by(self.processor, np.zeros((*shape, 3), dtype=np.uint8))
            self._sizes[shape] = made.shape[2], made.shape[3]
        return self._sizes[shape]


class Objects:
    """A reward of the objects with one label.

    Args:
        model: of transformers, for object detection.
        label: the label's number.
        preprocess: images (batch, 3, H, W) in [0, 1] → pixels.
        count: the wanted number of objects, or None for "at least one".
    """

    def __init__(self, model: Any, label: int, preprocess: DetectorPixels, count: int | None) -> None:
        self.model, self.label, self.preprocess, self.count = model, label, preprocess, count

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1]; in the images' dtype. The prompt is ignored."""
        logits = self.class_logits(images)
        if self.count is None:
            return self.log_odds(logits).amax(1).to(images.dtype)
        return -(F.sigmoid(self.log_odds(logits)).sum(1) - self.count).abs().to(images.dtype)

    def class_logits(self, images: Tensor) -> Tensor:
        """(batch, query, class)."""
        dtype = moved(self.model, images)
        logits = self.model(pixel_values=self.preprocess(images).to(dtype)).logits
        return logits.to(torch.promote_types(dtype, torch.float32))

    def log_odds(self, logits: Tensor) -> Tensor:
        """log p/(1 − p) of the label for each query, (batch, query)."""
        # The heads of DETR and YOLOS have one class more than there are labels, "no object", and classes that exclude
        # one another. In others each class has a probability of its own.
        if logits.shape[-1] <= len(self.model.config.id2label):
            return logits[..., self.label]
        others = torch.cat([logits[..., : self.label], logits[..., self.label + 1 :]], dim=-1)
        return logits[..., self.label] - others.logsumexp(-1)


@loaded_once
def load_detector(model: str | Path, dtype: torch.dtype) -> tuple[Any, DetectorPixels]:
    """The network and its preprocessing; arguments as of `objects`."""
    library = transformers()
    network: Any = pretrained_model(library.AutoModelForObjectDetection, model, "the detector")
    processor = pretrained(library.AutoImageProcessor, model, "the detector's image processor")
    return frozen(network, dtype), DetectorPixels(processor)


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
        model: hub id or folder of an object detector of transformers (YOLOS, DETR, RT-DETR, ...). Some, such as
            facebook/detr-resnet-50, need the package timm.
        dtype: in which the detector computes.
    Raises:
        ValueError: if the label or the count is invalid, or the model cannot be loaded.
        ImportError: if the model needs a package that is not installed.
    """
    if count is not None and count < 0:
        raise ValueError(f"count = {count} objects must be 0 or more")
    network, pixels = load_detector(model, dtype)
    number = find_label({int(number): name for number, name in network.config.id2label.items()}, label)
    found = Objects(network, number, pixels, count)
    return Reward(f"objects:{label}" if count is None else f"count:{label}:{count}", found, uses_prompts=False)
