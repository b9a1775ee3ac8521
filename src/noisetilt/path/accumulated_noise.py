"""The noise that all steps so far have injected, at its present scale in the state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from .gaussian import Path
from .kernel import reverse_kernel


@dataclass(frozen=True)
class AccumulatedNoise:
    """Σ_i A_{i→t} std_i ε̃_i for each particle, and its variance if the ε̃_i are white and independent.

    A_{i→t} is the factor by which the kernels from step i to t scale a mode of data of variance 1. Under the
    pretrained kernel, noise / sqrt(variance) is standard normal. Under a tilt whose direction hardly changes it is not:
    each ε̃_i can be typical while their sum is atypical.

    Args:
        noise: the sum, (batch, *event).
        variance: ≥ 0; 0 before the first step.
    """

    noise: Tensor
    variance: float = 0.0

    def propagate(self, path: Path, t: float, s: float, eta: float) -> AccumulatedNoise:
        """The accumulated noise after the kernel's mean from t to s, which scales it."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        factor = float(reverse_kernel(path, 1.0, alpha / (alpha**2 + sigma**2), t, s, eta)[0])
        return AccumulatedNoise(factor * self.noise, factor**2 * self.variance)

    def add(self, noise: Tensor, std: float) -> AccumulatedNoise:
        """The accumulated noise after a step injects `noise` = std · ε̃ (batch, *event)."""
        return AccumulatedNoise(self.noise + noise, self.variance + std**2)

    def step_noise(self, total: Tensor, std: float) -> Tensor:
        """The ε̃ of a step that makes the standardised accumulated noise equal `total`; inverse of `total_with`."""
        return (math.sqrt(self.variance + std**2) * total - self.noise) / std

    def total_with(self, step_noise: Tensor, std: float) -> Tensor:
        """The standardised accumulated noise after a step injects std · step_noise."""
        return (self.noise + std * step_noise) / math.sqrt(self.variance + std**2)

    def rows(self, index: Tensor) -> AccumulatedNoise:
        """The accumulated noise of the particles with these indices."""
        return replace(self, noise=self.noise[index])
