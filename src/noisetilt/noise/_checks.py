"""Checks of the arguments of the public functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def check_batch(x: Tensor, name: str) -> None:
    """Refuse anything but a finite, real, floating-point tensor (batch, *event) with at least two numbers per event."""
    check_shape(x, name)
    check_finite(x, name)


def check_shape(x: Tensor, name: str) -> None:
    """`check_batch` without the check of the values."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}, expected a torch tensor; convert it with torch.as_tensor.")
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}, expected a real floating-point one; convert it with .float().")
    if x.ndim < 2 or x[:1].numel() < 2 * (x.shape[0] > 0):
        remedy = "add a batch axis with x[None] if it is a single vector" if x.ndim < 2 else "give larger events"
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected (batch, *event) with two or more numbers per event; {remedy}."
        )


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity. Skipped under torch.compile and on the meta device, where values do not exist."""
    if torch.compiler.is_compiling() or x.is_meta or x.numel() == 0:
        return
    if not torch.isfinite(x.abs().amax()):
        bad = x.numel() - int(torch.isfinite(x).sum())
        raise ValueError(
            f"{name} holds {bad} values that are NaN or infinite, expected finite numbers;"
            " lower the learning rate or mask them with torch.nan_to_num."
        )


def check_alpha(alpha: float) -> None:
    """Refuse a level outside (0, 1)."""
    if not isinstance(alpha, Real) or not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}, expected a level strictly between 0 and 1; 1e-4 is the usual choice.")


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the computation: float64 for float64, float32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(function: Function) -> Function:
    """The function of a tensor, computed in its own precision also where torch.autocast would choose a lower one."""

    @functools.wraps(function)
    def computed(*arguments: Any, **options: Any) -> Any:
        x = next((value for value in (*arguments, *options.values()) if isinstance(value, Tensor)), None)
        if x is None or x.is_meta or not torch.is_autocast_enabled(x.device.type):
            return function(*arguments, **options)
        with torch.autocast(x.device.type, enabled=False):
            return function(*arguments, **options)

    return computed  # type: ignore[return-value]
