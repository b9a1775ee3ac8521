"""Plain Gaussian initial noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .objective import NoiseObjective


@dataclass(frozen=True)
class Gaussian:
    """x_T is standard Gaussian noise, scaled to the path's prior."""

    needs_reward: ClassVar[bool] = False

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        return noise
