"""Particles that never meet before the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .candidates import Candidates


def check_particles(particles: int) -> None:
    """Refuses a number of particles below 1."""
    if particles < 1:
        raise ValueError(f"particles = {particles} must be 1 or more")


@dataclass(frozen=True)
class Independent:
    """Every particle goes on by itself; the one with the highest final reward is returned (Best-of-N).

    Args:
        particles: trajectories an image, 1 or more; 1 is plain sampling.
    """

    particles: int = 1
    needs_rewards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_particles(self.particles)

    def choose(self, candidates: Candidates, state: Any) -> tuple[None, None]:
        return None, None

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
