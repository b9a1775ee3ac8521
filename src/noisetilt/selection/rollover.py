"""Rollover budget forcing: candidates are drawn at each step until the reward improves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .._options import check_types
from .candidates import Candidates


class Budget(NamedTuple):
    """The state of RolloverBudget; all tensors are (image,).

    highest is the best reward of the previous steps, best that of this step, and remaining (int64) the network calls
    left, which this step uses up if `exhaust`. noises is the number of initial noises that were planned.
    """

    highest: Tensor
    best: Tensor
    remaining: Tensor
    exhaust: bool
    noises: int


@dataclass(frozen=True)
class RolloverBudget:
    """RBF: at each step, candidates are drawn until one exceeds the best reward of the previous steps; unused network
    calls roll over to the next step (Kim et al. 2025, arXiv 2503.19385, and its code).

    The first step evaluates several initial noises and continues from the best. The last step draws candidates until
    all calls are used. A step without calls left uses its best candidate. The calls that the initial noises leave are
    granted evenly to the other steps. The model's path is kept, where the paper also converts a flow to a
    variance-preserving interpolant.

    Args:
        budget: network calls per step on average, 1 or more; 20 for 25 steps gives the 500 of the papers.
        initial_noises: initial noises that are evaluated, 1 or more, as far as the budget leaves each other step one
            call. The authors' code has 25.
    """

    budget: int = 20
    initial_noises: int = 25
    particles: ClassVar[int] = 1
    needs_rewards: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        if self.budget < 1:
            raise ValueError(f"budget = {self.budget} must be 1 or more network calls per step")
        if self.initial_noises < 1:
            raise ValueError(f"initial_noises = {self.initial_noises} must be 1 or more")

    def open_step(self, rewards: Tensor, state: Budget | None, number: int, steps: int, fixed: bool = False) -> Budget:
        """The state after the first candidate of step `number` of `steps`, with its rewards (image,). If it is `fixed`,
        there are no other candidates."""
        if state is None:
            noises = 1 if fixed else min(self.initial_noises, (self.budget - 1) * steps + 1)
            highest, remaining = torch.full_like(rewards, -torch.inf), torch.zeros_like(rewards, dtype=torch.int64)
        else:
            noises, highest, remaining = state.noises, torch.maximum(state.highest, state.best), state.remaining
        granted = self._granted(number, steps, noises) - self._granted(number - 1, steps, noises)
        return Budget(highest, rewards, remaining + granted - 1, number in (1, steps), noises)

    def _granted(self, number: int, steps: int, noises: int) -> int:
        """The network calls of the first `number` steps."""
        calls = self.budget * steps
        if number == steps:
            return calls
        return noises + (calls - noises) * (number - 1) // (steps - 1) if number else 0

    def wants_more(self, state: Budget) -> Tensor:
        """Which images need another candidate, (image,) bool."""
        left = state.remaining > 0
        return left if state.exhaust else left & (state.best <= state.highest)

    def update(self, state: Budget, images: Tensor, rewards: Tensor) -> Budget:
        """The state after one more candidate for some images (indices), with its rewards."""
        best = state.best.index_copy(0, images, torch.maximum(state.best[images], rewards))
        remaining = state.remaining.index_add(0, images, -torch.ones_like(images))
        return state._replace(best=best, remaining=remaining)

    def choose(self, candidates: Candidates, state: Any) -> tuple[None, Any]:
        return None, state

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
