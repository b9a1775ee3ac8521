"""Image and text encoders of the learned scorers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING = 128


class Residual(nn.Module):
    """x + SiLU(GroupNorm(3×3 convolution of x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.norm(self.conv(x)))


def down(channels: int, out: int, stride: int = 2) -> nn.Sequential:
    """A 3×3 convolution with a stride, normalised and activated."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.GroupNorm(8, out), nn.SiLU())


class AttentionPool(nn.Module):
    """Learned queries, each with a softmax-weighted mean over the positions of a feature map."""

    def __init__(self, channels: int, queries: int, out: int) -> None:
        super().__init__()
        self.key = nn.Linear(channels, queries)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(queries * channels, out)

    def forward(self, x: Tensor) -> Tensor:
        positions = F.layer_norm(x.flatten(2).transpose(1, 2), x.shape[1:2])
        weights = torch.softmax(self.key(positions), dim=1)
        pooled = weights.transpose(1, 2) @ self.value(positions)
        return self.out(pooled.flatten(1))


def statistics(x: Tensor) -> Tensor:
    """The texture (batch, 2 channels) of (batch, channels, height, width): means and deviations over the positions."""
    return torch.cat([x.mean((2, 3)), (x.var((2, 3)) + 1e-3).sqrt()], dim=1)


class ConvEncoder(nn.Module):
    """A small strided residual convolutional network with an attention pool: the image tower of `target`.

    Returns features of the content (batch, 256) and of the texture (batch, 432). The texture is taken from the early
    layers, which have most of the information on the style; the pool over the last layer has lost it. The first layer
    (`grain`) is not normalised, because its magnitude separates flat from shaded styles.
    """

    features, texture = 256, 2 * (40 + 32 + 48 + 96)

    def __init__(self) -> None:
        super().__init__()
        self.grain = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 40, 3, 2, padding=1), nn.SiLU())
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), down(12, 32, stride=1))
        self.middle = nn.Sequential(down(32, 48), Residual(48))
        self.coarse = nn.Sequential(down(48, 96), Residual(96))
        self.last = nn.Sequential(down(96, 192), Residual(192))
        self.pool = AttentionPool(192, 4, self.features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        texture = [statistics(h) for h in (self.grain(x), fine, middle, coarse)]
        return self.pool(self.last(coarse)), torch.cat(texture, dim=1)


class NextBlock(nn.Module):
    """Depthwise 7×7 convolution, layer norm, pointwise expansion, scaled residual (Liu et al. 2022, ConvNeXt)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.mix(x).permute(0, 2, 3, 1))
        h = self.down(F.gelu(self.up(h), approximate="tanh"))
        return x + (self.scale * h).permute(0, 3, 1, 2)


class NextEncoder(nn.Module):
    """Overlapping 8×8 patches and ConvNeXt blocks, pooled by mean and log-sum-exp: the image tower of `heldout`.

    Returns features of the content (batch, 224) and of the texture (batch, 304).
    """

    features, texture = 224, 2 * (40 + 112)

    def __init__(self, width: int = 112, depth: int = 3) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 40, 3, 2, padding=1), nn.GELU(approximate="tanh"))
        self.patches = nn.Conv2d(40, width, 3, 2, padding=1)
        self.position = nn.Parameter(torch.zeros(1, width, 8, 8))
        self.blocks = nn.Sequential(*(NextBlock(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        first = self.blocks[0](self.patches(fine) + self.position)
        h = self.blocks[1:](first)
        places = self.norm(h.permute(0, 2, 3, 1)).flatten(1, 2)
        peak = torch.logsumexp(4 * places, dim=1) / 4 - math.log(places.shape[1]) / 4
        content = torch.cat([places.mean(1), peak], dim=1)
        return content, torch.cat([statistics(fine), statistics(first)], dim=1)


ENCODERS = {"target": ConvEncoder, "heldout": NextEncoder}


class TextTower(nn.Module):
    """Bags of words (texts, vocabulary) to unit vectors (texts, EMBEDDING)."""

    def __init__(self, vocabulary: int, width: int = 128) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(vocabulary, width) * 0.5)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, EMBEDDING))

    def forward(self, bags: Tensor) -> Tensor:
        mean = (bags @ self.words) / bags.sum(1, keepdim=True).clamp(min=1).sqrt()
        return F.normalize(self.mlp(mean) + mean[:, :EMBEDDING], dim=1)
