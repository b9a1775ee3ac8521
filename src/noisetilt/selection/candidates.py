"""What a selection is told, and what it must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """All particles of all images at the start of a step; tensors are (image, particle).

    rewards are r(x̂_0), or None if not asked for. log_ratio is the log density of the base kernel over that of the
    proposal, at the move that led here (zero before the first). uniform are random numbers in [0, 1). number counts
    from 1 to steps.
    """

    rewards: Tensor | None
    log_ratio: Tensor
    uniform: Tensor
    number: int
    steps: int


class Selection(Protocol):
    """Chooses among the particles of one image.

    `particles` is their number; `needs_rewards` says whether rewards are needed at every step, not only at the end.
    A state of its own choice goes from step to step, None at the start.
    """

    @property
    def particles(self) -> int: ...

    @property
    def needs_rewards(self) -> bool: ...

    def choose(self, candidates: Candidates, state: Any) -> tuple[Tensor | None, Any]:
        """Which particle each goes on from, (image, particle) int64, or None for itself; and the new state."""

    def winner(self, rewards: Tensor) -> Tensor:
        """Which particle is returned, (image,) int64, from final rewards (image, particle)."""
