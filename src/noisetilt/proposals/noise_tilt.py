"""The noise-tilted reverse kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..noise import whiten
from ..path import noise_share
from .step import Step

Schedule = Literal["constant", "bump", "early"]
SCHEDULES = {
    "constant": lambda u: 1.0,
    "bump": lambda u: 4 * u * (1 - u),
    "early": lambda u: u**2,
}


@dataclass(frozen=True)
class NoiseTilt:
    """NTRK: x_s = mean + std · ε̃, ε̃ = sqrt(ρ_t) W(∇_{x_t} r(x̂_0)) + sqrt(1 − ρ_t) ε (arXiv 2606.18066).

    Mean and std stay those of the pretrained kernel; W whitens the gradient until it is indistinguishable from
    Gaussian noise. Where α_t = 0 nothing of x_0 is in x_t, the gradient is zero, and the step is plain noise.

    Args:
        rho: ρ ∈ [0, 1], the greatest share of the noise's variance that the gradient takes.
        schedule: how ρ_t follows u = σ_t/(α_t + σ_t): "constant" ρ; "bump" 4u(1 − u)·ρ; "early" u²·ρ.
        alpha: 1 − confidence of W's sets.
    """

    rho: float = 0.05
    schedule: Schedule = "constant"
    alpha: float = 1e-4
    needs_gradient: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho = {self.rho} must lie between 0 (plain noise) and 1 (whitened gradient alone)")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule = {self.schedule!r} is unknown; give one of {', '.join(SCHEDULES)}")

    def rho_at(self, step: Step) -> float:
        """ρ_t of a step, 0 where there is no gradient."""
        if step.path.alpha(step.t) == 0:
            return 0.0
        return self.rho * SCHEDULES[self.schedule](noise_share(step.path, step.t))

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        rho = self.rho_at(step)
        if rho == 0 or step.std == 0:
            return step.mean + step.std * noise
        # W breaks ties with noise of its own; reversed, the step's noise serves, as good as independent of itself.
        dither = noise.flatten(1).flip(1).view_as(noise)
        tilt = whiten(step.gradient, alpha=self.alpha, noise=dither)
        mixed = math.sqrt(rho) * tilt + math.sqrt(1 - rho) * noise
        steered = (step.gradient.flatten(1) != 0).any(1).view(-1, *[1] * (noise.ndim - 1))
        return step.mean + step.std * torch.where(steered, mixed, noise)
