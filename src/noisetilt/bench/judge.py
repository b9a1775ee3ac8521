"""The judge: networks that name the concept and the style of an image, and whose features the metrics use.

No method optimises the judge: no reward loads it, and its backbone (EfficientNet-Lite2) is not that of a scorer. It was
not trained against adversarial perturbations. `recipes/emoji128/train_scorers.py` and `train_style.py` made the
weights, `recipes/bench/references.py` the features of real images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..rewards.checksums import digest_of, read_verified
from ..rewards.scorers.images import in_float32, prepared
from ..rewards.scorers.network import BACKBONES, WIDTH, ScorerNetwork, StyleNetwork
from ..rewards.scorers.pretrained import one_per_device
from ..rewards.scorers.words import STYLES, concepts
from .metrics import KernelSample

WEIGHTS = Path(str(resources.files(__package__))) / "weights"
FEATURES = WIDTH
TOP = 5


def _read(name: str) -> dict[str, Tensor]:
    return {k: v.float() for k, v in read_verified(WEIGHTS / name, digest_of(WEIGHTS, name))[0].items()}


@one_per_device
def load_judge(device: str | torch.device = "cpu") -> tuple[ScorerNetwork, StyleNetwork]:
    """The networks of concepts and of styles, without parameter gradients; one copy per device is cached.

    Raises:
        ValueError: if a file is missing or differs from the published one.
    """
    concept = ScorerNetwork(BACKBONES["judge"], len(STYLES), len(concepts()), 0)
    concept.load_state_dict(_read("judge.safetensors"))
    concept.backbone.fold()
    style = StyleNetwork(BACKBONES["judge"], len(STYLES)).fold()
    style.load_state_dict(_read("style-judge.safetensors"))
    for network in (concept, style):
        network.to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.eval().requires_grad_(False)
    return concept, style


class Judgement(NamedTuple):
    """What the judge says of n images.

    Attributes:
        concepts: (n, concepts) logits, in the order of `rewards.scorers.words.concepts`.
        styles: (n, 5) logits of STYLES.
        features: (n, FEATURES) float32 for the metrics.
    """

    concepts: Tensor
    styles: Tensor
    features: Tensor


@in_float32
@torch.no_grad()
def evaluate(images: Tensor, batch: int = 32) -> Judgement:
    """The judge's logits and features.

    Args:
        images: (n, 3, height, width) float in [0, 1], clamped to that; other sizes than 128×128 are resized.
        batch: images per network call.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    found = []
    for part in prepared(images.detach()).clamp(-1, 1).split(batch):
        concept, style = load_judge(images.device)
        features = concept.project(concept.backbone.pooled(part))
        found.append((concept.concept_logits(F.normalize(features, dim=1)), style(part), features))
    return Judgement(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def features(images: Tensor, batch: int = 32) -> Tensor:
    """(n, FEATURES) features for the metrics; see `evaluate` for the images."""
    return evaluate(images, batch).features


def names_concept(logits: Tensor, rows: Sequence[Sequence[int]], top: int = TOP) -> Tensor:
    """(n,) bool: whether one of an image's concepts is among the first `top`.

    Args:
        logits: (n, concepts), from `evaluate`.
        rows: of the concepts that count as right for each image, from `rewards.scorers.concepts.concept_row`.
    """
    best = logits.topk(top, 1).indices.tolist()
    return torch.tensor([bool(set(found) & set(right)) for found, right in zip(best, rows, strict=True)])


def concept_probability(logits: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """(n,) in [0, 1]: the probability that the judge gives the concepts that are right for each image.

    Args:
        logits: (n, concepts), from `evaluate`.
        rows: of the concepts that count as right for each image, from `rewards.scorers.concepts.concept_row`.
    """
    probabilities = logits.softmax(1)
    return torch.stack([some[list(right)].sum() for some, right in zip(probabilities, rows, strict=True)])


@functools.cache
def real_features() -> Tensor:
    """Features (n, FEATURES) of real emoji.

    Raises:
        ValueError: if the file is missing or differs from the published one.
    """
    return _read("real.safetensors")["features"]


@functools.cache
def real_sample() -> KernelSample:
    """The features of real emoji for `kernel_distance`.

    Raises:
        ValueError: if the file is missing or differs from the published one.
    """
    return KernelSample.of(real_features())
