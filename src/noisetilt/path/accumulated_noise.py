"""The noise that a path has injected so far, as it stands in the state: what a tilt has to fit into."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from .gaussian import Path
from .kernel import reverse_kernel


@dataclass(frozen=True)
class AccumulatedNoise:
    """Σ_i A_{i→t} std_i ε̃_i for each particle, and the variance that it has where the ε̃_i are white and independent.

    A_{i→t} is by how much the kernels between scale a mode of data of variance 1. Divided by the root of the variance
    it is a standard normal vector under the pretrained kernel, though not under a tilt that hardly turns: each ε̃_i may
    be typical, and their sum is not.

    Args:
        noise: (batch, *event).
        variance: ≥ 0; 0 before the first step.
    """

    noise: Tensor
    variance: float = 0.0

    def propagated(self, path: Path, t: float, s: float, eta: float) -> AccumulatedNoise:
        """As it stands after the kernel's mean from t to s: scaled."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        factor = float(reverse_kernel(path, 1.0, alpha / (alpha**2 + sigma**2), t, s, eta)[0])
        return AccumulatedNoise(factor * self.noise, factor**2 * self.variance)

    def add(self, noise: Tensor, std: float) -> AccumulatedNoise:
        """And std · ε̃ injected, of which `noise` (batch, *event) is all."""
        return AccumulatedNoise(self.noise + noise, self.variance + std**2)

    def noise_for(self, whole: Tensor, std: float) -> Tensor:
        """The ε̃ with which the whole, in units of its standard deviation, becomes this one: the inverse of `mixed`."""
        return (math.sqrt(self.variance + std**2) * whole - self.noise) / std

    def total_with(self, wanted: Tensor, std: float) -> Tensor:
        """The whole with std · wanted injected, in units of its standard deviation."""
        return (self.noise + std * wanted) / math.sqrt(self.variance + std**2)

    def rows(self, index: Tensor) -> AccumulatedNoise:
        """Of some of the particles."""
        return replace(self, noise=self.noise[index])
