"""Structured vectors (everything that white noise is not), shared by the scripts of this folder."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F


def coloured(white: Tensor, exponent: float) -> Tensor:
    """White images (…, H, W) with their spectrum shaped to |f|^−exponent."""
    fy, fx = (torch.fft.fftfreq(n) for n in white.shape[-2:])
    f = (fy[:, None] ** 2 + fx**2).sqrt().clamp_min(1 / max(white.shape[-2:]))
    return torch.fft.ifft2(torch.fft.fft2(white) * f**-exponent).real


def structured(event: tuple[int, int, int], count: int, seed: int = 0) -> dict[str, Tensor]:
    """Name → (count, *event): a bank of inputs for whitening, all random but for their structure."""
    c, h, w = event
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    kept = torch.rand(count, c, h, w, generator=generator) < 0.01
    phase = normal(2, 1, 1)
    return {
        "white noise": normal(c, h, w),
        "1/f": coloured(normal(c, h, w), 1),
        "1/f²": coloured(normal(c, h, w), 2),
        "slightly coloured": coloured(normal(c, h, w), 0.25),
        "blurred noise": F.avg_pool2d(F.pad(normal(c, h, w), (2, 2, 2, 2), mode="circular"), 5, 1),
        "constant": torch.ones(count, c, h, w),
        "checkerboard": ((-1.0) ** (torch.arange(h)[:, None] + torch.arange(w))).expand(count, c, h, w).clone(),
        "one pixel": F.one_hot(torch.randint(c * h * w, (count,), generator=generator), c * h * w)
        .float()
        .view(-1, c, h, w),
        "1 % of pixels": normal(c, h, w) * kept,
        "repeated 8×8 tile": normal(c, 8, 8).repeat(1, 1, h // 8, w // 8),
        "noise + grid": normal(c, h, w) + 0.5 * normal(c, 8, 8).repeat(1, 1, h // 8, w // 8),
        "rank 2": torch.einsum("ncrh,ncrw->nchw", normal(c, 2, h), normal(c, 2, w)),
        "channel copies": normal(1, h, w).repeat(1, c, 1, 1),
        "related channels": normal(c, h, w) + 0.5 * normal(1, h, w),
        "noise in a disc": normal(c, h, w) * torch.exp(-8 * (x**2 + y**2)),
        "one wave": torch.cos(math.pi * (7 * y + 12 * x) + phase[:, :1]).expand(count, c, h, w).clone(),
        "heavy tails": normal(c, h, w) / normal(c, h, w).abs().clamp_min(1e-3),
        "signs": normal(c, h, w).sign(),
        "positive part": normal(c, h, w).relu(),
        "stripes": normal(c, 1, w) + 0.1 * normal(c, h, w),
        "constant + noise": 1 + 0.5 * normal(c, h, w),
    }


def real(file: Path, count: int) -> dict[str, Tensor]:
    """Name → (count, *event): reward gradients, pictures and their edges, as gradients.py has stored them.

    Gradients have the shape of the model's states and pictures that of its images.
    """
    if not file.exists():
        return {}
    found = {name: x[torch.arange(count) % len(x)] for name, x in load_file(file).items()}
    pictures = found.pop("pictures")
    found["pictures"] = pictures - pictures.mean((1, 2, 3), keepdim=True)
    found["edges"] = pictures.diff(dim=-1, append=pictures[..., :1])
    return found


def held_out(event: tuple[int, int, int], count: int, seed: int = 1) -> dict[str, Tensor]:
    """Name → (count, *event): inputs that nothing was chosen by."""
    c, h, w = event
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    angle = (math.pi * torch.rand(count, 1, 1, 1, generator=generator)).expand(count, c, h, w)
    turned = x * angle.cos() + y * angle.sin()
    blobs = F.avg_pool2d(normal(c, h, w).abs().pow(6), 7, 1, 3)
    return {
        "chirp": torch.cos(40 * turned.square() + 3 * turned),
        "half of it": normal(c, h, w) * (turned > 0),
        "ramp + salt": turned + 3 * (torch.rand(count, c, h, w, generator=generator) < 0.02),
        "blobs": blobs,
        "random walk": normal(c * h * w).cumsum(1).view(-1, c, h, w),
        "rounded": (1.5 * normal(c, h, w)).round(),
        "mirrored": (lambda z: z + z.flip(3))(normal(c, h, w)),
        "sawtooth": (turned * 5).frac() + 0.02 * normal(c, h, w),
        "noise × picture": normal(c, h, w) * coloured(normal(c, h, w), 1.5),
    }
