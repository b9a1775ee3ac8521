"""A classifier of emoji images whose features the metrics use.

It is not used as a reward. Network, seed and loss differ from those of the scorers, so that optimising a scorer does
not optimise the metrics directly. It was trained by `recipes/scorers/train.py --which features`.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from ..rewards.checksums import read_verified
from ..rewards.scorers.scorer import checked_images
from ..rewards.scorers.words64 import STYLES

WEIGHTS = resources.files(__package__) / "weights"
FEATURES = 192


@functools.cache
def kinds() -> tuple[str, ...]:
    """The subcategories that the classifier knows, in the order of its logits."""
    return tuple(json.loads((WEIGHTS / "kinds.json").read_text("utf-8")))


def stage(channels: int, out: int) -> list[nn.Module]:
    """A 3×3 convolution, batch normalisation, ReLU and 2×2 max pooling."""
    conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out, momentum=0.02), nn.ReLU(), nn.MaxPool2d(2)]


class FeatureNet(nn.Module):
    """A plain convolutional classifier of subcategory and style.

    Args:
        classes: number of subcategories.
    """

    def __init__(self, classes: int = 81) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24, momentum=0.02),
            nn.ReLU(),
            *stage(24, 48),
            *stage(48, 96),
            *stage(96, 160),
            nn.Conv2d(160, FEATURES, 3, padding=1, bias=False),
            nn.BatchNorm2d(FEATURES, momentum=0.02),
            nn.ReLU(),
        )
        self.drop = nn.Dropout(0.2)
        self.kind = nn.Linear(FEATURES, classes)
        self.style = nn.Linear(FEATURES, len(STYLES))

    def pooled(self, images: Tensor) -> Tensor:
        """Images (batch, 3, 64, 64) in [0, 1] to (batch, FEATURES): means over the positions of the last layer."""
        return self.body(2 * images - 1).mean((2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the subcategory (batch, classes) and of the style (batch, 3)."""
        h = self.drop(self.pooled(images))
        return self.kind(h), self.style(h)


@functools.cache
def load_features(device: str | torch.device = "cpu") -> FeatureNet:
    """The trained classifier, without parameter gradients.

    Raises:
        ValueError: if the file is missing or differs from the published one.
    """
    folder = Path(str(WEIGHTS))
    digest = json.loads((folder / "checksums.json").read_text("utf-8"))["features.safetensors"]
    state, _ = read_verified(folder / "features.safetensors", digest)
    network = FeatureNet(len(kinds()))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network.to(device).eval().requires_grad_(False)


def prepared(images: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Checked and clamped images in batches."""
    return checked_images(images).detach().float().clamp(0, 1).split(batch)


@torch.no_grad()
def features(images: Tensor, batch: int = 256) -> Tensor:
    """The features that the metrics use.

    Args:
        images: (n, 3, 64, 64) float in [0, 1], clamped to that.
        batch: images per network call.

    Returns:
        (n, 192) float32, non-negative, on the images' device.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    network = load_features(str(images.device))
    return torch.cat([network.pooled(part) for part in prepared(images, batch)])


@torch.no_grad()
def textures(images: Tensor, batch: int = 256) -> Tensor:
    """Features of fine texture.

    `features` was trained to be robust to noise and blur, so its distances change little with them. Distances of
    textures triple at noise of standard deviation 0.15 or a blur of one pixel. For weaker noise use
    `metrics.total_variation`.

    Args:
        images: (n, 3, 64, 64) float in [0, 1], clamped to that.
        batch: images per network call.

    Returns:
        (n, 48) float32 on the images' device: means and deviations over the positions of the first layer's 24 channels.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    first = load_features(str(images.device)).body[:3]
    maps = (first(2 * part - 1).flatten(2) for part in prepared(images, batch))
    return torch.cat([torch.cat([h.mean(2), h.std(2)], dim=1) for h in maps])


@torch.no_grad()
def classify(images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Classifies images by subcategory and style.

    Args:
        images: (n, 3, 64, 64) float in [0, 1], clamped to that.
        batch: images per network call.

    Returns:
        Probabilities (n, len(kinds())) of the subcategory and (n, 3) of the style 3d, noto, twemoji.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    network = load_features(str(images.device))
    logits = [network(part) for part in prepared(images, batch)]
    kind, style = (torch.cat(one).softmax(1) for one in zip(*logits, strict=True))
    return kind, style


@functools.cache
def real_features() -> Tensor:
    """Features (333, 192) of held-out real emoji that exist in one style only.

    Raises:
        ValueError: if the file is missing or differs from the published one.
    """
    folder = Path(str(WEIGHTS))
    digest = json.loads((folder / "checksums.json").read_text("utf-8"))["real.safetensors"]
    return read_verified(folder / "real.safetensors", digest)[0]["features"].float()
