"""Proposals that shift the kernel's mean along the reward's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .step import Step


@dataclass(frozen=True)
class MeanShift:
    """DPS: x_s = mean + std · ε + scale · ∇_{x_t} r(x̂_0) (Chung et al. 2023, arXiv 2209.14687, algorithm 1).

    Standardised, the perturbation is ε plus a deterministic part, so it is not Gaussian and quality drops as the scale
    grows.

    Args:
        scale: step size ≥ 0, in units of x per unit of reward gradient. The paper writes it ζ_i and scales it by
            1/‖y − A(x̂_0)‖, which is the gradient of that norm itself.
    """

    scale: float = 1.0
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale = {self.scale} must be 0 or more; rewards are maximised already")

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * noise + self.scale * step.gradient
