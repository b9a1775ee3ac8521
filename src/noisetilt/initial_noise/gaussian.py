"""Plain Gaussian initial noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """x_T is the standard Gaussian noise that was drawn, scaled to the path's prior."""

    def __call__(self, noise: Tensor) -> Tensor:
        """(image, particle, *event) standard Gaussian noise, as it came."""
        return noise
