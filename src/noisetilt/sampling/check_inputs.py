"""Checks of the arguments of `sample` and `optimize`."""

from __future__ import annotations

from typing import Literal

GradientAt = Literal["x_t", "x0"]


def check_call(prompts: list[str], seeds: list[int], grid: list[float], gradient_at: str, chunk: int) -> None:
    """Check the arguments that `sample` and `optimize` share.

    Raises:
        ValueError: if one is invalid.
    """
    if not prompts:
        raise ValueError("prompts is empty; give at least one prompt")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed per prompt")
    if len(grid) < 2:
        raise ValueError(f"grid = {grid} has no step; give at least two times, from noise to data")
    if gradient_at not in ("x_t", "x0"):
        raise ValueError(f"gradient_at = {gradient_at!r} must be 'x_t' (through the network) or 'x0'")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk} must be 1 or more rows per network call")
