"""Guidance by the direction of the noise, at a fixed norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._options import check_types
from ..noise.whitening import to_unit_rms
from .step import Step


@dataclass(frozen=True)
class SphericalGaussian:
    """DSG: x_s = mean + std · sqrt(N) · d/‖d‖, d = (1 − g_r) ε + g_r sqrt(N) ∇r/‖∇r‖, ∇r = ∇_{x_t} r(x̂_0).

    Yang et al. 2024 (arXiv 2402.03201), algorithm 1 with guidance at every step. The perturbation keeps the norm
    sqrt(N) · std that Gaussian noise has in N dimensions. Where ∇r = 0 the step is that of the pretrained kernel.

    Args:
        guidance_rate: g_r in [0, 1]: 0 takes the direction of ε alone, 1 that of the gradient alone. The paper uses
            0.1 or 0.2 for inverse problems in 100 steps or fewer.
    """

    guidance_rate: float = 0.02
    needs_gradient: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True
    # x_s lies on a sphere.
    known_density: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.guidance_rate <= 1:
            raise ValueError(f"guidance_rate = {self.guidance_rate} must lie between 0 (noise) and 1 (gradient)")

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        direction = torch.lerp(noise, to_unit_rms(step.gradient), self.guidance_rate)
        guided = (step.gradient != 0).flatten(1).any(1).view(-1, *[1] * (noise.ndim - 1))
        return step.mean + step.std * torch.where(guided, to_unit_rms(direction), noise)
