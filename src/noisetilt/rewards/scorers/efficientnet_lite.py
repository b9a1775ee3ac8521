"""EfficientNet-Lite: the convolutional networks that the scorers are built on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 1280  # channels of the last layer, for every variant
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # width and depth multipliers
# (blocks, kernel, stride, expansion, channels) of each stage of EfficientNet-B0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32


def _scaled_channels(channels: int, width: float) -> int:
    """A multiple of eight near channels · width, and never less than 90 % of it."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class ConvNorm(nn.Module):
    """A convolution padded as TensorFlow's "SAME", batch normalisation, and ReLU6 if `activation`."""

    def __init__(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out, eps=1e-3, momentum=0.01)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if kernel > 1:
            # An even side at stride 2 needs one row more at the end than at the start.
            height, width = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.activation else x

    @torch.no_grad()
    def fold(self) -> None:
        """Makes the normalisation part of the convolution, for inference."""
        if isinstance(self.norm, nn.Identity):
            return
        norm: Any = self.norm
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.conv.weight.mul_(factor[:, None, None, None])
        self.conv.bias = nn.Parameter(norm.bias - norm.running_mean * factor)
        self.norm = nn.Identity()


class Block(nn.Module):
    """Expansion, depthwise convolution, projection; with a skip connection where the shape stays."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        layers = [ConvNorm(channels, inner)] if expansion > 1 else []
        layers += [
            ConvNorm(inner, inner, kernel, stride, groups=inner),
            ConvNorm(inner, out, activation=False),
        ]
        self.layers = nn.Sequential(*layers)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skip else self.layers(x)


class EfficientNetLite(nn.Module):
    """Images to features: (n, 3, h, w) in [-1, 1] to (n, 1280, h/32, w/32).

    Source: EfficientNet (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as
    TensorFlow's EfficientNet-Lite has it.

    Args:
        variant: a key of VARIANTS.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        width, depth = VARIANTS[variant]
        self.stem = ConvNorm(3, STEM, 3, 2)
        blocks, channels = [], STEM
        for number, (repeats, kernel, stride, expansion, base) in enumerate(STAGES):
            out = _scaled_channels(base, width)
            # The first and the last stage keep their depth in the Lite variants.
            if 0 < number < len(STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            for index in range(repeats):
                blocks.append(Block(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """Features (n, 1280), averaged over the positions."""
        return self(x).mean((2, 3))

    def fold(self) -> EfficientNetLite:
        """The same network with every batch normalisation folded into its convolution."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self
