"""The scorer's network: from an image to its style, and to a unit vector that words and concepts share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisetilt.rewards.scorers.efficientnet_lite import FEATURES, ConvNorm, EfficientNetLite

WIDTH, SIDE = 192, 128
# The backbones of the networks to optimise, to evaluate the result, and for the benchmark's figures.
BACKBONES = {"target": "lite0", "heldout": "lite1", "judge": "lite2"}


class ScorerNetwork(nn.Module):
    """Style, concept and text alignment of an image from one backbone.

    Args:
        variant: the backbone, a key of `efficientnet_lite.VARIANTS`.
        styles, concepts: number of each.
        words: number of words that have a vector; 0 for a scorer without text.
    """

    def __init__(self, variant: str, styles: int, concepts: int, words: int) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(variant)
        self.style = nn.Linear(FEATURES, styles)
        self.project = nn.Linear(FEATURES, WIDTH)
        self.concepts = nn.Parameter(torch.randn(concepts, WIDTH) * 0.05)
        self.words = nn.Parameter(torch.randn(words, WIDTH) * 0.05)
        self.concept_scale = nn.Parameter(torch.tensor(2.8))  # logarithm of the cosine's factor
        self.text_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, 128, 128) in [-1, 1] to style logits (n, styles) and unit vectors (n, 192)."""
        features = self.backbone.pooled(images)
        return self.style(features), F.normalize(self.project(features).float(), dim=1)

    def concept_logits(self, vectors: Tensor) -> Tensor:
        """Unit vectors (n, 192) to logits (n, concepts)."""
        return self.concept_scale.exp() * vectors @ F.normalize(self.concepts.float(), dim=1).T

    def text(self, ids: Tensor, known: Tensor) -> Tensor:
        """Word ids (n, length), where `known` is true, to unit vectors (n, 192): the direction of the words' sum."""
        vectors = self.words.float()[ids] * known.unsqueeze(-1)
        return F.normalize(vectors.sum(1) + 1e-6, dim=1)


class StyleNetwork(nn.Module):
    """The style of an image, from statistics of early layers.

    Means and standard deviations of features at strides 4, 8 and 16 describe how an image is drawn, and say little of
    what it shows (Gatys 2016, arXiv 1508.06576 uses such statistics for style). A head on the last layer instead learns
    which concept has which style in the training images, and fails on new pairs of concept and style.

    Args:
        variant: the backbone, a key of `efficientnet_lite.VARIANTS`; only its first blocks are used.
        styles: number of styles.
    """

    LAYERS = (1, 4, 7)
    blocks: nn.Sequential
    mean: Tensor
    std: Tensor

    def __init__(self, variant: str, styles: int) -> None:
        super().__init__()
        backbone = EfficientNetLite(variant)
        layers: Any = backbone.blocks
        self.stem, self.blocks = backbone.stem, layers[: self.LAYERS[-1] + 1]
        channels = sum(layers[layer].layers[-1].conv.out_channels for layer in self.LAYERS)
        self.register_buffer("mean", torch.zeros(2 * channels))
        self.register_buffer("std", torch.ones(2 * channels))
        self.head = nn.Linear(2 * channels, styles)

    def statistics(self, images: Tensor) -> Tensor:
        """Images (n, 3, 128, 128) in [-1, 1] to means and standard deviations of features (n, 2 · channels)."""
        x, found = self.stem(images), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.LAYERS:
                variance, mean = torch.var_mean(x, (2, 3))
                # The square root's gradient is infinite where a channel is constant.
                found += [mean, (variance + 1e-4).sqrt()]
        return torch.cat(found, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, 128, 128) in [-1, 1] to logits (n, styles)."""
        return self.head((self.statistics(images) - self.mean) / self.std)

    def fold(self) -> StyleNetwork:
        """The same network with every batch normalisation folded into its convolution."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self
