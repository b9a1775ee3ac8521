"""The network of emoji64: a pixel-space flow-matching transformer with a bag-of-words text encoder.

It predicts x_0 from x_t in pixel space with 8×8 patches: clean images lie on a low-dimensional manifold that a narrow
network can represent, while noise and velocity do not (Li & He 2025, arXiv 2511.13720). A small convolutional head
removes the seams between patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 8
SIZE = 64


def fourier_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t ∈ [0, 1], shape (batch,) → (batch, width), with periods from 1000 to 0.1."""
    octaves = torch.linspace(math.log(1e-3), math.log(10.0), width // 2, device=t.device)
    angles = 2 * math.pi * t[:, None].float() * octaves.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(t.dtype)


def pool_words(bags: Tensor, vectors: Tensor) -> Tensor:
    """The sum of a bag's word vectors divided by the square root of their number, which makes the norm independent of
    the number of words. The empty bag gives the zero vector, the unconditional input."""
    return (bags @ vectors) / bags.sum(1, keepdim=True).clamp(min=1).sqrt()


def join_patches(patches: Tensor) -> Tensor:
    """Images (batch, 3, 64, 64) from their patches (batch, 64, 192)."""
    grid = SIZE // PATCH
    return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (grid, grid)), PATCH)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys.

    Matmul, softmax and matmul: for 64 tokens on a CPU, its backward pass is much faster than that of the fused kernel.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((heads, 1, 1), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = F.layer_norm(q, q.shape[-1:])
        k = F.layer_norm(k, k.shape[-1:])
        scale = self.scale.exp().to(q.dtype) / q.shape[-1]
        weights = torch.softmax((q * scale) @ k.transpose(-2, -1), dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """A transformer block with layer norms that are shifted, scaled and gated by the condition (adaLN-zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(h)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale2) + shift2
        return x + gate2 * self.down(F.gelu(self.up(h), approximate="tanh"))


class SeamHead(nn.Module):
    """A convolutional residual on [x̂_0, x_t] across patch borders, at half resolution for speed."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(24, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.third = nn.Conv2d(channels, 12, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels)
        for last in (self.modulation, self.third):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x0_hat: Tensor, x_t: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.pixel_unshuffle(torch.cat([x0_hat, x_t], dim=1), 2))
        h = F.silu(h * (1 + scale) + shift)
        h = F.silu(self.second(h))
        return x0_hat + F.pixel_shuffle(self.third(h), 2)


class Layout(nn.Module):
    """Features of every patch from the words alone: (batch, tokens, channels) from bags of words.

    The condition of the transformer blocks is the same for all patches, and many layers would be needed to derive
    positions and shapes from it. This small network does so directly. It is trained separately, in minutes, to predict
    the mean image of a prompt (`sketch`), and its output is added to the tokens.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.words = nn.Parameter(torch.randn(vocabulary, width) * 0.5)
        self.net = nn.Sequential(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, (SIZE // PATCH) ** 2 * channels),
        )
        self.patch = nn.Linear(channels, 3 * PATCH * PATCH)

    def forward(self, bags: Tensor) -> Tensor:
        return self.net(pool_words(bags, self.words)).unflatten(1, (-1, self.channels))

    def sketch(self, layout: Tensor) -> Tensor:
        """The mean image (batch, 3, 64, 64) of a layout."""
        return join_patches(self.patch(layout))


class Emoji64(nn.Module):
    """x_0 prediction for 64×64 RGB images in [-1, 1], conditioned on a bag of words.

    Args:
        vocabulary: number of words of the text encoder.
        width, depth, heads: of the transformer.
        head_channels: channels of the convolutional residual head.
        layout_hidden, layout_channels: widths of `Layout`.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 256,
        depth: int = 7,
        heads: int = 4,
        head_channels: int = 32,
        layout_hidden: int = 1024,
        layout_channels: int = 32,
    ) -> None:
        super().__init__()
        self.config = dict(
            vocabulary=vocabulary,
            width=width,
            depth=depth,
            heads=heads,
            head_channels=head_channels,
            layout_hidden=layout_hidden,
            layout_channels=layout_channels,
        )
        self.width = width
        channels = 3 * PATCH * PATCH
        self.words = nn.Parameter(torch.randn(vocabulary, width) * 0.5)
        self.text = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layout = Layout(vocabulary, width, layout_hidden, layout_channels)
        self.layout_in = nn.Linear(layout_channels, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.patch_in = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.randn(1, (SIZE // PATCH) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, channels)
        self.head = SeamHead(width, head_channels)
        for last in (self.modulation, self.patch_out, self.layout_in):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode_text(self, bags: Tensor) -> Tensor:
        """Bags of words (batch, vocabulary), 1 where a word is present, to conditions (batch, features): the
        concatenated text vector and layout."""
        return torch.cat([self.text(pool_words(bags, self.words)), self.layout(bags).flatten(1)], dim=1)

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """x̂_0 (batch, 3, 64, 64) from x_t of the same shape, t ∈ [0, 1] (batch,) and the output of `encode_text`
        (batch, features)."""
        text, layout = text[:, : self.width], text[:, self.width :].unflatten(1, (-1, self.layout.channels))
        condition = F.silu(text + self.time(fourier_features(t, self.width).to(text.dtype)))
        patches = F.pixel_unshuffle(x_t, PATCH).flatten(2).transpose(1, 2)
        h = self.patch_in(patches) + self.position + self.layout_in(layout)
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        coarse = join_patches(self.patch_out(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift))
        return self.head(coarse, x_t.to(coarse.dtype), condition)
