"""The strength of noise tilting over a whole path, comparable between event sizes, numbers of steps and paths.

A tilt with fraction ρ at one step moves the reward by up to sqrt(ρN) of its standard deviations, for events of N
numbers. The gradient hardly changes direction between steps, so the injected tilts add up in x_0. For a mode of data of
variance v every kernel is linear, so that

    x_0 = sqrt(v) · Σ_i w_i(v) ε̃_i + …,    w_i(v) = std_i / sqrt(v) · Π_{j>i} A_j(v),    Σ_i w_i² ≈ 1

where A_j is the derivative of step j's mean with respect to its input. The noise injected in all is Σ_i w_i ε̃_i, of
which Σ_i w_i sqrt(ρ_i) W_i is tilt. Tilts in a constant direction are together as strong as one tilt with fraction

    ρ_path = max_v (Σ_i w_i(v) sqrt(ρ_i))²

The maximum over v is taken because data have modes of all variances; the mode with the largest sum is detectable first.
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
from .kernel import is_noisier, noise_fraction, reverse_kernel, signal_ratio, step_eta

VARIANCES = np.logspace(-4, 4, 65)


def gain_of_best(best_of: float) -> float:
    """Expected reward of the best of K independent samples, in standard deviations of the reward.

    Blom's approximation of the expected largest of K normal numbers (Blom 1958), within 0.03 for every K; sqrt(2 ln K)
    is its order for large K.

    Args:
        best_of: K ≥ 1; any real number, also far more than could be sampled.
    Raises:
        ValueError: if K is below 1 or not finite.
    """
    if not isinstance(best_of, (int, float)) or not 1 <= best_of < math.inf:
        raise ValueError(f"best_of = {best_of} must be a finite number, 1 (no guidance) or more, such as 1e6")
    return float(-special.ndtri(0.625 / (best_of + 0.25)))


def best_of_gain(gain: float) -> float:
    """The K with expected best reward `gain` ≥ 0 standard deviations above the mean; inverse of `gain_of_best`."""
    if not 0 <= gain <= 37:
        raise ValueError(f"gain = {gain} must be between 0 and 37 standard deviations, for which K is finite")
    return max(1.0, 0.625 / float(special.ndtr(-gain)) - 0.25)


def excess_of_best(best_of: float, size: int) -> float:
    """The excess energy of the noise at that strength, in standard deviations of χ²_N.

    ‖z‖² of white z is N ± sqrt(2N), and a tilt of gain g adds g². Below about 3 the excess is not detectable.

    Args:
        best_of: K ≥ 1.
        size: N ≥ 1, numbers per event.
    """
    return gain_of_best(best_of) ** 2 / math.sqrt(2 * size)


def best_of_excess(excess: float, size: int) -> float:
    """The K whose noise has an excess energy of `excess` ≥ 0 standard deviations; inverse of `excess_of_best`."""
    if not excess >= 0:
        raise ValueError(f"excess = {excess} must be 0 standard deviations or more; up to 3 is typical")
    return best_of_gain(math.sqrt(excess * math.sqrt(2 * size)))


@dataclass(frozen=True)
class ReverseProcess:
    """A path, a time grid and the kernel's stochasticity η, which determine how injected noise reaches x_0.

    `chosen_start` says that the initial noise was chosen for its image, and that the first step keeps it (`step_eta`).
    """

    path: Path
    grid: Sequence[float]
    eta: float = 1.0
    chosen_start: bool = False

    @cached_property
    def weights(self) -> np.ndarray:
        """w_i(v), (variance, step): the coefficient of step i's noise in the white noise of x_0, for VARIANCES and the
        reverse steps of the grid. Re-noising steps have no column: their noise is not tilted."""
        steps, number = [], 0
        for t, s in itertools.pairwise(self.grid):
            number += not is_noisier(self.path, s, t)
            eta = step_eta(self.eta, keep_noise=self.chosen_start and number == 1)
            steps.append(self._linear_step(t, s, eta))
        products = np.cumprod([factor for factor, _ in reversed(steps)], axis=0)[::-1]
        after = np.concatenate([products[1:], np.ones((1, len(VARIANCES)))])
        weights = [after[i] * std for i, (_, std) in enumerate(steps) if std is not None]
        return np.stack(weights, axis=1) / np.sqrt(VARIANCES)[:, None]

    def _linear_step(self, t: float, s: float, eta: float) -> tuple[np.ndarray, float | None]:
        """∂mean/∂x_t of the step from t to s for each variance, and its std; None for a re-noising step."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if is_noisier(self.path, s, t):
            return np.full(len(VARIANCES), self.path.alpha(s) / alpha), None
        wiener = alpha * VARIANCES / (alpha**2 * VARIANCES + sigma**2)
        return reverse_kernel(self.path, np.ones(len(VARIANCES)), wiener, t, s, eta)

    @cached_property
    def times(self) -> list[float]:
        """t of the reverse steps."""
        return [t for t, s in itertools.pairwise(self.grid) if not is_noisier(self.path, s, t)]

    @cached_property
    def mean_signal_ratio(self) -> float:
        """Mean of ᾱ_t/ᾱ_s (`signal_ratio`) over the reverse steps; a step that is repeated counts once."""
        steps = {(t, s) for t, s in itertools.pairwise(self.grid) if not is_noisier(self.path, s, t)}
        return sum(signal_ratio(self.path, t, s) for t, s in steps) / len(steps)

    @cached_property
    def noise_fractions(self) -> list[float | None]:
        """u = σ/(α + σ) of the reverse steps; None where α = 0, where there is no gradient."""
        return [noise_fraction(self.path, t) if self.path.alpha(t) > 0 else None for t in self.times]

    def path_rho(self, fractions: Sequence[float]) -> float:
        """ρ_path of tilts with fractions ρ_i ∈ [0, 1], one per reverse step, all in the same direction."""
        return float((self.weights @ np.sqrt(fractions)).max() ** 2)

    def rho(self, best_of: float, size: int, schedule: Callable[[float], float] = lambda u: 1.0) -> float:
        """The ρ in ρ_t = ρ · schedule(u_t) at which the whole path is as strong as the best of K.

        Args:
            best_of: K ≥ 1.
            size: N ≥ 1, numbers per event.
            schedule: function of u = σ/(α + σ) with values in [0, 1]. Steps with α_t = 0 have no gradient and are
                ignored.
        Raises:
            ValueError: if even tilts with ρ = 1 are weaker.
        """
        shape = [0.0 if fraction is None else schedule(fraction) for fraction in self.noise_fractions]
        maximum, required = self.path_rho(shape), gain_of_best(best_of) ** 2 / size
        if required > maximum:
            largest = best_of_gain(min(37.0, math.sqrt(maximum * size)))
            raise ValueError(
                f"best_of = {best_of:g} is too strong for {len(shape)} steps and events of {size} numbers; give at "
                f"most {largest:.3g}, or take more steps"
            )
        return required / maximum if required else 0.0
