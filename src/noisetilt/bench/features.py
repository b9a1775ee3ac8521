"""A classifier of emoji pictures whose inner features the metrics compare pictures by.

It is no reward, and shares neither network, seed nor loss with the scorers, so that steering by a scorer cannot
optimise the yardstick too. `recipes/scorers/train.py --which features` made it.
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
from ..rewards.scorers.words import STYLES

WEIGHTS = resources.files(__package__) / "weights"
FEATURES = 192


@functools.cache
def kinds() -> tuple[str, ...]:
    """The subcategories that the classifier knows, in the order of its logits."""
    return tuple(json.loads((WEIGHTS / "kinds.json").read_text("utf-8")))


def stage(channels: int, out: int) -> list[nn.Module]:
    """A 3×3 convolution, normalised by the batch, activated, and the strongest of 2×2 places."""
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
        """Images (batch, 3, 64, 64) in [0, 1] to (batch, FEATURES): means over places of the last layer."""
        return self.body(2 * images - 1).mean((2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the subcategory (batch, classes) and of the style (batch, 3)."""
        h = self.drop(self.pooled(images))
        return self.kind(h), self.style(h)


@functools.cache
def load_features(device: str | torch.device = "cpu") -> FeatureNet:
    """The trained classifier, frozen.

    Raises:
        ValueError: if its file is not the published one.
    """
    folder = Path(str(WEIGHTS))
    digest = json.loads((folder / "checksums.json").read_text("utf-8"))["features.safetensors"]
    state, _ = read_verified(folder / "features.safetensors", digest)
    network = FeatureNet(len(kinds()))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network.to(device).eval().requires_grad_(False)


def prepared(images: Tensor, batch: int) -> tuple[Tensor, ...]:
    return checked_images(images).detach().float().clamp(0, 1).split(batch)


@torch.no_grad()
def features(images: Tensor, batch: int = 256) -> Tensor:
    """What the metrics compare pictures by.

    Args:
        images: (n, 3, 64, 64) float in [0, 1], clamped to that.
        batch: how many pictures are looked at together.

    Returns:
        (n, 192) float32, non-negative, on the images' device.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    network = load_features(str(images.device))
    return torch.cat([network.pooled(part) for part in prepared(images, batch)])


@torch.no_grad()
def textures(images: Tensor, batch: int = 256) -> Tensor:
    """What the metrics compare the finest grain of pictures by.

    `features` was trained to see through noise and blur, so its distances notice them little; those of textures
    treble at noise of deviation 0.15 or a blur of one pixel. For fainter noise `metrics.total_variation` is finer.

    Args:
        images: (n, 3, 64, 64) float in [0, 1], clamped to that.
        batch: how many pictures are looked at together.

    Returns:
        (n, 48) float32 on the images' device: means and deviations over places of the first layer's 24 channels.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    first = load_features(str(images.device)).body[:3]
    maps = (first(2 * part - 1).flatten(2) for part in prepared(images, batch))
    return torch.cat([torch.cat([h.mean(2), h.std(2)], dim=1) for h in maps])


@torch.no_grad()
def classify(images: Tensor, batch: int = 256) -> tuple[Tensor, ...]:
    """What is in the pictures, by a judge that no reward has touched.

    Args:
        images: (n, 3, 64, 64) float in [0, 1], clamped to that.
        batch: how many pictures are looked at together.

    Returns:
        Probabilities (n, len(kinds())) of the subcategory and (n, 3) of the style 3d, noto, twemoji.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    network = load_features(str(images.device))
    logits = [network(part) for part in prepared(images, batch)]
    return tuple(torch.cat(one).softmax(1) for one in zip(*logits, strict=True))


@functools.cache
def real_features() -> Tensor:
    """Features (333, 192) of the held-out real emoji that are drawn for one style alone.

    Raises:
        ValueError: if their file is not the published one.
    """
    folder = Path(str(WEIGHTS))
    digest = json.loads((folder / "checksums.json").read_text("utf-8"))["real.safetensors"]
    return read_verified(folder / "real.safetensors", digest)[0]["features"].float()
