"""The interface of selections, and the candidates that they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """All particles of all images at the start of a step; tensors are (image, particle).

    rewards are r(x̂_0), or None if the method needs none. log_ratio is the log density ratio of the base kernel to the
    proposal for the previous step (zero at the first). uniform are random numbers in [0, 1). number is 1 to steps.
    """

    rewards: Tensor | None
    log_ratio: Tensor
    uniform: Tensor
    number: int
    steps: int


class Selection(Protocol):
    """Chooses among the particles of one image.

    `particles` is the number of particles per image. `needs_rewards` is whether rewards are needed at every step, not
    only at the end. The selection defines its own state, which is None at the first step. The optional attribute
    `continues_from_best` = True says that all particles continue from the one with the highest reward: the gradient is
    then computed for that one alone, where this takes no further network call. `correct` = False says that it does not
    read log_ratio, which is then zero.
    """

    @property
    def particles(self) -> int: ...

    @property
    def needs_rewards(self) -> bool: ...

    def choose(self, candidates: Candidates, state: Any) -> tuple[Tensor | None, Any]:
        """The ancestor of each particle, (image, particle) int64, or None to keep all particles; and the new state."""

    def winner(self, rewards: Tensor) -> Tensor:
        """The index of the returned particle, (image,) int64, from final rewards (image, particle)."""


class RedrawingSelection(Selection, Protocol):
    """A selection with one particle that draws several candidates in a step; see `RolloverBudget`."""

    def open_step(self, rewards: Tensor, state: Any, number: int, steps: int, fixed: bool = False) -> Any:
        """The state after the first candidate of step `number`, 1 to `steps`, with its rewards (image,). If it is
        `fixed`, there are no other candidates."""

    def wants_more(self, state: Any) -> Tensor:
        """Which images need another candidate, (image,) bool."""

    def update(self, state: Any, images: Tensor, rewards: Tensor) -> Any:
        """The state after one more candidate for some images (indices), with its rewards."""
