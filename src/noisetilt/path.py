"""Gaussian paths from data to noise, time grids on them, and the reverse kernel.

A path has marginals x_t = α_t x_0 + σ_t ε with ε ~ N(0, I). Times are plain Python floats, α and σ too, so one
formula serves every dtype and device. A path is any object with the methods of `Path`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class Path(Protocol):
    """What the samplers ask of a path."""

    def alpha(self, t: float) -> float:
        """α_t ≥ 0, the share of x_0."""

    def sigma(self, t: float) -> float:
        """σ_t ≥ 0, the standard deviation of the noise."""

    def prior_std(self, t: float) -> float:
        """Standard deviation of x_t where sampling starts, when x_0 has about unit variance."""

    def grid(self, steps: int) -> list[float]:
        """The default time grid: steps + 1 times from noise to data."""


@dataclass(frozen=True)
class FlowPath:
    """Flow matching / rectified flow: α = 1 − t, σ = t, from t = 1 (noise) to t = 0 (data).

    Args:
        shift: flow shift of the default grid, t ← shift·t / (1 + (shift − 1)·t); 1 is uniform, more spends more
            steps near the noise (Esser et al. 2024, arXiv 2403.03206, eq. 23).
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

    t counts training timesteps as diffusers does: 0 is the least noisy one, len − 1 the noisiest, and t = −1 is the
    clean picture (ᾱ = 1). Between timesteps ᾱ is interpolated linearly.

    Args:
        alphas_cumprod: ᾱ_0 > ᾱ_1 > … in (0, 1], the cumulative product of 1 − β.
    Raises:
        ValueError: if the values do not fall strictly inside (0, 1].
    """

    def __init__(self, alphas_cumprod: Sequence[float] | np.ndarray | Tensor) -> None:
        table = np.asarray(alphas_cumprod, dtype=np.float64)
        if table.ndim != 1 or not len(table) or not (table[-1] > 0 and table[0] <= 1 and (np.diff(table) < 0).all()):
            raise ValueError("alphas_cumprod must be one row of strictly falling values in (0, 1]; give the schedule's")
        self.alphas_cumprod = table
        self._extended = np.concatenate([[1.0], table])

    @classmethod
    def from_betas(cls, betas: Sequence[float] | np.ndarray | Tensor) -> VPPath:
        """The path of a β-schedule, each β in (0, 1)."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas must be one row of values strictly between 0 and 1; give the schedule's")
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
    """Variance-exploding / EDM / k-diffusion: α = 1 and t is σ itself.

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


def _check_steps(steps: int) -> None:
    if steps != int(steps) or steps < 1:
        raise ValueError(f"steps = {steps} must be a whole number, 1 or more")


def uniform_grid(steps: int, start: float = 1.0, end: float = 0.0, shift: float = 1.0) -> list[float]:
    """steps + 1 evenly spaced times from start to end, after which a flow shift may move them (on [0, 1] only)."""
    _check_steps(steps)
    if shift <= 0:
        raise ValueError(f"shift = {shift} must be positive; 1 leaves the grid uniform")
    if shift != 1.0 and (start, end) != (1.0, 0.0):
        raise ValueError("a flow shift is defined on times from 1 to 0; leave shift at 1 elsewhere")
    times = [start + (end - start) * i / steps for i in range(steps + 1)]
    return times if shift == 1.0 else [shift * t / (1 + (shift - 1) * t) for t in times]


def karras_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """steps noise levels from sigma_max down to sigma_min, evenly spaced in σ^(1/ρ), then 0
    (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    _check_steps(steps)
    if not 0 < sigma_min <= sigma_max:
        raise ValueError(f"sigma_min = {sigma_min} and sigma_max = {sigma_max} must satisfy 0 < sigma_min <= sigma_max")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + (low - high) * i / max(steps - 1, 1)) ** rho for i in range(steps)] + [0.0]


def noise_share(path: Path, t: float) -> float:
    """σ_t / (α_t + σ_t) ∈ [0, 1]: the flow time at which a flow has this signal-to-noise ratio, on any path."""
    return path.sigma(t) / (path.alpha(t) + path.sigma(t))


def noisier(path: Path, s: float, t: float) -> bool:
    """Whether there is more noise for the signal at s than at t."""
    return path.alpha(t) * path.sigma(s) > path.alpha(s) * path.sigma(t)


def reverse_kernel(
    path: Path, x_t: Tensor, x0_hat: Tensor, t: float, s: float, eta: float = 1.0
) -> tuple[Tensor, float]:
    """Mean and standard deviation of x_s given x_t, for a step from t to a less noisy s.

        std  = min(σ_s, η σ_s sqrt(1 − (α_t σ_s / (α_s σ_t))²))
        mean = α_s x̂_0 + sqrt(σ_s² − std²) ε̂,   ε̂ = (x_t − α_t x̂_0) / σ_t

    η = 1 is the exact posterior of DDPM (Ho et al. 2020), η = 0 is DDIM (Song et al. 2021, eq. 12) and the Euler step
    of the flow ODE, η = inf is full re-noising, std = σ_s.

    Args:
        path: the Gaussian path.
        x_t: state at t, any shape.
        x0_hat: E[x_0 | x_t], the same shape.
        t, s: times with σ_s/α_s ≤ σ_t/α_t.
        eta: stochasticity ≥ 0.
    Returns:
        mean with x_t's shape, and std as a float.
    Raises:
        ValueError: if s is noisier than t, t has no noise left, or eta is negative.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    if not eta >= 0:
        raise ValueError(f"eta = {eta} must be 0 (deterministic) or more; 1 is the DDPM posterior")
    if sigma_t == 0:
        raise ValueError(f"t = {t} has no noise left to step away from; end the time grid there")
    if alpha_t * sigma_s > alpha_s * sigma_t * (1 + 1e-12):
        raise ValueError(f"s = {s} is noisier than t = {t}; a reverse step goes towards the data")
    kept = alpha_t * sigma_s / (alpha_s * sigma_t) if alpha_s else 0.0
    posterior = sigma_s * math.sqrt(max(0.0, 1 - kept**2))
    std = min(sigma_s, eta * posterior) if posterior else 0.0
    keep = math.sqrt(max(0.0, sigma_s**2 - std**2)) / sigma_t
    # One pass of multiply-adds: α_s x̂_0 + keep (x_t − α_t x̂_0)
    return (alpha_s - keep * alpha_t) * x0_hat + keep * x_t, std


def renoise(path: Path, x_t: Tensor, noise: Tensor, t: float, s: float) -> Tensor:
    """The forward kernel from t up to a noisier s: x_s = (α_s/α_t) x_t + sqrt(σ_s² − (α_s σ_t/α_t)²) ε.

    Args:
        x_t, noise: state at t and standard Gaussian noise, the same shape.
    Raises:
        ValueError: if s is less noisy than t or nothing of x_0 is left at t.
    """
    if path.alpha(t) == 0:
        raise ValueError(f"t = {t} is pure noise already and cannot be made noisier")
    scale = path.alpha(s) / path.alpha(t)
    variance = path.sigma(s) ** 2 - (scale * path.sigma(t)) ** 2
    if variance < -1e-12:
        raise ValueError(f"s = {s} is less noisy than t = {t}; re-noising goes towards the noise")
    return scale * x_t + math.sqrt(max(0.0, variance)) * noise
