"""Initial noise from its reward-tilted distribution, by Langevin dynamics without rejection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._messages import whole_number
from .._options import check_types
from .objective import NoiseObjective


@dataclass(frozen=True)
class Langevin:
    """x ← sqrt(1 − γ) x + (1 − sqrt(1 − γ)) ∇r/τ + sqrt(γ) ε: gradient ascent with noise, whose stationary distribution
    is close to N(0, I)·exp(r/τ) (reward-guided Langevin dynamics of ORIGEN, Min et al. 2025, arXiv 2503.22194).

    The norm stays close to that of noise. The discretisation is exact for linear rewards in any dimension. The paper's
    adaptive time rescaling is not implemented, and the coefficients were not checked against the paper.

    Args:
        iterations: steps, 0 or more; each costs one network call per particle.
        gamma: γ in (0, 1], the fraction of the variance that is replaced in a step.
        temperature: τ > 0; a lower value gives more weight to the reward.
    """

    iterations: int = 50
    gamma: float = 0.1
    temperature: float = 1.0
    needs_reward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "iterations", whole_number("iterations", self.iterations, 0))
        check_types(self)
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma = {self.gamma} must be in (0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be positive, such as 1.0")

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        x, decay = noise, math.sqrt(1 - self.gamma)
        for _ in range(self.iterations):
            _, gradient = objective.evaluate(x)
            x = decay * x + (1 - decay) * gradient / self.temperature + math.sqrt(self.gamma) * objective.normal()
        return x
