"""Statistics in float64, and operations that not every device has."""

from __future__ import annotations

from torch import Tensor

WITHOUT = ("mps",)


def with_all_operations(x: Tensor) -> Tensor:
    """x on its device, or on the CPU if the device, such as Apple's GPU, lacks float64 and some operations."""
    return x.cpu() if x.device.type in WITHOUT else x


def as_float64(x: Tensor) -> Tensor:
    """x in float64, on its device or on the CPU (`with_all_operations`)."""
    return with_all_operations(x).double()
