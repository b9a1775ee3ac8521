"""A picture that several steps make of noise, and the way back through them, where someone else calls the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..path import Path, reverse_kernel

PullBack = Callable[[Tensor], Tensor]


def unscaled(pull_back: PullBack, gradient: Tensor) -> Tensor:
    """pull_back(gradient) (batch, *event), computed on rows of peak 1: it is linear, and half precision would lose a
    small gradient to underflow."""
    peak = gradient.abs().amax(tuple(range(1, gradient.ndim)), keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    return pull_back(gradient / peak) * peak


@dataclass(frozen=True)
class Link:
    """A step of a chain, x_s = keep · x_t + lead · x̂_0(x_t), and Jᵀ of x̂_0 by x_t where it is wanted."""

    keep: float
    lead: float
    pull_back: PullBack | None


@dataclass(frozen=True)
class Made:
    """What a chain of steps with η = 0 made of noise: x_0 (batch, *event), by these links."""

    x_0: Tensor
    links: Sequence[Link]

    def back(self, gradient: Tensor) -> Tensor:
        """Jᵀ · gradient, J the Jacobian of x_0 by the noise; to be called once."""
        for link in reversed(self.links):
            through = unscaled(link.pull_back, link.lead * gradient)
            gradient = link.keep * gradient + through if link.keep else through
        return gradient


def coefficients(path: Path, t: float, s: float) -> tuple[float, float]:
    """keep and lead of the reverse kernel with η = 0 from t to s."""
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return tuple(float(reverse_kernel(path, x_t, x_0, t, s, eta=0)[0]) for x_t, x_0 in ((one, none), (none, one)))


def chain_times(grid: Sequence[float], steps: int) -> list[float]:
    """The times at which a chain of `steps` asks the network, spread evenly over a grid of as many steps or more.

    Raises:
        ValueError: if the grid has fewer.
    """
    most = len(grid) - 1
    if steps > most:
        raise ValueError(
            f"chain_steps = {steps} is more than the {most} steps of this call; give fewer, or more num_inference_steps"
        )
    return [grid[round(number * most / steps)] for number in range(steps)]
