"""Particles that never meet before the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Independent:
    """Every particle goes on by itself; the one with the highest final reward is returned (Best-of-N).

    Args:
        particles: trajectories an image, 1 or more; 1 is plain sampling.
    """

    particles: int = 1
    needs_rewards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"particles = {self.particles} must be 1 or more")

    def ancestors(self, rewards: Tensor | None, uniform: Tensor) -> None:
        return None

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
