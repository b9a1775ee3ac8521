"""What `sample` returns, and what it reports after each step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .trace import Trace


@dataclass(frozen=True)
class StepReport:
    """What a callback is told after each step: its number from 1, how many there are, t, and r(x̂_0) (image,)."""

    number: int
    steps: int
    t: float
    rewards: Tensor | None


@dataclass
class Result:
    """Pictures (image, 3, H, W) in [0, 1], their final rewards (image,) or None without a reward, the trace, and their
    held-out rewards (image,) or None without one."""

    images: Tensor
    rewards: Tensor | None
    trace: Trace
    heldout: Tensor | None = None
