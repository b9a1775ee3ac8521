"""Training-free guidance, which contains DPS, LGD, MPGD, FreeDoM and universal guidance as special cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..path import Path
from .mean_shift import check_count, check_scale
from .step import Step
from .universal import ascend_reward


@dataclass(frozen=True)
class TrainingFreeGuidance:
    """TFG (Ye et al. 2024, arXiv 2409.15761), with strengths that increase towards the data.

    x_s = mean + std · ε + (α_s/α_t) Δ_t + α_s Δ_0 (algorithm 1). Δ_t = ρ_t ∇_{x_t} log E exp r(x̂_0 + γ̄ σ_t δ) is the
    variance guidance; the mean guidance Δ_0 is the sum of `iterations` steps of gradient ascent on r from x̂_0, of size
    μ_t. ρ_t = rho · α_t and μ_t = mu · α_t. The recurrence is a TimeTravel. Unlike the paper, the mean guidance is not
    smoothed.

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
        return self.gamma * path.sigma(t)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        alpha = step.path.alpha(step.t)
        shift = ascend_reward(step, step.x0_hat, self.mu * alpha, self.iterations) - step.x0_hat
        return step.mean + step.std * noise + step.path.alpha(step.s) * (self.rho * step.gradient + shift)
