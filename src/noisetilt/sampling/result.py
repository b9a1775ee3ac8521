"""The result of `sample`, and what it reports to a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .trace import Trace


@dataclass(frozen=True)
class StepReport:
    """The argument of `sample`'s callback after each step.

    Attributes:
        number: of the step, from 1 to `steps`.
        steps: number of reverse steps.
        t: time at the start of the step.
        rewards: (image,), r(x̂_0) of each image's best particle, or None.
        images: a function that returns x̂_0 of each image's best particle, decoded: (image, 3, H, W) in [0, 1]. It
            decodes when it is called, which takes a pass through the decoder of a latent model.
    """

    number: int
    steps: int
    t: float
    rewards: Tensor | None
    images: Callable[[], Tensor]


@dataclass
class Result:
    """The result of `sample`.

    Attributes:
        images: (image, 3, H, W) in [0, 1].
        rewards: (image,), of the final images, or None without a reward.
        trace: the history of all steps.
        heldout: (image,), held-out rewards of the final images, or None without a held-out reward.
    """

    images: Tensor
    rewards: Tensor | None
    trace: Trace
    heldout: Tensor | None = None
