"""Time grids: the times at which a sampler evaluates the network, from noise to data."""

from __future__ import annotations

from .._messages import whole_number

MAX_STEPS = 100_000


def check_steps(steps: int) -> int:
    """The number of steps, also of 25.0, as an int.

    Raises:
        ValueError: if it is no whole number from 1 to MAX_STEPS.
    """
    number = whole_number("steps", steps, 1)
    if number > MAX_STEPS:
        raise ValueError(f"steps = {steps} must be at most {MAX_STEPS}")
    return number


def uniform_grid(steps: int, start: float = 1.0, end: float = 0.0, shift: float = 1.0) -> list[float]:
    """steps + 1 evenly spaced times from start to end, with an optional flow shift (times from 1 to 0 only)."""
    steps = check_steps(steps)
    if shift <= 0:
        raise ValueError(f"shift = {shift} must be positive; 1 leaves the grid uniform")
    if shift != 1.0 and (start, end) != (1.0, 0.0):
        raise ValueError(f"shift = {shift} is defined for times from 1 to 0 only; use shift = 1 for other times")
    times = [start + (end - start) * i / steps for i in range(steps + 1)]
    return times if shift == 1.0 else [shift * t / (1 + (shift - 1) * t) for t in times]


def karras_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """steps noise levels from sigma_max down to sigma_min, evenly spaced in σ^(1/ρ), then 0
    (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    steps = check_steps(steps)
    if not 0 < sigma_min <= sigma_max:
        raise ValueError(f"sigma_min = {sigma_min} and sigma_max = {sigma_max} must satisfy 0 < sigma_min <= sigma_max")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + (low - high) * i / max(steps - 1, 1)) ** rho for i in range(steps)] + [0.0]
