"""Cached constants that work under torch.compile, and the fixed noise that resolves ties."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CompiledConstants:
    """A namespace for constants of compiled graphs: torch.compile treats tensors that are attributes as inputs."""


COMPILED_CONSTANTS = CompiledConstants()
CACHES: list[Any] = []


def releasable(cached: Any) -> Any:
    """A function with functools.lru_cache, which `clear_cache` empties too."""
    CACHES.append(cached)
    return cached


def constant(function: Callable) -> Callable:
    """Cache a function of hashable arguments, and let torch.compile treat its result as a constant.

    Tensors on the device "meta" hold no numbers, and may belong to a mode that is over; they are not cached.
    """
    cached = releasable(functools.lru_cache(maxsize=64)(function))

    def register(*arguments) -> str:
        name = repr((function.__name__, *arguments)).replace(".", "_")
        setattr(COMPILED_CONSTANTS, name, cached(*arguments))
        return name

    # torch.compiler.assume_constant_result sets this attribute and imports torch._dynamo, which takes as long as torch.
    register._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @functools.wraps(function)
    def wrapper(*arguments):
        if torch.compiler.is_compiling():
            return getattr(COMPILED_CONSTANTS, register(*arguments))
        if any(isinstance(argument, torch.device) and argument.type == "meta" for argument in arguments):
            return function(*arguments)
        return cached(*arguments)

    return wrapper


def clear_cache() -> None:
    """Release the constants that W, the audit and the projections keep for each shape, device and dtype.

    They take about 45 bytes per number of an event of each recent shape, on its device. They are computed again when
    they are needed. Constants of graphs that torch.compile made are kept.
    """
    for cached in CACHES:
        cached.cache_clear()


@constant
def fixed_noise(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count,) standard normal numbers, the same for every call, device and dtype (up to rounding)."""
    generator = torch.Generator("cpu").manual_seed(2602_08646)
    return torch.randn(count, generator=generator, dtype=torch.float64, device="cpu").to(dtype).to(device)
