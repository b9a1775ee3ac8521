"""Cached constants that work under torch.compile, and the fixed noise that resolves ties."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class CompiledConstants:
    """A namespace for constants of compiled graphs: torch.compile treats tensors that are attributes as inputs."""


COMPILED_CONSTANTS = CompiledConstants()


def constant(function: Callable) -> Callable:
    """Cache a function of hashable arguments, and let torch.compile treat its result as a constant."""
    cached = functools.lru_cache(maxsize=64)(function)

    @torch.compiler.assume_constant_result
    def register(*arguments) -> str:
        name = repr((function.__name__, *arguments)).replace(".", "_")
        setattr(COMPILED_CONSTANTS, name, cached(*arguments))
        return name

    @functools.wraps(function)
    def wrapper(*arguments):
        return (
            getattr(COMPILED_CONSTANTS, register(*arguments)) if torch.compiler.is_compiling() else cached(*arguments)
        )

    return wrapper


@constant
def fixed_noise(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count,) standard normal numbers, the same for every call, device and dtype (up to rounding)."""
    generator = torch.Generator("cpu").manual_seed(2602_08646)
    return torch.randn(count, generator=generator, dtype=torch.float64, device="cpu").to(dtype).to(device)
