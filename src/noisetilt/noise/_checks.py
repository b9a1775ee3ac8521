"""Checks at the door of the public functions, and the fixed noise that decides where the input leaves a choice open."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor


def check_batch(x: Tensor, name: str) -> None:
    """Refuse anything but a finite, real, floating-point tensor (batch, *event) with at least two numbers per event."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}, expected a torch tensor; convert it with torch.as_tensor.")
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}, expected a real floating-point one; convert it with .float().")
    if x.ndim < 2 or x[:1].numel() < 2 * (x.shape[0] > 0):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected (batch, *event) with two or more numbers per event;"
            " add a batch axis with x[None] if it is a single vector."
        )
    check_finite(x, name)


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity. Skipped under torch.compile and on the meta device, which have no values to look at."""
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
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}, expected a level strictly between 0 and 1; 1e-4 is the usual choice.")


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype to compute in: float64 stays, everything narrower is computed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class Kept:
    """Where compiled graphs find their constants: tensors that torch.compile meets as attributes are inputs to it."""


KEPT = Kept()
Output = TypeVar("Output")


def constant(function: Callable[..., Output]) -> Callable[..., Output]:
    """Remember what a function of hashable arguments returned, and let torch.compile take it for a constant."""
    remembered = functools.lru_cache(maxsize=64)(function)

    @torch.compiler.assume_constant_result
    def keep(*arguments: Any) -> str:
        name = repr((function.__name__, *arguments)).replace(".", "_")
        setattr(KEPT, name, remembered(*arguments))
        return name

    @functools.wraps(function)
    def answer(*arguments: Any) -> Output:
        return getattr(KEPT, keep(*arguments)) if torch.compiler.is_compiling() else remembered(*arguments)

    return answer


@constant
def fixed_noise(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count,) standard normal numbers, the same on every call, device and dtype (up to its rounding)."""
    generator = torch.Generator("cpu").manual_seed(2602_08646)
    return torch.randn(count, generator=generator, dtype=torch.float64).to(dtype).to(device)
