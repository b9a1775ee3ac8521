"""The kernel's mean shifted along the reward's gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .step import Step


def check_scale(scale: float, name: str = "scale") -> None:
    """Refuses a negative strength."""
    if not scale >= 0:
        raise ValueError(f"{name} = {scale} must be 0 or more; rewards are maximised already")


@dataclass(frozen=True)
class MeanShift:
    """DPS: x_s = mean + std · ε + scale · ∇_{x_t} r(x̂_0) (Chung et al. 2023, arXiv 2209.14687, algorithm 1).

    Standardised, the perturbation is ε plus a deterministic part, so it is not Gaussian and quality drops as the scale
    grows.

    Args:
        scale: step size ≥ 0, in units of x per unit of reward gradient. The paper writes it ζ_i (0.3 to 1) and divides
            by ‖y − A(x̂_0)‖, which makes it the gradient of that norm itself.
    """

    scale: float = 1.0
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * noise + self.scale * step.gradient


@dataclass(frozen=True)
class NormalisedMeanShift:
    """FreeDoM's step: the shift is as long as `scale` times the kernel's noise (Yu et al. 2023, arXiv 2303.09833).

    x_s = mean + std · (ε + scale · sqrt(N) · g/‖g‖), g = ∇_{x_t} r(x̂_0). The paper's code makes it a share of
    classifier-free guidance's correction instead, which not every model has.

    Args:
        scale: length of the shift relative to the noise, ≥ 0; the paper's code uses 0.2 of the correction.
    """

    scale: float = 0.2
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        flat = step.gradient.flatten(1)
        length = flat.norm(dim=1).clamp(min=torch.finfo(flat.dtype).tiny).view(-1, *[1] * (noise.ndim - 1))
        return step.mean + step.std * (noise + self.scale * math.sqrt(flat.shape[1]) * step.gradient / length)
