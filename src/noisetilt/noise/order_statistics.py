"""Two-level order statistics (2OS): bounds on the sorted values of a white Gaussian vector, and clipping to them.

Split a vector of N = M·D numbers into M tiles of D. Sort within each tile, then sort each column over the tiles:
Z_{r,j} is the r-th smallest, over tiles, of the j-th smallest in a tile. For Gaussian input each Z_{r,j} has a known
distribution, hence an interval [L, U] that holds it with probability 1 − α. Source: NTRK (arXiv 2606.18066).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ._checks import check_alpha, check_finite, without_autocast, working_dtype
from ._constants import constant, releasable


@without_autocast
@torch.no_grad()
def project_order_statistics(tiles: Tensor, alpha: float = 1e-4) -> Tensor:
    """Clip the two-level order statistics Z of each vector to [L, U]: sort, clip, unsort.

    Sorting is 1-Lipschitz, so the distance from the input to {Y : L ≤ Z(Y) ≤ U} is at least ‖Z − clip(Z)‖. The result
    moves by exactly this distance, so it is the Euclidean projection whenever it lies in the set. It always does for
    one tile (M = 1) and for tiles of one number (D = 1). Otherwise the entries of one tile are clipped by bounds of
    different ranks and may change their order; the result is then a step towards the set, and repeated calls come
    nearer to it.

    Args:
        tiles: (batch, M, D), real floating point, of unit scale.
        alpha: probability in (0, 1) with which each Z_{r,j} of Gaussian input is outside [L, U].

    Returns:
        (batch, M, D) in the input's dtype, without gradient. float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: for another number of axes, an alpha outside (0, 1), NaN or infinity, or a dtype that is not real
            floating point.
    """
    if not isinstance(tiles, Tensor) or tiles.ndim != 3 or not tiles.is_floating_point():
        got = f"{tuple(tiles.shape)} {tiles.dtype}" if isinstance(tiles, Tensor) else type(tiles).__name__
        raise ValueError(
            f"tiles is {got}, expected a real floating-point tensor (batch, M, D); reshape each vector to M × D."
        )
    check_finite(tiles, "tiles")
    check_alpha(alpha)
    if tiles.numel() == 0:
        return tiles.detach().clone()
    return clip_order_statistics(tiles.to(working_dtype(tiles)), alpha).to(tiles.dtype)


def clip_order_statistics(tiles: Tensor, alpha: float) -> Tensor:
    """`project_order_statistics` without checks of its arguments."""
    low, high = bounds(tiles.shape[1], tiles.shape[2], alpha, tiles.device, tiles.dtype)
    rows, within = sort_last(tiles)
    columns, across = sort_last(rows.transpose(1, 2).contiguous())
    clipped = columns.clamp(low.T, high.T)
    rows = torch.empty_like(clipped).scatter_(2, across, clipped).transpose(1, 2)
    return torch.empty_like(tiles).scatter_(2, within, rows)


def sort_last(x: Tensor) -> tuple[Tensor, Tensor]:
    """x in ascending order along its last axis, and the indices. Uses NumPy on a CPU, which is several times faster."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return x.sort(dim=-1)
    order = torch.from_numpy(np.argsort(x.detach().numpy(), axis=-1))
    return x.gather(-1, order), order


def two_level_sort(tiles: Tensor) -> Tensor:
    """Z (…, M, D) of tiles (…, M, D)."""
    return tiles.sort(dim=-1).values.sort(dim=-2).values


@constant
def bounds(tiles: int, width: int, alpha: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """L and U, each (M, D) = (tiles, width), ascending along both axes."""
    low = torch.from_numpy(lower_bounds(tiles, width, alpha)).to(dtype).to(device)
    return low, -low.flip(0, 1)


@releasable
@functools.lru_cache(maxsize=64)
def lower_bounds(tiles: int, width: int, alpha: float) -> np.ndarray:
    """L_{r,j} = Φ⁻¹(F_j⁻¹(Beta(r, M−r+1)⁻¹(α/2))), with F_j the CDF of Beta(j, D−j+1); U follows by symmetry.

    Every probability and its complement are computed directly, so that precision is kept near 0 and 1. The inverse
    incomplete beta function fails near 1e-300, so levels below 1e-100 are replaced by 1e-100.
    """
    alpha = max(alpha, 1e-100)
    r = np.arange(1, tiles + 1, dtype=np.float64)[:, None]
    j = np.arange(1, width + 1, dtype=np.float64)[None, :]
    p = special.betaincinv(r, tiles - r + 1, alpha / 2)
    p_complement = special.betainccinv(tiles - r + 1, r, alpha / 2)
    lower = (p < 0.5).ravel()
    u, u_complement = np.empty((tiles, width)), np.empty((tiles, width))
    u[lower] = special.betaincinv(j, width - j + 1, p[lower])
    u_complement[lower] = special.betainccinv(width - j + 1, j, p[lower])
    u[~lower] = special.betainccinv(j, width - j + 1, p_complement[~lower])
    u_complement[~lower] = special.betaincinv(width - j + 1, j, p_complement[~lower])
    smallest = np.finfo(np.float64).tiny
    u, u_complement = np.maximum(u, smallest), np.maximum(u_complement, smallest)
    return np.where(u < 0.5, special.ndtri(u), -special.ndtri(u_complement))
