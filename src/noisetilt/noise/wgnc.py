"""Projection onto the white-Gaussian norm constraints (WGNC): gives x a spectrum as flat as that of white noise.

A block of B consecutive coefficients of CN(0, I) has ‖y‖₁ ≈ (√π/2) B and ‖y‖₂² ≈ B; here both hold exactly.
Source: GPER (arXiv 2602.08646), white-Gaussian feasible set and its projection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._messages import whole_number
from ._checks import check_batch, without_autocast, working_dtype
from ._constants import fixed_noise
from .deterministic import cumulative_sum
from .spectrum import check_even, from_spectrum, to_spectrum

MEAN_MAGNITUDE = math.sqrt(math.pi) / 2


@without_autocast
@torch.no_grad()
def project_wgnc(x: Tensor, block_size: int = 16) -> Tensor:
    """The nearest point to x at which every block of the compact spectrum has ‖y‖₁ = (√π/2) B and ‖y‖₂² = B.

    Blocks are B = block_size consecutive coefficients of `to_spectrum`. If B does not divide N/2, the remaining
    coefficients join the last block, whose norms are those of its own length (a short block would be hardly random,
    and a single coefficient cannot have both norms). The result depends on the direction of x only.

    If several points are equally near, a fixed table of random numbers selects one, which avoids a regular pattern. A
    coefficient that is exactly zero takes its phase from the table. If a fraction of more than π/4 of a block has the
    largest magnitude (all magnitudes equal, or a zero block), every point of the set that is supported on these
    coefficients is nearest; the one nearest to the magnitudes of the table is returned.

    Args:
        x: (batch, *event), real floating point, N ≥ 4 numbers per event, N even; any scale. Zero is allowed.
        block_size: B ≥ 2.

    Returns:
        (batch, *event) in x's dtype, without gradient, ‖·‖² = N; float64 meets the norms to 1e-9, float16 and bfloat16
        are computed in float32.

    Raises:
        ValueError: for odd N or N < 4, block_size < 2, NaN or infinity, or a tensor that is not real floating point.
    """
    check_batch(x, "x")
    block_size = whole_number("block_size", block_size, 2, ", because one number cannot meet two norms")
    count = math.prod(x.shape[1:])
    check_even(count)
    if count < 4:
        raise ValueError(f"the event holds {count} numbers, expected 4 or more (one block of two); use larger events.")
    event, dtype = x.shape[1:], x.dtype
    if x.shape[0] == 0:
        return x.detach().clone()
    y = to_spectrum(unit_peak(x))
    half, size = y.shape[1], min(block_size, y.shape[1])
    split = half if half % size == 0 else (half // size - 1) * size
    table = fixed_noise(2 * half, y.device, y.real.dtype).view(2, half)
    parts = (
        project_blocks(part.unflatten(1, (-1, width)), choice.unflatten(1, (-1, width))).flatten(1)
        for part, choice, width in (
            (y[:, :split], table[:, :split], size),
            (y[:, split:], table[:, split:], half - split),
        )
        if part.shape[1]
    )
    return from_spectrum(torch.cat(list(parts), dim=1), event).to(dtype)


def unit_peak(x: Tensor) -> Tensor:
    """x in working precision, each event scaled to a largest magnitude of 1 so that no square overflows."""
    x = x.to(working_dtype(x))
    peak = x.flatten(1).abs().amax(dim=1).view(-1, *(1,) * (x.ndim - 1))
    return x / torch.where(peak > 0, peak, torch.ones_like(peak))


def project_blocks(y: Tensor, table: Tensor) -> Tensor:
    """The nearest points to y (batch, blocks, B), block by block.

    For fixed magnitudes the best phases are y's own, which leaves: maximise Σ a_j |y_j| over a ≥ 0 with
    Σ a_j = (√π/2) B and Σ a_j² = B. table (2, blocks, B) resolves ties and missing phases.
    """
    magnitude = y.abs()
    angle = 2 * math.pi * torch.special.ndtr(table[0])
    own = y / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny)
    phase = torch.where(magnitude > 0, own, torch.polar(torch.ones_like(angle), angle))
    phase = phase / phase.abs()
    return nearest_magnitudes(magnitude, table[1].abs().expand_as(magnitude)) * phase


def nearest_magnitudes(magnitude: Tensor, preference: Tensor) -> Tensor:
    """The a ≥ 0 with Σa = (√π/2) B, Σa² = B that maximises Σ a·magnitude, along the last axis (B entries, B ≥ 2).

    With w the magnitudes in descending order, entry n is active iff ‖ReLU(w − w_n)‖₁ < (√π/2) √B ‖ReLU(w − w_n)‖₂, as
    that ratio of norms falls monotonically in the threshold λ and equals (√π/2) √B at the solution. Prefix sums
    use w − w_0 instead of w, which keeps precision when magnitudes are close to each other.
    """
    size = magnitude.shape[-1]
    least_active = MEAN_MAGNITUDE**2 * size
    top = magnitude == magnitude.amax(-1, keepdim=True)
    tied = top.sum(-1, keepdim=True) >= least_active
    magnitude = torch.where(tied, torch.where(top, preference, -1e3), magnitude)

    w, order = magnitude.sort(dim=-1, descending=True)
    u = w - w[..., :1]
    u = u / -u[..., -1:]
    s1, s2 = cumulative_sum(u), cumulative_sum(u.square())
    n = torch.arange(1, size + 1, device=u.device, dtype=u.dtype)
    above1 = s1 - n * u
    above2 = s2 - 2 * u * s1 + n * u.square()
    active = (above1.square() < least_active * above2) | (n <= least_active)

    last = active.sum(-1, keepdim=True) - 1
    count = n[last]
    mean = s1.gather(-1, last) / count
    deviation = torch.where(active, u - mean, 0)
    spread = ((size - least_active * size / count) / deviation.square().sum(-1, keepdim=True)).sqrt()
    a = torch.where(active, MEAN_MAGNITUDE * size / count + spread * deviation, 0)
    return torch.empty_like(a).scatter_(-1, order, a)
