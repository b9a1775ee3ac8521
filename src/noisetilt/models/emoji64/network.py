"""The network of emoji64: a pixel-space flow-matching transformer with a bag-of-words text encoder.

It predicts x_0 from x_t directly in pixels, with patches as large as 8×8, because a clean picture lies on a
low-dimensional manifold that a narrow network can reach, and noise or velocity do not (Li & He 2025,
arXiv 2511.13720). A small convolutional head afterwards works across patch borders, so no seams remain.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 8
SIZE = 64


def fourier_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t ∈ [0, 1], shape (batch,) → (batch, width), periods from 1000 down to 0.1."""
    octaves = torch.linspace(math.log(1e-3), math.log(10.0), width // 2, device=t.device)
    angles = 2 * math.pi * t[:, None].float() * octaves.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(t.dtype)


def mean_word(bags: Tensor, vectors: Tensor) -> Tensor:
    """The sum of a bag's word vectors by the root of their number, so that one word and ten words give inputs of
    one size; the empty bag is the zero vector and means "any picture"."""
    return (bags @ vectors) / bags.sum(1, keepdim=True).clamp(min=1).sqrt()


def join_patches(patches: Tensor) -> Tensor:
    """Pictures (batch, 3, 64, 64) from the values of their patches (batch, 64, 192)."""
    grid = SIZE // PATCH
    return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (grid, grid)), PATCH)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys.

    Written as matmul, softmax, matmul: on 64 tokens its backward is much faster on a CPU than the fused kernel's.
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
    """A transformer block whose layer norms are shifted, scaled and gated by the condition (adaLN-zero)."""

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
    """A convolutional residual on [x̂_0, x_t] that reaches across patch borders, at half resolution for speed."""

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
    """What the words alone say about every patch: (batch, tokens, channels) from bags of words.

    The condition of the transformer's blocks is the same for all patches, and turning it into places and shapes costs
    it many layers and many pictures. This small network of its own does only that, can be trained alone, in minutes,
    to the mean picture of a prompt, and is added to the tokens. `sketch` shows that mean picture.
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
        return self.net(mean_word(bags, self.words)).unflatten(1, (-1, self.channels))

    def sketch(self, layout: Tensor) -> Tensor:
        """The mean picture (batch, 3, 64, 64) that a layout stands for."""
        return join_patches(self.patch(layout))


class Emoji64(nn.Module):
    """x_0 prediction for 64×64 RGB pictures in [-1, 1], conditioned on a bag of words.

    Args:
        vocabulary: number of words the text encoder knows.
        width, depth, heads: of the transformer.
        head_channels: channels of the convolutional residual head.
        layout_hidden, layout_channels: of the words' own view of each patch.
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
        """Bags of words (batch, vocabulary), 1 where a word is present, to conditions (batch, features): the text
        vector of the blocks, then the layout."""
        return torch.cat([self.text(mean_word(bags, self.words)), self.layout(bags).flatten(1)], dim=1)

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """x̂_0 of shape (batch, 3, 64, 64) from x_t of the same shape, t ∈ [0, 1] of shape (batch,) and
        the text encoder's output (batch, features)."""
        text, layout = text[:, : self.width], text[:, self.width :].unflatten(1, (-1, self.layout.channels))
        condition = F.silu(text + self.time(fourier_features(t, self.width).to(text.dtype)))
        patches = F.pixel_unshuffle(x_t, PATCH).flatten(2).transpose(1, 2)
        h = self.patch_in(patches) + self.position + self.layout_in(layout)
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        coarse = join_patches(self.patch_out(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift))
        return self.head(coarse, x_t.to(coarse.dtype), condition)
