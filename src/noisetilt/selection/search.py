"""Selection that looks at the reward of x̂_0 at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Search:
    """SVDD: at every step all particles restart from the best candidate (Li et al. 2024, arXiv 2408.08252).

    A candidate x_s is judged by r(x̂_0(x_s)), which is next step's denoising of that particle, so K candidates cost K
    network calls a step.

    Args:
        particles: candidates K a step, 1 or more.
        temperature: 0 takes the best; above, each particle's ancestor is drawn with probability ∝ exp(r/temperature).
    """

    particles: int = 20
    temperature: float = 0.0
    needs_rewards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"particles = {self.particles} must be 1 or more")
        if not self.temperature >= 0:
            raise ValueError(f"temperature = {self.temperature} must be 0 (take the best) or more")

    def ancestors(self, rewards: Tensor, uniform: Tensor) -> Tensor:
        if self.temperature == 0:
            return rewards.argmax(dim=1, keepdim=True).expand_as(rewards)
        cumulative = torch.softmax(rewards / self.temperature, dim=1).cumsum(dim=1)
        return torch.searchsorted(cumulative, uniform.to(cumulative).contiguous()).clamp(max=self.particles - 1)

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
