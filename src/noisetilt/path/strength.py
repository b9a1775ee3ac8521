"""One option for the strength of noise tilting, which means the same for any event, number of steps and path.

A tilt of share ρ at one step moves the reward by up to sqrt(ρN) of its standard deviations, N numbers an event. But the
gradient hardly turns from step to step, so the injected noises add up: what a path injects is its sum in x_0, after all
kernels that follow. For a mode of data of variance v every kernel is linear, so that

    x_0 = sqrt(v) · Σ_i w_i(v) ε̃_i + …,    w_i(v) = std_i / sqrt(v) · Π_{j>i} A_j(v),    Σ_i w_i² ≈ 1

where A_j is by how much the mean moves when x_t does. The white noise that a path injected in all is Σ_i w_i ε̃_i, of
which Σ_i w_i sqrt(ρ_i) W_i is tilt, and a path of coherent tilts is as strong as a single one of share

    ρ_path = max_v (Σ_i w_i(v) sqrt(ρ_i))²

The greatest v is taken since data have modes of all variances, and the one that adds up most is told from noise first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from .gaussian import Path
from .kernel import noise_fraction, noisier, reverse_kernel

VARIANCES = np.logspace(-4, 4, 65)


def gain_of_best(best_of: float) -> float:
    """Expected reward of the best of K independent pictures, in standard deviations of the reward.

    Blom's approximation of the expected largest of K normal numbers (Blom 1958), within 0.03 for every K; sqrt(2 ln K)
    is its order for large K.

    Args:
        best_of: K ≥ 1; need not be whole, and may be far more than one could draw.
    Raises:
        ValueError: if K is below 1 or not finite.
    """
    if not isinstance(best_of, (int, float)) or not 1 <= best_of < math.inf:
        raise ValueError(f"best_of = {best_of} must be a number of pictures, 1 (no guidance) or more, such as 1e6")
    return float(-special.ndtri(0.625 / (best_of + 0.25)))


def best_of_gain(gain: float) -> float:
    """The K whose best picture is expected `gain` ≥ 0 standard deviations up; the inverse of `gain_of_best`."""
    if not 0 <= gain <= 37:
        raise ValueError(f"gain = {gain} must lie between 0 and 37 standard deviations, where K is still a number")
    return max(1.0, 0.625 / float(special.ndtr(-gain)) - 0.25)


def excess_of_best(best_of: float, numbers: int) -> float:
    """How typical a path of that strength stays: by how many standard deviations of χ²_N its noise's energy exceeds N.

    ‖z‖² of white z is N ± sqrt(2N), and a tilt of gain g adds g². Below about 3 the energy tells nobody.

    Args:
        best_of: K ≥ 1.
        numbers: N ≥ 1, numbers an event.
    """
    return gain_of_best(best_of) ** 2 / math.sqrt(2 * numbers)


def best_of_excess(excess: float, numbers: int) -> float:
    """The K that spends a typicality budget of `excess` ≥ 0 standard deviations; the inverse of `excess_of_best`."""
    if not excess >= 0:
        raise ValueError(f"excess = {excess} must be 0 standard deviations or more; 3 is the edge of typical")
    return best_of_gain(math.sqrt(excess * math.sqrt(2 * numbers)))


@dataclass(frozen=True)
class ReverseProcess:
    """A path, the times a sampler walks on it, and the kernel's stochasticity: what becomes of noise on the way."""

    path: Path
    grid: Sequence[float]
    eta: float = 1.0

    @cached_property
    def weights(self) -> np.ndarray:
        """w_i(v), (variance, step): how much of step i's noise is in the white noise of x_0, for VARIANCES and the
        reverse steps of the grid. Steps up inject noise that nobody tilts; they only dilute."""
        moves = [self._move(t, s) for t, s in itertools.pairwise(self.grid)]
        onwards = np.cumprod([factor for factor, _ in reversed(moves)], axis=0)[::-1]
        after = np.concatenate([onwards[1:], np.ones((1, len(VARIANCES)))])
        kept = [after[i] * std for i, (_, std) in enumerate(moves) if std is not None]
        return np.stack(kept, axis=1) / np.sqrt(VARIANCES)[:, None]

    def _move(self, t: float, s: float) -> tuple[np.ndarray, float | None]:
        """∂mean/∂x_t of the move from t to s for each variance, and the noise it adds, None for a step up."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if noisier(self.path, s, t):
            return np.full(len(VARIANCES), self.path.alpha(s) / alpha), None
        wiener = alpha * VARIANCES / (alpha**2 * VARIANCES + sigma**2)
        return reverse_kernel(self.path, np.ones(len(VARIANCES)), wiener, t, s, self.eta)

    @cached_property
    def times(self) -> list[float]:
        """t of the reverse steps."""
        return [t for t, s in itertools.pairwise(self.grid) if not noisier(self.path, s, t)]

    def accumulated(self, shares: Sequence[float]) -> float:
        """ρ_path of a path that tilts by shares ρ_i ∈ [0, 1], one a reverse step, always in the same direction."""
        return float((self.weights @ np.sqrt(shares)).max() ** 2)

    def rho(self, best_of: float, numbers: int, schedule: Callable[[float], float] = lambda u: 1.0) -> float:
        """ρ of `ρ_t = ρ · schedule(u_t)` with which the whole path is as strong as the best of K.

        Args:
            best_of: K ≥ 1.
            numbers: N ≥ 1, numbers an event.
            schedule: shape in [0, 1] over u = σ/(α + σ); steps where α_t = 0 have no gradient and count nothing.
        Raises:
            ValueError: if even full tilts are weaker.
        """
        blind = [self.path.alpha(t) == 0 for t in self.times]
        shape = [
            0.0 if skip else schedule(noise_fraction(self.path, t)) for t, skip in zip(self.times, blind, strict=True)
        ]
        whole, wanted = self.accumulated(shape), gain_of_best(best_of) ** 2 / numbers
        if wanted > whole:
            most = best_of_gain(min(37.0, math.sqrt(whole * numbers)))
            raise ValueError(
                f"best_of = {best_of:g} is more than these {len(shape)} steps can tilt {numbers} numbers; give at most "
                f"{most:.3g}, or take more steps"
            )
        return wanted / whole if wanted else 0.0
