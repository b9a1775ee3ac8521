"""InitialNoise noise from its reward-tilted posterior, by Langevin dynamics without rejection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .objective import NoiseObjective


@dataclass(frozen=True)
class Langevin:
    """x ← sqrt(1 − γ) x + (1 − sqrt(1 − γ)) ∇r/τ + sqrt(γ) ε: gradient ascent with noise, whose stationary law is near
    N(0, I)·exp(r/τ) (reward-guided Langevin dynamics of ORIGEN, Min et al. 2025, arXiv 2503.22194).

    The norm stays near that of noise by itself. This discretisation is exact for linear rewards, in any dimension; of
    the paper, the adaptive time rescaling by the reward is left out, and the coefficients were not looked up.

    Args:
        iterations: moves, 0 or more; each costs a network call a particle.
        gamma: γ in (0, 1], the share of the variance that is renewed in a move.
        temperature: τ > 0; less is more reward.
    """

    iterations: int = 50
    gamma: float = 0.1
    temperature: float = 1.0
    needs_reward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(f"iterations = {self.iterations} must be 0 or more")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma = {self.gamma} must lie above 0 and at most at 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be positive; less is more reward")

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        x, keep = noise, math.sqrt(1 - self.gamma)
        for _ in range(self.iterations):
            _, gradient = objective.evaluate(x)
            x = keep * x + (1 - keep) * gradient / self.temperature + math.sqrt(self.gamma) * objective.normal()
        return x
