"""The scorer's network: from an image to its style, and to a unit vector that words and concepts share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisetilt.rewards.scorers.efficientnet_lite import FEATURES, EfficientNetLite

WIDTH, SIDE = 192, 128


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
