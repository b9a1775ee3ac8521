"""Checks of the arguments of `sample` and `optimize`."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from .._messages import whole_number
from ..path import Path, is_noisier

GradientAt = Literal["x_t", "x0"]


def check_model(model: Any) -> None:
    """Check that an object has the members of a model; see `Model`.

    Raises:
        ValueError: names the first that is missing.
    """
    expected = "a model has denoiser(prompts), path, shape and decode(x_0)"
    kind = model.__name__ if isinstance(model, type) else type(model).__name__
    if isinstance(model, type):
        raise ValueError(f"the model is the class {kind}, expected an object of it; {expected}")
    if isinstance(model, str | os.PathLike):
        raise ValueError(f"the model is the name {str(model)!r}, expected a model; load it with load({str(model)!r})")
    if not hasattr(model, "denoiser") and hasattr(model, "scheduler"):  # a pipeline of diffusers, aligned or not
        raise ValueError(
            f"the model is a pipeline ({kind}), which is guided by align(pipe, reward, method)(prompts); or load its "
            "folder or hub id with load"
        )
    for name in ("denoiser", "path", "shape", "decode"):
        if getattr(model, name, None) is None:
            raise ValueError(f"the model {kind} has no {name}; {expected}")
    missing = [name for name in ("alpha", "sigma", "grid", "prior_std") if not hasattr(model.path, name)]
    if missing:
        raise ValueError(f"the path of the model {kind} has no {missing[0]}; give a path such as FlowPath()")


def check_denoiser(denoiser: Any) -> None:
    """Check that what `denoiser(prompts)` of a model returned can be called and counts its evaluations.

    Raises:
        ValueError: if not.
    """
    if not callable(denoiser) or not hasattr(denoiser, "nfe"):
        kind = type(denoiser).__name__
        raise ValueError(
            f"denoiser(prompts) of the model returned {kind}, expected a function (x_t, t, index) with the attribute "
            "nfe; wrap the network in noisetilt.models.denoiser.Denoiser"
        )


def check_grid(path: Path, grid: Sequence[float]) -> None:
    """Check that a time grid has a step, and that its last step goes towards the data.

    Raises:
        ValueError: if not, if a time is not one of the path, or if a time before the last has no noise.
    """
    if len(grid) < 2:
        raise ValueError(f"grid = {list(grid)} has no step; give at least two times, from noise to data")
    for t in grid:
        levels = (path.alpha(t), path.sigma(t)) if math.isfinite(t) else (math.nan, math.nan)
        # The largest time of consistency models is π/2 rounded up, where α = cos t is slightly negative.
        if not min(levels) > -1e-3:
            raise ValueError(
                f"t = {t} of the time grid is not a time of {type(path).__name__}; give times in its range"
            )
    if is_noisier(path, grid[-1], grid[-2]):
        raise ValueError(
            f"the time grid ends with a step from t = {grid[-2]} to a noisier t = {grid[-1]}; give times from noise to "
            "data"
        )
    for t in grid[:-1]:
        if path.sigma(t) == 0:
            raise ValueError(f"t = {t} has no noise left; end the time grid there")


def check_descending(path: Path, grid: Sequence[float]) -> None:
    """Check that no step of a time grid goes to a noisier time.

    Raises:
        ValueError: if one does.
    """
    for t, s in itertools.pairwise(grid):
        if is_noisier(path, s, t):
            raise ValueError(
                f"the noise level rises from t = {t:g} to t = {s:g}; give sigmas or timesteps in decreasing order of "
                "noise"
            )


def as_prompts(prompts: str | Iterable[str]) -> list[str]:
    """The prompts as a list; a single text is one prompt.

    Raises:
        ValueError: if there is one that is no text.
    """
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise ValueError(f"prompts = {prompts!r} must be a text or a list of texts")
    found = list(prompts)
    for prompt in found:
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt {prompt!r} is no text; give a list of texts, '' for no prompt")
    return found


def as_times(grid: Iterable[float]) -> list[float]:
    """The times of a grid as a list of floats.

    Raises:
        ValueError: if there is one that is no number.
    """
    try:
        return [float(t) for t in grid]
    except (TypeError, ValueError):
        raise ValueError(
            f"grid = {grid!r} must be a list of times from noise to data, such as [1.0, 0.5, 0.0]"
        ) from None


def check_callback(callback: Any) -> None:
    """Check that a callback can be called.

    Raises:
        ValueError: if not.
    """
    if callback is not None and not callable(callback):
        raise ValueError(f"callback = {callback!r} must be a function of the report of a step, or None")


def as_seeds(seeds: Sequence[int] | None, prompts: Sequence[str]) -> list[int]:
    """The seeds as a list; 0, 1, 2, … if None.

    Raises:
        ValueError: if it is a single number.
    """
    if seeds is None:
        return list(range(len(prompts)))
    if not isinstance(seeds, Iterable):
        raise ValueError(f"seeds = {seeds!r} must have one seed per prompt, such as [{seeds!r}]")
    return list(seeds)


def check_chunk(chunk: int) -> int:
    """The rows of a chunk, also of 4.0, as an int.

    Raises:
        ValueError: if it is no whole number ≥ 1.
    """
    return whole_number("chunk", chunk, 1, " rows that are evaluated at a time")


def check_call(prompts: list[str], seeds: list[int], path: Path, grid: list[float], gradient_at: str) -> None:
    """Check the arguments that `sample` and `optimize` share.

    Raises:
        ValueError: if one is invalid.
    """
    if not prompts:
        raise ValueError("prompts is empty; give at least one prompt")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed per prompt")
    check_grid(path, grid)
    if gradient_at not in ("x_t", "x0"):
        raise ValueError(f"gradient_at = {gradient_at!r} must be 'x_t' (through the network) or 'x0'")
