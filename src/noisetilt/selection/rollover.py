"""Rollover budget forcing: candidates are drawn at each step until the reward improves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .candidates import Candidates


class Budget(NamedTuple):
    """The state of RolloverBudget; all tensors are (image,).

    target is the best reward of the previous steps, best that of this step, remaining (int64) the network calls left.
    """

    target: Tensor
    best: Tensor
    remaining: Tensor


@dataclass(frozen=True)
class RolloverBudget:
    """RBF: at each step, candidates are drawn until one exceeds the best reward of the previous steps; unused network
    calls roll over to the next step (Kim et al. 2025, arXiv 2503.19385). A step without calls left uses its best.

    Args:
        budget: average network calls per step, 1 or more; 20 for 25 steps gives the 500 of the papers.
    """

    budget: int = 20
    particles: ClassVar[int] = 1
    needs_rewards: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget = {self.budget} must be 1 or more network calls per step")

    def open_step(self, rewards: Tensor, state: Budget | None) -> Budget:
        """The state after the first candidate of a step, with its rewards (image,)."""
        unused = torch.zeros_like(rewards, dtype=torch.int64) if state is None else state.remaining
        target = torch.full_like(rewards, -torch.inf) if state is None else torch.maximum(state.target, state.best)
        return Budget(target, rewards, unused + self.budget - 1)

    def wants_more(self, state: Budget) -> Tensor:
        """Which images need another candidate, (image,) bool."""
        return (state.best <= state.target) & (state.remaining > 0)

    def update(self, state: Budget, images: Tensor, rewards: Tensor) -> Budget:
        """The state after one more candidate for some images (indices), with its rewards."""
        best = state.best.index_copy(0, images, torch.maximum(state.best[images], rewards))
        return Budget(state.target, best, state.remaining.index_add(0, images, -torch.ones_like(images)))

    def choose(self, candidates: Candidates, state: Any) -> tuple[None, Any]:
        return None, state

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)
