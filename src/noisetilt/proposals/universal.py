"""Universal guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._options import check_types
from ..path import has_signal, state_scale
from .mean_shift import check_count, check_scale
from .step import Step


def ascend_reward(step: Step, x0_hat: Tensor, rate: float, iterations: int) -> Tensor:
    """x̂_0 after `iterations` steps of gradient ascent on the reward, without network calls."""
    for _ in range(iterations if rate else 0):
        x0_hat = x0_hat + rate * step.reward_gradient(x0_hat)
    return x0_hat


def mean_at(step: Step, x0_hat: Tensor) -> Tensor:
    """The reverse kernel's mean at another x̂_0, with ε̂ recomputed from it."""
    alpha_s, sigma_s = step.path.alpha(step.s), step.path.sigma(step.s)
    coefficient = max(0.0, sigma_s**2 - step.std**2) ** 0.5 / step.path.sigma(step.t)
    return (alpha_s - coefficient * step.path.alpha(step.t)) * x0_hat + coefficient * step.x_t


@dataclass(frozen=True)
class UniversalGuidance:
    """UGD: forward guidance through the network, then backward guidance on x̂_0 (Bansal et al. 2023, arXiv 2302.07121).
    Its recurrence is a TimeTravel.

    Forward: ε̂ ← ε̂ − scale · σ_t · ∇_{x_t} r(x̂_0), where x_t has signal (`path.has_signal`). Backward: x̂_0 moves by
    `iterations` steps of gradient ascent, and ε̂ is recomputed. On variance-exploding paths the image is that of the
    variance-preserving path of the same noise levels.

    Args:
        scale: strength s ≥ 0 of the forward guidance.
        rate: step size ≥ 0 of the backward ascent.
        iterations: steps m ≥ 0 of the backward ascent.
    """

    scale: float = 1.0
    rate: float = 0.1
    iterations: int = 1
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        check_scale(self.scale)
        check_scale(self.rate, "rate")
        check_count(self.iterations, "iterations", 0)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        alpha, sigma = step.path.alpha(step.t), step.path.sigma(step.t)
        if alpha == 0:
            return step.mean + step.std * noise
        forward = step.x0_hat
        if has_signal(step.path, step.t):
            # σ²/α of the variance-preserving path is that of this path divided by its scale.
            rate = self.scale * sigma**2 / alpha / state_scale(step.path, step.t)
            forward = forward + rate * step.preserving_gradient
        return mean_at(step, ascend_reward(step, forward, self.rate, self.iterations)) + step.std * noise
