"""A picture as a differentiable function of the noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..models.denoiser import Denoiser
from ..path import Path, reverse_kernel


def deterministic_grid(path: Path, start: float, steps: int) -> list[float]:
    """Times of `steps` steps from `start` to the data: the path's own grid, begun at `start`."""
    return [start, *path.grid(steps)[1:]]


def deterministic_chain(denoiser: Denoiser, x: Tensor, grid: Sequence[float], index: Tensor) -> Tensor:
    """x_0 (batch, *event) that the reverse kernel with η = 0 makes of x = x_T, step by step along the grid.

    One step is x̂_0 itself: a one-step generator. Where a gradient is wanted through several, each step keeps its input
    only and is computed again on the way back, so that memory does not grow with the steps (DNO, Tang et al. 2024).

    Args:
        denoiser: x̂_0(x_t, t, index); the computing again is not counted in its nfe by `sample` and `optimize`.
        x: x_T (batch, *event) at grid[0].
        grid: times from noise to data.
        index: (batch,) which prompt each row has.
    """

    def step(x_t: Tensor, t: float, s: float) -> Tensor:
        return reverse_kernel(denoiser.path, x_t, denoiser(x_t, t, index), t, s, eta=0)[0]

    keep = len(grid) == 2 or not (torch.is_grad_enabled() and x.requires_grad)
    for t, s in itertools.pairwise(grid):
        x = step(x, t, s) if keep else checkpoint(step, x, t, s, use_reentrant=False)
    return x
