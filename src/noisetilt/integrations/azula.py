"""Denoisers of Azula (PyPI azula, github.com/probabilists/azula) as models for `sample` and `optimize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.denoiser import Denoiser
from ..path import uniform_grid


@dataclass(frozen=True)
class AzulaPath:
    """The Gaussian path of an Azula noise schedule, t ↦ (α_t, σ_t), with times from `start` to `stop`."""

    schedule: Callable[[Tensor], tuple[Tensor, Tensor]]
    start: float = 1.0
    stop: float = 0.0

    def alpha(self, t: float) -> float:
        return float(self.schedule(torch.tensor(t, dtype=torch.float64))[0])

    def sigma(self, t: float) -> float:
        return float(self.schedule(torch.tensor(t, dtype=torch.float64))[1])

    def prior_std(self, t: float) -> float:
        return float((self.alpha(t) ** 2 + self.sigma(t) ** 2) ** 0.5)

    def grid(self, steps: int) -> list[float]:
        return uniform_grid(steps, start=self.start, end=self.stop)


@dataclass
class AzulaModel:
    """A model for `sample` from an Azula denoiser, whose posterior's mean is x̂_0.

    Args:
        denoiser_module: an azula.denoise.Denoiser.
        shape: of one state.
        decode: images in [0, 1] from states (batch, *shape), differentiable; from [-1, 1] by default.
        conditioning: prompts → keyword arguments of the denoiser, tensors with one row per prompt; none by default.
        start, stop: first and last time, as of Azula's samplers.
    """

    denoiser_module: Any
    shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor] = lambda x_0: x_0 / 2 + 0.5
    conditioning: Callable[[Sequence[str]], dict[str, Any]] = lambda prompts: {}
    start: float = 1.0
    stop: float = 0.0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        self.path = AzulaPath(self.denoiser_module.schedule, self.start, self.stop)

    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0(x_t, t, index) for these prompts."""
        given = self.conditioning(prompts)

        def mean(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            rows = {name: value[index] if torch.is_tensor(value) else value for name, value in given.items()}
            return self.denoiser_module(x_t, x_t.new_tensor(t), **rows).mean

        return Denoiser(self.path, mean)
