"""Mean shift with a reward that is smoothed by Monte-Carlo samples near x̂_0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._options import check_types
from ..path import Path
from .mean_shift import check_scale
from .step import Step


@dataclass(frozen=True)
class MonteCarloShift:
    """LGD-MC: mean shift along ∇_{x_t} log (1/n) Σ_i exp r(x̂_0 + r_t ε_i) (Song et al. 2023, "Loss-Guided Diffusion
    Models for Plug-and-Play Controllable Generation", ICML).

    r_t is the standard deviation of x_0 given x_t for data of unit variance, σ/sqrt(α² + σ²).

    Args:
        scale: as for DPS (`MeanShift`), ≥ 0.
        draws: number n of samples near x̂_0, 1 or more. Each costs a reward evaluation, but no network call.
    """

    scale: float = 1.0
    draws: int = 10
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        check_scale(self.scale)
        if self.draws < 1:
            raise ValueError(f"draws = {self.draws} must be 1 or more")

    @staticmethod
    def perturbation_std(path: Path, t: float) -> float:
        """r_t at time t."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        return sigma / (alpha**2 + sigma**2) ** 0.5

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * noise + self.scale * step.gradient
