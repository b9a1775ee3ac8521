"""Training-free guidance, which contains DPS, LGD, MPGD, FreeDoM and universal guidance as special cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..path import Path
from .mean_shift import check_count, check_scale
from .step import Step
from .universal import ascend_reward


def state_scale(path: Path, t: float) -> float:
    """n_t = max(1, sqrt(α_t² + σ_t²)), which states of unit data are divided by to have the scale of the paper's
    variance-preserving paths; 1 on these and on flows."""
    return max(1.0, math.hypot(path.alpha(t), path.sigma(t)))


@dataclass(frozen=True)
class TrainingFreeGuidance:
    """TFG (Ye et al. 2024, arXiv 2409.15761), with strengths that increase towards the data.

    x_s = mean + std · ε + (α_s/α_t) Δ_t + α_s Δ_0 (algorithm 1). Δ_t = ρ_t ∇_{x_t} log E exp r(x̂_0 + γ̄ σ_t δ) is the
    variance guidance; the mean guidance Δ_0 is the sum of `iterations` steps of gradient ascent on r from x̂_0, of size
    μ_t. ρ_t = rho · α_t and μ_t = mu · α_t. The recurrence is a TimeTravel. Unlike the paper, the mean guidance is not
    smoothed. On variance-exploding paths α, σ and x_t are those of the variance-preserving path with the same σ/α
    (`state_scale`), so that the image is the same.

    Args:
        rho: strength ρ̄ of the variance guidance ≥ 0; mu = 0 gives DPS, with smoothing LGD.
        mu: strength μ̄ of the mean guidance ≥ 0; rho = 0 gives MPGD.
        gamma: smoothing γ̄ ≥ 0 of the reward, in units of σ_t.
        iterations: N_iter ≥ 0 of the mean guidance; the paper uses 4.
        draws: number of samples for the smoothing.
    """

    rho: float = 1.0
    mu: float = 0.1
    gamma: float = 0.1
    iterations: int = 4
    draws: int = 1
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("rho", "mu", "gamma"):
            check_scale(getattr(self, name), name)
        check_count(self.iterations, "iterations", 0)
        check_count(self.draws, "draws", 1)

    def perturbation_std(self, path: Path, t: float) -> float:
        """γ̄ σ_t at time t."""
        return self.gamma * path.sigma(t) / state_scale(path, t)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        scale = state_scale(step.path, step.t)
        rate = self.mu * step.path.alpha(step.t) / scale
        shift = ascend_reward(step, step.x0_hat, rate, self.iterations) - step.x0_hat
        return step.mean + step.std * noise + step.path.alpha(step.s) * (self.rho * scale * step.gradient + shift)
