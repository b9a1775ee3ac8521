"""Deterministic sampling: x_0 as a differentiable function of the initial noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..models.denoiser import Denoiser
from ..path import Path, is_noisier, reverse_kernel


def deterministic_grid(path: Path, start: float, steps: int) -> list[float]:
    """The path's default grid with `steps` steps, with its first time replaced by `start`."""
    return [start, *path.grid(steps)[1:]]


def chain_times(grid: Sequence[float], steps: int) -> list[float]:
    """The times at which a chain of `steps` evaluates the network, evenly spaced over a grid.

    Raises:
        ValueError: if the grid has fewer than `steps` steps.
    """
    available = len(grid) - 1
    if steps > available:
        raise ValueError(
            f"chain_steps = {steps} exceeds the {available} steps of this call; reduce chain_steps or take more steps"
        )
    return [grid[round(number * available / steps)] for number in range(steps)]


def chain_grid(path: Path, grid: Sequence[float], steps: int) -> list[float]:
    """The times of a chain of `steps` over a grid, from its first to no noise; times after a noisier one are left out
    until the noise is lower than before.

    Raises:
        ValueError: if the grid has fewer than `steps` such steps.
    """
    clean = path.grid(1)[-1]
    if steps == 1:
        return [grid[0], clean]
    descending = list(grid[:1])
    for t in grid[1:]:
        if is_noisier(path, descending[-1], t):
            descending.append(t)
    return [*chain_times(descending, steps), clean]


def deterministic_chain(denoiser: Denoiser, x: Tensor, grid: Sequence[float], index: Tensor) -> Tensor:
    """x_0 (batch, *event) from x = x_T by steps of the reverse kernel with η = 0 along the grid.

    With one step the result is x̂_0, as in a one-step generator. With several steps and a gradient, each step is
    checkpointed: it stores its input only and is recomputed in the backward pass (DNO, Tang et al. 2024).

    Args:
        denoiser: x̂_0(x_t, t, index); `sample` and `optimize` do not count the recomputation in its nfe.
        x: x_T (batch, *event) at grid[0].
        grid: times from noise to data.
        index: (batch,) int64, the prompt of each row.
    """

    def step(x_t: Tensor, t: float, s: float) -> Tensor:
        return reverse_kernel(denoiser.path, x_t, denoiser(x_t, t, index), t, s, eta=0)[0]

    keep = len(grid) == 2 or not (torch.is_grad_enabled() and x.requires_grad)
    for t, s in itertools.pairwise(grid):
        x = step(x, t, s) if keep else checkpoint(step, x, t, s, use_reentrant=False)
    return x
