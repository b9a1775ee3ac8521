"""Candidates one after the other, until one is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .candidates import Candidates


class Budget(NamedTuple):
    """Reward to beat, best reward of this step, and network calls left in this step, each (image,)."""

    bar: Tensor
    best: Tensor
    left: Tensor


@dataclass(frozen=True)
class RolloverBudget:
    """RBF: candidates are drawn one by one until one beats the reward reached so far; calls that a step did not need
    roll over to the next (Kim et al. 2025, arXiv 2503.19385). A step that runs out takes its best.

    Args:
        budget: network calls a step on average, 1 or more; 20 for 25 steps are the 500 of the papers.
    """

    budget: int = 20
    particles: ClassVar[int] = 1
    needs_rewards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget = {self.budget} must be 1 call a step or more")

    def open_step(self, rewards: Tensor, state: Budget | None) -> Budget:
        """The budget after a step's first candidates, whose rewards are (image,)."""
        saved = torch.zeros_like(rewards) if state is None else state.left
        bar = torch.full_like(rewards, -torch.inf) if state is None else torch.maximum(state.bar, state.best)
        return Budget(bar, rewards, saved + self.budget - 1)

    def wants_more(self, state: Budget) -> Tensor:
        """Which images want another candidate, (image,) bool."""
        return (state.best <= state.bar) & (state.left > 0)

    def update(self, state: Budget, images: Tensor, rewards: Tensor) -> Budget:
        """The budget after one more candidate of some images (indices), with its rewards."""
        best = state.best.index_copy(0, images, torch.maximum(state.best[images], rewards))
        return Budget(state.bar, best, state.left.index_add(0, images, -torch.ones_like(rewards)))

    def choose(self, candidates: Candidates, state: Any) -> tuple[None, Any]:
        return None, state

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
