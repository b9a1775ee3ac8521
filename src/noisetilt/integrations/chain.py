"""Deterministic sampling of an image from noise in a few steps, where the caller runs the network, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..path import Path, reverse_kernel
from ..sampling.rescaled_vjp import rescaled_vjp
from .vjp import VJP


@dataclass(frozen=True)
class ChainStep:
    """One step of a chain: x_s = x_t_weight · x_t + x0_weight · x̂_0(x_t), with the VJP of x̂_0 by x_t if needed."""

    x_t_weight: float
    x0_weight: float
    vjp: VJP | None


@dataclass(frozen=True)
class ChainResult:
    """The image x_0 (batch, *event) at the end of a chain of steps with η = 0, and these steps."""

    x_0: Tensor
    steps: Sequence[ChainStep]

    def vjp(self, gradient: Tensor) -> Tensor:
        """Jᵀ · gradient, where J is the Jacobian of x_0 by the initial noise; can be called once."""
        for step in reversed(self.steps):
            by_network = rescaled_vjp(step.vjp, step.x0_weight * gradient)
            gradient = step.x_t_weight * gradient + by_network if step.x_t_weight else by_network
        return gradient


def step_weights(path: Path, t: float, s: float) -> tuple[float, float]:
    """The weights of x_t and x̂_0 in the reverse kernel's mean from t to s with η = 0."""
    one, zero = (torch.full((1,), value, dtype=torch.float64, device="cpu") for value in (1.0, 0.0))
    of_x_t, of_x_0 = (reverse_kernel(path, x_t, x_0, t, s, eta=0)[0] for x_t, x_0 in ((one, zero), (zero, one)))
    return float(of_x_t), float(of_x_0)
