"""What a strategy for the initial noise is given, and what it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor


@dataclass(frozen=True)
class NoiseObjective:
    """The rewards of initial noises, and fresh random numbers; tensors are (image, particle, …).

    evaluate gives r(x̂_0(noise)) (image, particle) and its gradient with respect to the noise, for one network call
    each. normal and uniform give standard Gaussian noise of the event's shape and numbers in [0, 1).
    """

    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]]
    normal: Callable[[], Tensor]
    uniform: Callable[[], Tensor]


class InitialNoise(Protocol):
    """Chooses the initial noise. `needs_reward` says whether it looks at rewards."""

    needs_reward: ClassVar[bool]

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        """Standard Gaussian noise (image, particle, *event) to the noise that sampling starts from."""
