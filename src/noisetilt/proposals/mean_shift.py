"""Guidance by a shift of the kernel's mean along the reward's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._options import check_types
from ..noise.whitening import to_unit_rms
from .step import Step


def check_scale(scale: float, name: str = "scale") -> None:
    """Refuse a negative guidance strength."""
    if not scale >= 0:
        raise ValueError(f"{name} = {scale} must be 0 or more; negate the reward to minimise it")


def check_count(count: int, name: str, least: int) -> None:
    """Refuse a number below `least`."""
    if count < least:
        raise ValueError(f"{name} = {count} must be {least} or more")


@dataclass(frozen=True)
class MeanShift:
    """DPS: x_s = mean + std · ε + scale · ∇_{x_t} r(x̂_0) (Chung et al. 2023, arXiv 2209.14687, algorithm 1).

    The standardised perturbation is ε plus a deterministic part, hence not N(0, I): quality drops as the scale grows.

    Args:
        scale: step size ≥ 0, in units of x_t per unit of reward gradient; on variance-exploding paths, whose x_t is
            larger, the same scale guides less. For the reward −‖y − A(x̂_0)‖ it is the `scale` of the paper's code, and
            2ζ' of the paper, whose step ζ'/‖y − A(x̂_0)‖ multiplies the gradient of the squared norm (ζ' = 0.3 to 1, for
            images in [−1, 1]).
    """

    scale: float = 1.0
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        check_scale(self.scale)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * noise + self.scale * step.gradient


@dataclass(frozen=True)
class NormalisedMeanShift:
    """FreeDoM: a shift whose norm is `scale` times that of the kernel's noise (Yu et al. 2023, arXiv 2303.09833).

    x_s = mean + std · (ε + scale · sqrt(N) · g/‖g‖), g = ∇_{x_t} r(x̂_0). The paper's code uses a fraction
    of the classifier-free guidance correction instead, which not every model has.

    Args:
        scale: norm of the shift relative to the noise, ≥ 0; the paper's code uses 0.2 of the correction.
    """

    scale: float = 0.2
    needs_gradient: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        check_scale(self.scale)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        return step.mean + step.std * (noise + self.scale * to_unit_rms(step.gradient))
