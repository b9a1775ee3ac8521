"""A named reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Reward:
    """A function of pictures and prompts, with a name for tables and a word on its gradient.

    Args:
        name: for messages, tables and files.
        function: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,).
        differentiable: False for black boxes, which methods that need a gradient refuse.
    """

    name: str
    function: Callable[[Tensor, Sequence[str]], Tensor]
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.function(images, prompts)


def weighted_sum(terms: Sequence[tuple[float, Reward]], name: str) -> Reward:
    """Σ weight · reward; differentiable if all its terms are."""

    def total(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return sum(weight * reward(images, prompts) for weight, reward in terms)

    return Reward(name, total, all(reward.differentiable for _, reward in terms))
