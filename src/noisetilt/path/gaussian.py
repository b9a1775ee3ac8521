"""Gaussian paths from data to noise.

A path has marginals x_t = α_t x_0 + σ_t ε with ε ~ N(0, I). Times, α and σ are plain Python floats, so one formula
serves every dtype and device. A path is any object with the methods of `Path`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from .grids import karras_grid, uniform_grid


class Path(Protocol):
    """The interface of a Gaussian path."""

    def alpha(self, t: float) -> float:
        """α_t ≥ 0, the coefficient of x_0."""

    def sigma(self, t: float) -> float:
        """σ_t ≥ 0, the standard deviation of the noise."""

    def prior_std(self, t: float) -> float:
        """Standard deviation of x_t at the start of sampling, for x_0 of about unit variance."""

    def grid(self, steps: int) -> list[float]:
        """The default time grid: steps + 1 times, from noise to data."""


@dataclass(frozen=True)
class FlowPath:
    """Flow matching / rectified flow: α = 1 − t, σ = t, from t = 1 (noise) to t = 0 (data).

    Args:
        shift: flow shift of the default grid, t ← shift·t / (1 + (shift − 1)·t); 1 is uniform; a larger shift
            takes more steps near the noise (Esser et al. 2024, arXiv 2403.03206, eq. 23).
    """

    shift: float = 1.0

    def alpha(self, t: float) -> float:
        return 1.0 - t

    def sigma(self, t: float) -> float:
        return t

    def prior_std(self, t: float) -> float:
        return self.sigma(t)

    def grid(self, steps: int) -> list[float]:
        return uniform_grid(steps, shift=self.shift)


class VPPath:
    """Variance-preserving diffusion on a discrete schedule: α_t² = ᾱ_t, σ_t² = 1 − ᾱ_t.

    t counts training timesteps as in diffusers: 0 is the least noisy, len − 1 the noisiest, and t = −1 is the clean
    image (ᾱ = 1). Between timesteps ᾱ is interpolated linearly.

    Args:
        alphas_cumprod: ᾱ_0 > ᾱ_1 > … in (0, 1], the cumulative product of 1 − β.
    Raises:
        ValueError: if the values are not strictly decreasing in (0, 1].
    """

    def __init__(self, alphas_cumprod: Sequence[float] | np.ndarray | Tensor) -> None:
        table = np.asarray(alphas_cumprod, dtype=np.float64)
        if table.ndim != 1 or not len(table) or not (table[-1] > 0 and table[0] <= 1 and (np.diff(table) < 0).all()):
            raise ValueError(
                "alphas_cumprod must be a 1-D sequence of strictly decreasing values in (0, 1]; pass the scheduler's"
            )
        self.alphas_cumprod = table
        self._extended = np.concatenate([[1.0], table])

    @classmethod
    def from_betas(cls, betas: Sequence[float] | np.ndarray | Tensor) -> VPPath:
        """The path of a β-schedule, each β in (0, 1)."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas must be a 1-D sequence of values strictly between 0 and 1; pass the scheduler's")
        return cls(np.cumprod(1 - betas))

    def _alpha_bar(self, t: float) -> float:
        if not -1 <= t <= len(self.alphas_cumprod) - 1:
            raise ValueError(f"t = {t} is outside the schedule; give -1 (clean) to {len(self.alphas_cumprod) - 1}")
        return float(np.interp(t + 1, np.arange(len(self._extended)), self._extended))

    def alpha(self, t: float) -> float:
        return math.sqrt(self._alpha_bar(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(1.0 - self._alpha_bar(t))

    def prior_std(self, t: float) -> float:
        return 1.0

    def grid(self, steps: int) -> list[float]:
        return uniform_grid(steps, start=len(self.alphas_cumprod) - 1, end=-1)


@dataclass(frozen=True)
class VEPath:
    """Variance-exploding / EDM / k-diffusion: α = 1, σ = t.

    Args:
        sigma_min, sigma_max: ends of the default grid (Karras et al. 2022, arXiv 2206.00364, table 1).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def alpha(self, t: float) -> float:
        return 1.0

    def sigma(self, t: float) -> float:
        return t

    def prior_std(self, t: float) -> float:
        return t

    def grid(self, steps: int) -> list[float]:
        return karras_grid(steps, self.sigma_min, self.sigma_max)
