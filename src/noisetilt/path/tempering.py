"""Tempering of the reward during sampling."""

from __future__ import annotations

import math


def check_tempering(gamma: float | None) -> None:
    """Raises a ValueError unless γ is positive or None."""
    if gamma is not None and not 0 < gamma < math.inf:
        raise ValueError(f"tempering = {gamma} must be positive, such as 0.008, or None for no tempering")


def temper(gamma: float | None, number: int, steps: int) -> float:
    """λ ∈ (0, 1] of step `number` from 1 to `steps`: ((1 + γ)^number − 1) / ((1 + γ)^steps − 1).

    DAS uses (1 + γ)^number − 1, clipped at 1, with γ = 0.008 for 100 steps (Kim et al. 2025, arXiv 2501.05803).
    Division by the last value gives λ = 1 at the last step for any number of steps. γ = None gives λ = 1 always.
    """
    check_tempering(gamma)
    if gamma is None:
        return 1.0
    rate = math.log1p(gamma)
    # The quotient of expm1(number · rate) and expm1(steps · rate), which neither overflows nor loses small γ.
    return math.exp((number - steps) * rate) * math.expm1(-number * rate) / math.expm1(-steps * rate)
