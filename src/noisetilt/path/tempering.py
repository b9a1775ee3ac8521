"""Tempering of the reward during sampling."""

from __future__ import annotations


def temper(gamma: float | None, number: int, steps: int) -> float:
    """λ ∈ (0, 1] of step `number` from 1 to `steps`: ((1 + γ)^number − 1) / ((1 + γ)^steps − 1).

    DAS uses (1 + γ)^number − 1, clipped at 1, with γ = 0.008 for 100 steps (Kim et al. 2025, arXiv 2501.05803).
    Division by the last value gives λ = 1 at the last step for any number of steps. γ = None gives λ = 1 always.
    """
    if gamma is None:
        return 1.0
    if gamma <= 0:
        raise ValueError(f"tempering = {gamma} must be positive, or None for no tempering")
    return ((1 + gamma) ** number - 1) / ((1 + gamma) ** steps - 1)
