"""Noise tilting for rewards without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..path import Path
from .noise_tilt import NoiseTilt


@dataclass(frozen=True)
class BlackBoxTilt(NoiseTilt):
    """NTRK with a gradient estimated from reward values alone: ĝ = Σ_i (r(x̂_0 + hδ_i) − r(x̂_0 − hδ_i)) δ_i / 2hn, then
    whitened (antithetic evolution strategies, Salimans et al. 2017, arXiv 1703.03864, in place of the gradient).

    In N dimensions n pairs find a share n/N of the squared gradient; W brings it to the noise's full size. It costs 2n
    rewards a step, and no network call.

    Args:
        rho, schedule, alpha: as for NoiseTilt.
        draws: pairs n of pictures around x̂_0, 1 or more.
        width: h > 0, the standard deviation of those pictures, in units of x_0.
    """

    draws: int = 32
    width: float = 0.1
    zeroth_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws = {self.draws} must be 1 or more")
        if not self.width > 0:
            raise ValueError(f"width = {self.width} must be positive")

    def spread(self, path: Path, t: float) -> float:
        """h, at every time."""
        return self.width
