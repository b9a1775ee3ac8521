"""Noise tilting for rewards without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..path import Path
from .noise_tilt import NoiseTilt


@dataclass(frozen=True)
class BlackBoxTilt(NoiseTilt):
    """NTRK with a gradient estimated from reward values alone: ĝ = Σ_i (r(x̂_0 + hδ_i) − r(x̂_0 − hδ_i)) δ_i / 2hn
    (antithetic evolution strategies, Salimans et al. 2017, arXiv 1703.03864), then whitened.

    In N dimensions, n pairs capture a fraction n/N of the squared gradient; W rescales the estimate to unit variance.
    It costs 2n reward evaluations per step, and no network call.

    Args:
        rho, schedule, alpha: as for NoiseTilt.
        draws: number n of perturbation pairs x̂_0 ± hδ, 1 or more.
        width: h > 0, the standard deviation of the perturbations, in units of x_0.
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

    def perturbation_std(self, path: Path, t: float) -> float:
        """h at every t."""
        return self.width
