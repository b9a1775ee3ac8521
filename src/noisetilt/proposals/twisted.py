"""The proposal of tempered sequential Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._options import check_types
from ..path import state_scale
from ..path.tempering import check_tempering, temper
from .step import Step


@dataclass(frozen=True)
class TwistedShift:
    """DAS: x_s = mean + std² · (λ/τ) ∇_{x_t} r(x̂_0) + std · ε (Kim et al. 2025, arXiv 2501.05803; after the
    twisted diffusion sampler, Wu et al. 2023, arXiv 2306.17775).

    The first-order approximation of the kernel tilted by exp(λ r/τ); SMC's weights correct its error. It takes the
    gradient at x_t for that at x_s, which depends on the coordinates: on variance-exploding paths x is that of the
    variance-preserving path of the same noise levels (`path.state_scale`), as published.

    Args:
        temperature: τ > 0 of the target p(x) exp(r(x)/τ).
        tempering: γ of λ, see `tempering.temper`; None gives λ = 1.
    """

    temperature: float = 1.0
    tempering: float | None = 0.008
    needs_gradient: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be positive, such as 1.0")
        check_tempering(self.tempering)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        strength = temper(self.tempering, step.number, step.steps) / self.temperature
        rate = step.std**2 * strength / state_scale(step.path, step.s)
        return step.mean + step.std * noise + rate * step.preserving_gradient
