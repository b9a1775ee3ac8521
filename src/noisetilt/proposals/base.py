"""The pretrained reverse kernel itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .step import Step


@dataclass(frozen=True)
class Base:
    """x_s = mean + std · ε: DDPM (Ho et al. 2020) at η = 1, DDIM (Song et al. 2021) at η = 0."""

    needs_gradient: ClassVar[bool] = False

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * noise
