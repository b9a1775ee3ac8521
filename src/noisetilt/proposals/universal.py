"""Universal guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .mean_shift import check_scale
from .step import Step


def ascend(step: Step, x0_hat: Tensor, rate: float, iterations: int) -> Tensor:
    """x̂_0 after gradient ascent on the reward, without the network."""
    for _ in range(iterations):
        x0_hat = x0_hat + rate * step.reward_gradient(x0_hat)
    return x0_hat


def mean_for(step: Step, x0_hat: Tensor) -> Tensor:
    """The reverse kernel's mean for another x̂_0, with ε̂ recomputed from it."""
    alpha_s, sigma_s = step.path.alpha(step.s), step.path.sigma(step.s)
    keep = max(0.0, sigma_s**2 - step.std**2) ** 0.5 / step.path.sigma(step.t)
    return (alpha_s - keep * step.path.alpha(step.t)) * x0_hat + keep * step.x_t


@dataclass(frozen=True)
class UniversalGuidance:
    """UGD: forward guidance through the network, then backward guidance on x̂_0 (Bansal et al. 2023, arXiv 2302.07121);
    its recurrence is a TimeTravel.

    Forward: ε̂ ← ε̂ − scale · σ_t · ∇_{x_t} r(x̂_0). Backward: Δ = `iterations` steps of ascent from x̂_0, and ε̂ is
    recomputed from x̂_0 + Δ.

    Args:
        scale: forward strength s ≥ 0.
        rate: step size of the backward ascent ≥ 0.
        iterations: steps m of the backward ascent ≥ 0.
    """

    scale: float = 1.0
    rate: float = 0.1
    iterations: int = 1
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_scale(self.rate, "rate")

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        alpha, sigma = step.path.alpha(step.t), step.path.sigma(step.t)
        if alpha == 0:
            return step.mean + step.std * noise
        forward = step.x0_hat + (self.scale * sigma**2 / alpha) * step.gradient
        return mean_for(step, ascend(step, forward, self.rate, self.iterations)) + step.std * noise
