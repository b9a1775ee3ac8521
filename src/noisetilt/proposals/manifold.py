"""Manifold-preserving guidance: a shift of x̂_0, without the network's Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._options import check_types
from .mean_shift import check_scale
from .step import Step


@dataclass(frozen=True)
class ManifoldShift:
    """MPGD: x̂_0 ← x̂_0 + scale · ∇_{x̂_0} r(x̂_0), with ε̂ unchanged (He et al. 2024, arXiv 2311.16424).

    The gradient is not propagated through the network, which about halves the cost of a step.

    Args:
        scale: step size c_t ≥ 0, in units of x_0 per unit of gradient.
    """

    scale: float = 1.0
    needs_gradient: ClassVar[bool] = True
    gradient_at: ClassVar[str] = "x0"

    def __post_init__(self) -> None:
        check_types(self)
        check_scale(self.scale)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.path.alpha(step.s) * self.scale * step.gradient + step.std * noise
