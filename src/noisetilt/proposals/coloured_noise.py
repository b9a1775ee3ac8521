"""Noise with more power where the image is not yet formed."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._options import check_types
from ..path import Path
from .step import Step


@dataclass(frozen=True)
class ColouredNoise:
    """CNS: x_s = mean + std · n, where n is ε with power β² at each spatial frequency f, and the mean of β² is 1.

    Davidson et al. 2026 (arXiv 2605.30332): β ∝ (1 − γ(f, t)/divider)^power, with the progress γ in [0, 1] of the
    frequency. The paper measures γ = 1 − |X̂_0 − X_0|²/|X_0|² (in the Fourier domain) on deterministic samples of the
    model. Here γ is that of Gaussian images with the power spectrum S(f) ∝ 1/f^decay and unit variance, where it is
    1 − (1 − α√S/√(α²S + σ²))². The paper's further tilt and energy scale, fitted to each model, are left out. It needs
    no reward.

    Args:
        decay: of the spectrum, ≥ 0.
        power: of the remaining part, > 0. The paper uses 0.75 without and 0.5 with classifier-free guidance.
        divider: ≥ 1; larger values are closer to white noise. The paper uses 1.73 without and 25 with guidance.
    """

    decay: float = 2.0
    power: float = 0.75
    divider: float = 1.73
    needs_gradient: ClassVar[bool] = False
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.decay < float("inf"):
            raise ValueError(f"decay = {self.decay} must be 0 (white) or more, such as 2")
        if not 0 < self.power < float("inf"):
            raise ValueError(f"power = {self.power} must be positive")
        if not 1 <= self.divider < float("inf"):
            raise ValueError(f"divider = {self.divider} must be 1 or more")

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * self.coloured(noise, step.path, step.t)

    def coloured(self, noise: Tensor, path: Path, t: float) -> Tensor:
        """n (batch, channel, *space) from white noise of that shape; noise without space, (batch, n), is returned."""
        axes = list(range(2, noise.ndim))
        if not axes:
            return noise
        amplitude = self.amplitude(tuple(noise.shape[2:]), path, t).to(noise.dtype).to(noise.device)
        return torch.fft.irfftn(torch.fft.rfftn(noise, dim=axes) * amplitude, s=noise.shape[2:], dim=axes)

    def amplitude(self, space: tuple[int, ...], path: Path, t: float) -> Tensor:
        """β at each frequency of the real Fourier transform, (*space[:-1], space[-1] // 2 + 1), float64."""
        spectrum, weight = power_spectrum(space, self.decay)
        alpha, sigma = path.alpha(t), path.sigma(t)
        unformed = (1 - alpha * spectrum.sqrt() / (alpha**2 * spectrum + sigma**2).sqrt()).square()
        amplitude = (1 - (1 - unformed) / self.divider).clamp(min=1e-12) ** self.power
        return amplitude / (amplitude.square() * weight).sum().sqrt()


@functools.lru_cache(maxsize=8)
def power_spectrum(space: tuple[int, ...], decay: float) -> tuple[Tensor, Tensor]:
    """S(f) ∝ 1/f^decay at each frequency of the real Fourier transform, with mean 1 over all frequencies, and the
    weight of each frequency in such a mean. Both are (*space[:-1], space[-1] // 2 + 1), float64."""
    squares = [torch.fft.fftfreq(n, dtype=torch.float64, device="cpu").square() for n in space]
    squares[-1] = squares[-1][: space[-1] // 2 + 1]
    total = sum(torch.meshgrid(*squares, indexing="ij"))
    assert isinstance(total, Tensor)
    weight = torch.full_like(total, 2 / math.prod(space))
    weight[..., 0] /= 2
    if space[-1] % 2 == 0:
        weight[..., -1] /= 2
    smallest = total[total > 0].min() if (total > 0).any() else total.new_tensor(1.0)
    spectrum = total.clamp(min=smallest) ** (-decay / 2)
    return spectrum / (spectrum * weight).sum(), weight
