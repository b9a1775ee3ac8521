"""Training-free guidance, which contains DPS, LGD, MPGD, FreeDoM and universal guidance as special cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._options import check_types
from ..path import Path, signal_ratio, state_scale
from .mean_shift import check_count, check_scale
from .step import Step
from .universal import ascend_reward


@dataclass(frozen=True)
class TrainingFreeGuidance:
    """TFG (Ye et al. 2024, arXiv 2409.15761), with strengths that increase towards the data.

    x_s = mean + std · ε + (ᾱ_s/ᾱ_t)^½ Δ_t + ᾱ_s^½ Δ_0 (algorithm 1). Δ_t = ρ_t ∇_{x_t} log E exp r(x̂_0 + γ̄ σ_t δ) is
    the variance guidance; the mean guidance Δ_0 is the sum of `iterations` steps of gradient ascent on r from x̂_0, of
    size μ_t. ρ_t = rho · q_t and μ_t = mu · q_t, with the paper's schedule "increase": q_t is ᾱ_t/ᾱ_s, divided by its
    mean over the steps of the grid where the grid is known. The recurrence is a TimeTravel. Unlike the paper, the mean
    guidance is not smoothed.

    ᾱ, σ and x_t are those of the variance-preserving path of the same noise levels (`path.state_scale`), so that images
    are the same on variance-exploding paths.

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
        check_types(self)
        for name in ("rho", "mu", "gamma"):
            check_scale(getattr(self, name), name)
        check_count(self.iterations, "iterations", 0)
        check_count(self.draws, "draws", 1)

    def perturbation_std(self, path: Path, t: float) -> float:
        """γ̄ σ_t at time t."""
        return self.gamma * path.sigma(t) / state_scale(path, t)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        ratio = signal_ratio(step.path, step.t, step.s)
        mean_ratio = 1.0 if step.process is None else step.process.mean_signal_ratio
        increase = ratio / mean_ratio if mean_ratio else 0.0
        # q_t (ᾱ_s/ᾱ_t)^½ without a division by ᾱ_t, which may be 0.
        variance_rate = self.rho * math.sqrt(ratio) / mean_ratio if mean_ratio else 0.0
        shift = ascend_reward(step, step.x0_hat, self.mu * increase, self.iterations) - step.x0_hat
        guidance = state_scale(step.path, step.s) * variance_rate * step.preserving_gradient
        return step.mean + step.std * noise + guidance + step.path.alpha(step.s) * shift
