"""Independent particles and Best-of-N."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .._options import check_types
from .candidates import Candidates


def check_particles(particles: int) -> None:
    """Refuse a number of particles below 1."""
    if particles < 1:
        raise ValueError(f"particles = {particles} must be 1 or more per image")


@dataclass(frozen=True)
class Independent:
    """Independent trajectories; the particle with the highest final reward is returned (Best-of-N).

    Args:
        particles: trajectories per image, 1 or more; 1 is a single trajectory.
    """

    particles: int = 1
    needs_rewards: ClassVar[bool] = False
    correct: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_types(self)
        check_particles(self.particles)

    def choose(self, candidates: Candidates, state: Any) -> tuple[None, None]:
        return None, None

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
