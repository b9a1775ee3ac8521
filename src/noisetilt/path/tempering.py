"""How strongly the reward counts as sampling goes on."""

from __future__ import annotations


def temper(gamma: float | None, number: int, steps: int) -> float:
    """λ ∈ (0, 1] of step `number` from 1 to `steps`: ((1 + γ)^number − 1) / ((1 + γ)^steps − 1), which ends at 1.

    DAS uses (1 + γ)^number − 1, cut off at 1, with γ = 0.008 for 100 steps (Kim et al. 2025, arXiv 2501.05803);
    divided by its last value it is the same curve and reaches the full reward for any number of steps. None is λ = 1.
    """
    if gamma is None:
        return 1.0
    if gamma <= 0:
        raise ValueError(f"tempering = {gamma} must be positive, or None for none")
    return ((1 + gamma) ** number - 1) / ((1 + gamma) ** steps - 1)
