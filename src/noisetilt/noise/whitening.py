"""The whitening operator W: the nearest thing to a given direction that passes for white Gaussian noise.

W composes projections onto sets that hold white Gaussian noise with probability 1 − α: two-level order statistics of
the values and of tile energies, taken in orthonormal domains that each expose another kind of structure. Gaussian
input passes through nearly untouched, anything else comes out white and as close to itself as that allows.
Source: NTRK (arXiv 2606.18066), whitening operator; the list and order of domains are this library's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._door import check_alpha, check_batch, fixed_noise, working_dtype
from .order_statistics import clip_order_statistics

DITHER = 1e-4
TILE = 16
SMALLEST_SCORE_GRID = 64


@torch.no_grad()
def whiten(gradient: Tensor, alpha: float = 1e-4, noise: Tensor | None = None) -> Tensor:
    """W(gradient): white Gaussian as far as tests can tell, and still pointing along the gradient.

    The answer depends on the direction of the gradient only, not on its length. A little noise, 1e-4 of the gradient's
    RMS, is added first: it breaks ties, so that a sparse, constant or periodic gradient brings in no raster pattern
    where it says nothing. A row that is zero everywhere says nothing at all and is answered by noise alone.

    Args:
        gradient: (batch, *event), real floating point, any scale, two or more numbers per event.
        alpha: each bounded statistic of Gaussian input is touched with this probability.
        noise: (batch, *event), standard normal, for ties and zero rows. Left out, every row of every call uses the same
            fixed noise. Within a sampler pass fresh noise, independent of what the answer will be mixed with.

    Returns:
        (batch, *event) in the gradient's dtype, without gradient, RMS 1 in each row. float16 and bfloat16 are computed
        in float32.

    Raises:
        ValueError: for an alpha outside (0, 1), NaN or infinity, a dtype that is not real floating point, or noise of
            another shape.
    """
    check_batch(gradient, "gradient")
    check_alpha(alpha)
    if noise is not None and noise.shape != gradient.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}, expected the gradient's {tuple(gradient.shape)}; draw it with"
            " torch.randn_like(gradient)."
        )
    if gradient.shape[0] == 0:
        return gradient.detach().clone()
    x = to_unit_rms(gradient.to(working_dtype(gradient)))
    x = to_unit_rms(torch.where(x.flatten(1).any(1).view(-1, *(1,) * (x.ndim - 1)), x, 0) + DITHER * dither(x, noise))
    return whiten_white_scale(x, alpha).to(gradient.dtype)


def dither(x: Tensor, noise: Tensor | None) -> Tensor:
    """The noise for ties: the caller's, or the fixed one."""
    if noise is not None:
        return noise.to(x)
    return fixed_noise(math.prod(x.shape[1:]), x.device, x.dtype).view(1, *x.shape[1:])


def whiten_white_scale(x: Tensor, alpha: float) -> Tensor:
    """W for input of RMS 1 without ties: the spectrum over the axes, then flattened, the values last."""
    x = hartley(whiten_values(hartley(x), alpha))
    if x.ndim > 2:
        flat = x.flatten(1)
        x = hartley(whiten_values(hartley(flat), alpha)).view_as(x)
    return to_unit_rms(whiten_values(x, alpha))


def whiten_values(x: Tensor, alpha: float) -> Tensor:
    """Bring tile energies, and then values, of (batch, *event) to what white noise has."""
    width = tile_width(x.shape[1:])
    x = whiten_energies(to_unit_rms(x), width, alpha)
    return clip_order_statistics(x.reshape(x.shape[0], -1, width), alpha).view_as(x)


def whiten_energies(x: Tensor, width: int, alpha: float) -> Tensor:
    """Rescale tiles so that their energies, as normal scores on a grid of tiles, are white noise themselves."""
    tiles = x.reshape(*x.shape[:-1], -1, width) if x.shape[-1] % width == 0 else x.reshape(x.shape[0], -1, width)
    energy = tiles.square().sum(-1)
    scores = energy_to_score(energy, width)
    if scores[0].numel() >= SMALLEST_SCORE_GRID:
        wanted = hartley(clip_all(hartley(scores), alpha))
        wanted = clip_all(wanted, alpha)
    else:
        wanted = clip_all(scores, alpha)
    scale = (score_to_energy(wanted, width) / energy.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
    return (tiles * scale[..., None]).reshape(x.shape)


def clip_all(x: Tensor, alpha: float) -> Tensor:
    """One-level order statistics of (batch, *event)."""
    return clip_order_statistics(x.reshape(x.shape[0], 1, -1), alpha).view_as(x)


def energy_to_score(energy: Tensor, width: int) -> Tensor:
    """The normal score of a χ² with `width` degrees of freedom (Wilson & Hilferty 1931), finite everywhere."""
    variance = 2 / (9 * width)
    return ((energy / width).pow(1 / 3) - (1 - variance)) / math.sqrt(variance)


def score_to_energy(score: Tensor, width: int) -> Tensor:
    """The inverse of `energy_to_score`; scores below its range give energy 0."""
    variance = 2 / (9 * width)
    return width * (score * math.sqrt(variance) + (1 - variance)).clamp_min(0).pow(3)


def hartley(x: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform over the event axes: real, its own inverse, white to white."""
    spectrum = torch.fft.fftn(x, dim=tuple(range(1, x.ndim)), norm="ortho")
    return spectrum.real - spectrum.imag


def tile_width(event: tuple[int, ...]) -> int:
    """The longest run up to TILE that cuts the last axis evenly, or else the flattened event."""
    widths = [w for w in range(TILE, 3, -1) if event[-1] % w == 0] + [
        w for w in range(TILE, 0, -1) if math.prod(event) % w == 0
    ]
    return widths[0]


def to_unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to RMS 1, by way of its peak so that no square overflows; a zero row stays zero."""
    axes = tuple(range(1, x.ndim))
    peak = x.abs().amax(axes, keepdim=True)
    x = x / torch.where(peak > 0, peak, 1)
    rms = x.square().mean(axes, keepdim=True).sqrt()
    return x / torch.where(rms > 0, rms, 1)
