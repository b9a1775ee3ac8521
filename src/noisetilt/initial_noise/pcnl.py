"""Initial noise from its reward-tilted distribution, by Markov chain Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._messages import whole_number
from .._options import check_types
from .objective import NoiseObjective


def log_acceptance(u: Tensor, v: Tensor, r_u: Tensor, r_v: Tensor, g_u: Tensor, g_v: Tensor, delta: float) -> Tensor:
    """log acceptance ratio of the proposal u → v for the target N(0, I)·exp(r) (Cotter et al. 2013).

    ‖u‖² and ‖v‖² cancel and are left out, which keeps precision in high dimension. u, v and gradients are
    (image, particle, *event), rewards and the result (image, particle).
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(2).sum(2)

    def rho(a: Tensor, b: Tensor, r: Tensor, g: Tensor) -> Tensor:
        return -r - 0.5 * dot(b - a, g) - 0.25 * delta * dot(a + b, g) + 0.25 * delta * dot(g, g)

    return rho(u, v, r_u, g_u) - rho(v, u, r_v, g_v)


@dataclass(frozen=True)
class PCNL:
    """Ψ-Sampler's first stage: preconditioned Crank–Nicolson Langevin chains with the stationary distribution
    N(0, I)·exp(r(x̂_0)/τ) (Yoon et al. 2025, arXiv 2506.01320; Cotter et al. 2013, Statistical Science 28).

    Each particle is one chain, which costs iterations + 1 network calls. In directions in which the reward is constant
    the noise stays Gaussian, in any dimension.

    Args:
        iterations: steps of each chain, 0 or more.
        delta: step size δ in (0, 2]; smaller steps are accepted more often.
        temperature: τ > 0; a lower value gives more weight to the reward.
    """

    iterations: int = 12
    delta: float = 0.1
    temperature: float = 1.0
    needs_reward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "iterations", whole_number("iterations", self.iterations, 0))
        check_types(self)
        if not 0 < self.delta <= 2:
            raise ValueError(f"delta = {self.delta} must be in (0, 2]")
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be positive, such as 1.0")

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        u, delta = noise, self.delta
        r_u, g_u = (value / self.temperature for value in objective.evaluate(u))
        for _ in range(self.iterations):
            v = ((2 - delta) * u + 2 * delta * g_u + (8 * delta) ** 0.5 * objective.normal()) / (2 + delta)
            r_v, g_v = (value / self.temperature for value in objective.evaluate(v))
            accepted = objective.uniform().log() < log_acceptance(u, v, r_u, r_v, g_u, g_v, delta)
            mask = accepted.view(*accepted.shape, *[1] * (u.ndim - 2))
            u, g_u = torch.where(mask, v, u), torch.where(mask, g_v, g_u)
            r_u = torch.where(accepted, r_v, r_u)
        return u
