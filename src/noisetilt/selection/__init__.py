"""Which particles go on, and which one is returned."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .independent import Independent
from .search import Search

__all__ = ["Independent", "Search", "Selection"]


class Selection(Protocol):
    """Chooses among the particles of one image.

    `particles` is their number; `needs_rewards` says whether rewards are needed at every step, not only at the end.
    """

    particles: int
    needs_rewards: bool

    def ancestors(self, rewards: Tensor | None, uniform: Tensor) -> Tensor | None:
        """Which particle each goes on from, (image, particle) int64, or None for itself, given the rewards of x̂_0
        and uniform random numbers in [0, 1), both (image, particle)."""

    def winner(self, rewards: Tensor) -> Tensor:
        """Which particle is returned, (image,) int64, from final rewards (image, particle)."""
