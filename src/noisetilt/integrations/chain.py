"""A picture that several steps make of noise, and the way back through them, where someone else calls the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..path import Path, reverse_kernel

VJP = Callable[[Tensor], Tensor]


def rescaled_vjp(vjp: VJP, gradient: Tensor) -> Tensor:
    """vjp(gradient) (batch, *event), computed on rows of peak 1: it is linear, and half precision would lose a
    small gradient to underflow."""
    peak = gradient.abs().amax(tuple(range(1, gradient.ndim)), keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    return vjp(gradient / peak) * peak


@dataclass(frozen=True)
class ChainStep:
    """A step of a chain, x_s = keep · x_t + lead · x̂_0(x_t), and Jᵀ of x̂_0 by x_t where it is wanted."""

    keep: float
    lead: float
    vjp: VJP | None


@dataclass(frozen=True)
class ChainResult:
    """What a chain of steps with η = 0 made of noise: x_0 (batch, *event), by these steps."""

    x_0: Tensor
    steps: Sequence[ChainStep]

    def vjp(self, gradient: Tensor) -> Tensor:
        """Jᵀ · gradient, J the Jacobian of x_0 by the noise; to be called once."""
        for step in reversed(self.steps):
            through = rescaled_vjp(step.vjp, step.lead * gradient)
            gradient = step.keep * gradient + through if step.keep else through
        return gradient


def coefficients(path: Path, t: float, s: float) -> tuple[float, ...]:
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
